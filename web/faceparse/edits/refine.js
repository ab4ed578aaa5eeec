// A mask with its edge drawn to where the colours of the picture change, as masks.refine does it: the fast guided filter
// with a colour guide (He & Sun, arXiv 1505.00996), in a band round the edge.

import { averaged, boxMean, boxOf, grid, rowsOf } from "./grids.js";

const RADIUS = 1.5; // percent of the size of what the mask shows
const WINDOW = 4; // cells of the grid to each side
const EDGE = 0.05;
const OBJECT = { contrast: 0.03, steeper: 4, reach: 1 };
const HAIR = { contrast: 0.01, steeper: 2, reach: 2 };

/** The mask (0 to 255) of pixels (RGBA) of this size, refined; `hair`: keeps fine strands half transparent. */
export function refine(pixels, mask, width, height, hair = false) {
  const { contrast, steeper, reach: farther } = hair ? HAIR : OBJECT;
  let most = 0;
  for (const value of mask) if (value > most) most = value;
  const shown = boxOf(mask, width, height, 0, most / 2);
  const result = mask.map((value) => DECIDED_BYTES[value]);
  if (!shown) return result;
  const reach = Math.max(1, (RADIUS / 100) * Math.sqrt(shown.width * shown.height) * farther);
  const factor = Math.max(1, Math.round(reach / WINDOW));
  const window = Math.max(1, Math.round(reach / factor));

  // Beyond these windows there is no edge; cells lie as those of the whole picture.
  const box = boxOf(mask, width, height, (3 * window + 2) * factor);
  const [left, top] = [box.left - (box.left % factor), box.top - (box.top % factor)];
  Object.assign(box, { left, top, width: box.width + box.left - left, height: box.height + box.top - top });
  const picture = grid(box.width, box.height, 4);
  for (let y = 0, at = 0; y < box.height; y++) {
    for (let x = 0, from = (top + y) * width + left; x < box.width; x++, from++, at += 4) {
      for (let channel = 0; channel < 3; channel++) picture.values[at + channel] = pixels[4 * from + channel] / 255;
      picture.values[at + 3] = hair ? mask[from] / 255 : DECIDED[mask[from]];
    }
  }
  const model = modelOf(averaged(picture, factor), window, contrast ** 2);
  for (const { y, row } of rowsOf(model, box.width, box.height, factor, factor)) {
    for (let x = 0, at = y * box.width * 4, to = (top + y) * width + left; x < box.width; x++, at += 4, to++) {
      const near = row[5 * x + 4];
      if (!near) continue;
      const { values } = picture;
      const line = row[5 * x] * values[at] + row[5 * x + 1] * values[at + 1] + row[5 * x + 2] * values[at + 2];
      const found = Math.min(Math.max((line + row[5 * x + 3] - 0.5) * steeper + 0.5, 0), 1);
      const before = DECIDED[mask[to]];
      result[to] = Math.round(255 * (before + (found - before) * near));
    }
  }
  return result;
}

// Of each value of a mask one nearer to 0 and 1: a wide soft edge says how unsure a network is, not what shines through.
const DECIDED = Float64Array.from({ length: 256 }, (_, value) => value ** 4 / (value ** 4 + (255 - value) ** 4));
const DECIDED_BYTES = Uint8Array.from(DECIDED, (value) => Math.round(255 * value));

/** Of cells (colours and mask) the linear function of the colours that is the mask: slope, offset, and whether near. */
function modelOf(cells, window, epsilon) {
  const { width, height, values } = cells;
  // Mean colours and mask, their products with each other.
  const products = grid(width, height, 13);
  for (let i = 0, from = 0, to = 0; i < width * height; i++, from += 4, to += 13) {
    for (let one = 0; one < 4; one++) products.values[to + one] = values[from + one];
    for (let one = 0, at = to + 7; one < 3; one++) {
      products.values[to + 4 + one] = values[from + one] * values[from + 3];
      for (let other = one; other < 3; other++, at++) products.values[at] = values[from + one] * values[from + other];
    }
  }
  const means = boxMean(products, window).values;
  const slopes = grid(width, height, 4);
  for (let i = 0; i < width * height; i++) {
    const at = 13 * i;
    const [r, g, b, a] = [means[at], means[at + 1], means[at + 2], means[at + 3]];
    const [x, y, z] = [means[at + 4] - r * a, means[at + 5] - g * a, means[at + 6] - b * a];
    const [xx, xy, xz] = [means[at + 7] - r * r + epsilon, means[at + 8] - r * g, means[at + 9] - r * b];
    const [yy, yz, zz] = [means[at + 10] - g * g + epsilon, means[at + 11] - g * b, means[at + 12] - b * b + epsilon];
    // The inverse of the symmetric 3x3 matrix, by cofactors.
    const [c, d, e] = [yy * zz - yz * yz, yz * xz - xy * zz, xy * yz - yy * xz];
    const [f, h, k] = [xx * zz - xz * xz, xz * xy - xx * yz, xx * yy - xy * xy];
    const scale = 1 / (xx * c + xy * d + xz * e);
    const red = (c * x + d * y + e * z) * scale;
    const green = (d * x + f * y + h * z) * scale;
    const blue = (e * x + h * y + k * z) * scale;
    slopes.values[4 * i] = red;
    slopes.values[4 * i + 1] = green;
    slopes.values[4 * i + 2] = blue;
    slopes.values[4 * i + 3] = a - red * r - green * g - blue * b;
  }
  const smooth = boxMean(slopes, window).values;
  const near = boxMean(bandOf(cells, window), 1).values;
  const model = grid(width, height, 5);
  for (let i = 0; i < width * height; i++) {
    for (let one = 0; one < 4; one++) model.values[5 * i + one] = smooth[4 * i + one];
    model.values[5 * i + 4] = near[i];
  }
  return model;
}

/** 1 where the mask is not the same all over a window, else 0. */
function bandOf({ width, height, values }, window) {
  let [least, most] = [grid(width, height), grid(width, height)];
  for (let i = 0; i < width * height; i++) least.values[i] = most.values[i] = values[4 * i + 3];
  for (const [step, count, next, lines] of [
    [1, width, width, height],
    [width, height, 1, width],
  ]) {
    const [low, high] = [grid(width, height), grid(width, height)];
    for (let line = 0; line < lines; line++) {
      for (let i = 0; i < count; i++) {
        let [smallest, greatest] = [Infinity, -Infinity];
        for (let j = Math.max(0, i - window); j <= Math.min(count - 1, i + window); j++) {
          const at = line * next + j * step;
          if (least.values[at] < smallest) smallest = least.values[at];
          if (most.values[at] > greatest) greatest = most.values[at];
        }
        low.values[line * next + i * step] = smallest;
        high.values[line * next + i * step] = greatest;
      }
    }
    [least, most] = [low, high];
  }
  most.values.forEach((value, i) => (most.values[i] = value - least.values[i] > EDGE ? 1 : 0));
  return most;
}
