// Labels and masks of any size from the small logits: bilinear between the centres of their cells
// (align_corners=False), as parsing.py renders them, but without upsampling 19 maps.
//
// Between four neighbouring cells a logit is a weighted mean of its four values. A label that another one beats at all
// four corners is therefore beaten everywhere between them, and need not be looked at: most cells have one label left,
// and are filled; at borders two or three are interpolated. The result is exact.

// Logits that lie so far below the greatest share less than half of a grey level of a mask among all of them.
const NEGLIGIBLE = 9.2;

/** The logits of one picture, and where their window lies in it. */
export class Rendering {
  /** `logits`: Float32Array [labels, rows, columns]; `window` and the picture's size in pixels, see `frameOf`. */
  constructor(logits, [labels, rows, columns], window, width, height) {
    Object.assign(this, { labels, rows, columns, window, width, height });
    this.cells = new Float32Array(logits.length); // [rows, columns, labels]: those of a cell lie together
    const plane = rows * columns;
    for (let label = 0; label < labels; label++) {
      for (let cell = 0; cell < plane; cell++) this.cells[cell * labels + label] = logits[label * plane + cell];
    }
  }

  /** The most likely label of each pixel, Uint8Array [height, width]; the size is the picture's unless it is given. */
  labelMap(width = this.width, height = this.height) {
    const map = new Uint8Array(width * height);
    const kept = new Uint8Array(this.labels);
    this.#blocks(width, height, (block) => {
      const count = this.#rivals(block.corners, kept, 0);
      if (count === 1) {
        for (let y = block.top; y < block.bottom; y++)
          map.fill(kept[0], y * width + block.left, y * width + block.right);
        return;
      }
      this.#pixels(
        block,
        (at, a, b, c, d) => {
          let best = 0;
          let greatest = -Infinity;
          for (let i = 0; i < count; i++) {
            const value = this.#mix(block.corners, kept[i], a, b, c, d);
            if (value > greatest) [greatest, best] = [value, kept[i]];
          }
          map[at] = best;
        },
        width,
      );
    });
    return map;
  }

  /**
   * The mask of these labels, Uint8Array [height, width]. Hard: 0 or 255 by the most likely label. Soft: their summed
   * probabilities, 0 to 255.
   */
  mask(ids, { soft = true, width = this.width, height = this.height } = {}) {
    const inside = new Uint8Array(this.labels);
    for (const id of ids) inside[id] = 255;
    if (!soft) return this.labelMap(width, height).map((label) => inside[label]);
    const mask = new Uint8Array(width * height);
    const kept = new Uint8Array(this.labels);
    this.#blocks(width, height, (block) => {
      const count = this.#rivals(block.corners, kept, NEGLIGIBLE);
      const sides = kept.subarray(0, count).reduce((sum, label) => sum + (inside[label] ? 1 : 0), 0);
      if (sides === 0) return;
      if (sides === count) {
        for (let y = block.top; y < block.bottom; y++) mask.fill(255, y * width + block.left, y * width + block.right);
        return;
      }
      const values = new Float32Array(count);
      this.#pixels(
        block,
        (at, a, b, c, d) => {
          let greatest = -Infinity;
          for (let i = 0; i < count; i++) {
            values[i] = this.#mix(block.corners, kept[i], a, b, c, d);
            if (values[i] > greatest) greatest = values[i];
          }
          let sum = 0;
          let chosen = 0;
          for (let i = 0; i < count; i++) {
            const share = Math.exp(values[i] - greatest);
            sum += share;
            if (inside[kept[i]]) chosen += share;
          }
          mask[at] = Math.round((255 * chosen) / sum);
        },
        width,
      );
    });
    return mask;
  }

  /** Calls `paint` for each rectangle of pixels that lies between the same four cells. */
  #blocks(width, height, paint) {
    const across = runs(
      width,
      (this.window.x * width) / this.width,
      (this.window.width * width) / this.width,
      this.columns,
    );
    const down = runs(
      height,
      (this.window.y * height) / this.height,
      (this.window.height * height) / this.height,
      this.rows,
    );
    const cell = (row, column) => (row * this.columns + column) * this.labels;
    for (const vertical of down) {
      for (const horizontal of across) {
        paint({
          corners: [
            cell(vertical.first, horizontal.first),
            cell(vertical.first, horizontal.second),
            cell(vertical.second, horizontal.first),
            cell(vertical.second, horizontal.second),
          ],
          top: vertical.start,
          bottom: vertical.end,
          left: horizontal.start,
          right: horizontal.end,
          down: vertical.shares,
          across: horizontal.shares,
        });
      }
    }
  }

  /**
   * Which labels may matter between these corners: all but those that lie below the likeliest one at all four by more
   * than `margin`. They are written into `kept`, in ascending order; their number is returned.
   */
  #rivals([a, b, c, d], kept, margin) {
    const { cells, labels } = this;
    let best = 0;
    let greatest = -Infinity;
    for (let label = 0; label < labels; label++) {
      const sum = cells[a + label] + cells[b + label] + cells[c + label] + cells[d + label];
      if (sum > greatest) [greatest, best] = [sum, label];
    }
    let count = 0;
    for (let label = 0; label < labels; label++) {
      const beaten =
        label !== best &&
        cells[a + label] + margin < cells[a + best] &&
        cells[b + label] + margin < cells[b + best] &&
        cells[c + label] + margin < cells[c + best] &&
        cells[d + label] + margin < cells[d + best];
      if (!beaten) kept[count++] = label;
    }
    return count;
  }

  /** Calls `paint` for each pixel of a block, with its place and the weights of the four corners. */
  #pixels(block, paint, width) {
    for (let y = block.top; y < block.bottom; y++) {
      const low = block.down[y - block.top];
      for (let x = block.left; x < block.right; x++) {
        const right = block.across[x - block.left];
        const d = low * right;
        paint(y * width + x, 1 - low - right + d, right - d, low - d, d);
      }
    }
  }

  #mix(corners, label, a, b, c, d) {
    const { cells } = this;
    return (
      a * cells[corners[0] + label] +
      b * cells[corners[1] + label] +
      c * cells[corners[2] + label] +
      d * cells[corners[3] + label]
    );
  }
}

