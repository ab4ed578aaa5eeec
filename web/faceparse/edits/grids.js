// Numbers on a grid, { values, width, height, channels } with the channels of a cell side by side: averaging, filtering
// by windows and enlarging, as masks/reduced.py does it.

export function grid(width, height, channels = 1) {
  return { values: new Float32Array(width * height * channels), width, height, channels };
}

/** Averages over squares of `factor` cells, at the end over what is there of them. */
export function averaged(source, factor) {
  if (factor === 1) return source;
  const { width, height, channels, values } = source;
  const result = grid(Math.ceil(width / factor), Math.ceil(height / factor), channels);
  for (let y = 0; y < height; y++) {
    const row = Math.floor(y / factor) * result.width;
    for (let x = 0, at = y * width * channels; x < width; x++) {
      const to = (row + Math.floor(x / factor)) * channels;
      for (let channel = 0; channel < channels; channel++, at++) result.values[to + channel] += values[at];
    }
  }
  for (let y = 0, to = 0; y < result.height; y++) {
    const rows = Math.min(factor, height - y * factor);
    for (let x = 0; x < result.width; x++) {
      const scale = 1 / (rows * Math.min(factor, width - x * factor));
      for (let channel = 0; channel < channels; channel++, to++) result.values[to] *= scale;
    }
  }
  return result;
}

/** The mean over a square of `radius` cells to each side, of what is inside of the grid. */
export function boxMean(source, radius) {
  const across = slidingMean(source, radius, source.channels, source.width, source.width * source.channels, source.height);
  return slidingMean(across, radius, source.width * source.channels, source.height, source.channels, source.width);
}

/** Along one axis: `count` cells, `step` numbers apart; `lines` such lines, which begin `next` numbers apart. */
function slidingMean(source, radius, step, count, next, lines) {
  const { width, height, channels, values } = source;
  const result = grid(width, height, channels);
  for (let line = 0; line < lines; line++) {
    for (let channel = 0; channel < channels; channel++) {
      const start = line * next + channel;
      let sum = 0;
      for (let i = 0; i < Math.min(radius, count); i++) sum += values[start + i * step];
      for (let i = 0; i < count; i++) {
        if (i + radius < count) sum += values[start + (i + radius) * step];
        if (i > radius) sum -= values[start + (i - radius - 1) * step];
        result.values[start + i * step] = sum / (Math.min(i + radius, count - 1) - Math.max(i - radius, 0) + 1);
      }
    }
  }
  return result;
}

/** The mean of each channel over the whole grid. */
export function meanOf({ values, channels }) {
  const sums = new Float64Array(channels);
  for (let i = 0; i < values.length; i++) sums[i % channels] += values[i];
  return sums.map((sum) => (sum * channels) / values.length);
}

/**
 * Which two cells along an axis of `cells` lie about each of `count` pixels, and the share of the second; a cell is
 * `pixels` wide. The border is repeated.
 */
export function between(count, cells, pixels) {
  const [first, second, share] = [new Int32Array(count), new Int32Array(count), new Float32Array(count)];
  for (let i = 0; i < count; i++) {
    const place = Math.min(Math.max((i + 0.5) / pixels - 0.5, 0), cells - 1);
    first[i] = Math.floor(place);
    second[i] = Math.min(first[i] + 1, cells - 1);
    share[i] = place - first[i];
  }
  return { first, second, share };
}

/** The grid at another size, bilinear; one of its cells covers `across` by `down` of the new ones. */
export function enlarged(source, width, height, across = width / source.width, down = height / source.height) {
  const result = grid(width, height, source.channels);
  const line = width * source.channels;
  for (const { y, row } of rowsOf(source, width, height, across, down)) result.values.set(row, y * line);
  return result;
}

/** The rows of `enlarged` one after the other, { y, row }; `row` is written anew for each. */
export function* rowsOf(source, width, height, across, down) {
  const { values, channels } = source;
  const x = between(width, source.width, across);
  const y = between(height, source.height, down);
  const row = new Float32Array(width * channels);
  const mixed = new Float32Array(source.width * channels); // the two rows of cells, before pixels are told from them
  for (let top = 0; top < height; top++) {
    const upper = y.first[top] * mixed.length;
    const lower = y.second[top] * mixed.length;
    for (let i = 0; i < mixed.length; i++) {
      mixed[i] = values[upper + i] + (values[lower + i] - values[upper + i]) * y.share[top];
    }
    for (let left = 0, at = 0; left < width; left++) {
      const from = x.first[left] * channels;
      const to = x.second[left] * channels;
      const share = x.share[left];
      for (let channel = 0; channel < channels; channel++, at++) {
        row[at] = mixed[from + channel] + (mixed[to + channel] - mixed[from + channel]) * share;
      }
    }
    yield { y: top, row };
  }
}

/** The box about what is at least `least`, with `margin` more, inside of the picture; null if there is nothing. */
export function boxOf(mask, width, height, margin = 0, least = 1) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!(mask[at] && mask[at] >= least)) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  if (right < 0) return null;
  [left, top] = [Math.max(0, left - margin), Math.max(0, top - margin)];
  [right, bottom] = [Math.min(width, right + 1 + margin), Math.min(height, bottom + 1 + margin)];
  return { left, top, width: right - left, height: bottom - top };
}

/**
 * How far each cell is from the nearest that is `inside`, in cells, squared; Infinity where none is. Exact
 * (Felzenszwalb & Huttenlocher 2012).
 */
export function distances(inside, width, height) {
  const result = new Float32Array(width * height);
  for (let i = 0; i < result.length; i++) result[i] = inside[i] ? 0 : Infinity;
  const longest = Math.max(width, height);
  const [line, places, bounds] = [new Float64Array(longest), new Int32Array(longest), new Float64Array(longest + 1)];
  const along = (start, step, count) => {
    let last = -1; // of the parabolas that are lowest somewhere
    for (let i = 0; i < count; i++) {
      line[i] = result[start + i * step];
      if (line[i] === Infinity) continue;
      let from = -Infinity;
      while (last >= 0) {
        const other = places[last];
        from = (line[i] + i * i - line[other] - other * other) / (2 * (i - other));
        if (from > bounds[last]) break;
        last--;
      }
      places[++last] = i;
      bounds[last] = last ? from : -Infinity;
    }
    for (let i = 0, now = 0; i < count && last >= 0; i++) {
      while (now < last && bounds[now + 1] < i) now++;
      result[start + i * step] = (i - places[now]) ** 2 + line[places[now]];
    }
  };
  for (let x = 0; x < width; x++) along(x, width, height);
  for (let y = 0; y < height; y++) along(y * width, 1, width);
  return result;
}