/** A picture put together from several looks (see windows.js), painted over each other in order on background. */
export class Scene {
  constructor(looks, width, height) {
    Object.assign(this, { width, height });
    this.layers = looks.map(({ logits, rows, columns, window: place }) => {
      const all = { x: 0, y: 0, width: place.width, height: place.height };
      return { place, rendering: new Rendering(logits, [19, rows, columns], all, place.width, place.height) };
    });
  }

  /** As that of a Rendering. */
  labelMap(width = this.width, height = this.height) {
    return this.#painted(width, height, (rendering, ...size) => rendering.labelMap(...size));
  }

  /** As that of a Rendering; what no look covers is background. */
  mask(ids, { soft = true, width = this.width, height = this.height } = {}) {
    const rest = ids.includes(0) ? 255 : 0;
    const paint = (rendering, width, height) => rendering.mask(ids, { soft, width, height });
    return this.#painted(width, height, paint, rest);
  }

  #painted(width, height, paint, rest = 0) {
    const map = new Uint8Array(width * height).fill(rest);
    const [across, down] = [width / this.width, height / this.height];
    for (const { place, rendering } of this.layers) {
      const [left, right] = [place.x, place.x + place.width].map((x) => Math.round(x * across));
      const [top, bottom] = [place.y, place.y + place.height].map((y) => Math.round(y * down));
      if (left >= right || top >= bottom) continue; // too small to be seen
      const piece = paint(rendering, right - left, bottom - top);
      for (let row = top, at = 0; row < bottom; row++, at += right - left)
        map.set(piece.subarray(at, at + right - left), row * width + left);
    }
    return map;
  }
}

/**
 * The pixels along an axis in runs that lie between the same two cells: `first` and `second` cell, pixels from `start`
 * to `end`, and for each the share of the second cell. The `cells` cover the pixels from `from` over `length`; beyond
 * the outermost centres the border is repeated.
 */
function runs(pixels, from, length, cells) {
  const found = [];
  for (let pixel = 0; pixel < pixels; pixel++) {
    const position = Math.min(Math.max((pixel + 0.5 - from) * (cells / length) - 0.5, 0), cells - 1);
    const first = Math.floor(position);
    if (found.at(-1)?.first !== first) {
      found.push({ first, second: Math.min(first + 1, cells - 1), start: pixel, end: pixel, shares: [] });
    }
    const run = found.at(-1);
    run.end = pixel + 1;
    run.shares.push(position - first);
  }
  return found;
}
