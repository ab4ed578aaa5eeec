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
  const shown = boxOf(mask.map((value) => value >= most / 2 && value), width, height);
  const result = mask.map((value) => Math.round(255 * decided(value / 255)));
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
      picture.values[at + 3] = hair ? mask[from] / 255 : decided(mask[from] / 255);
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
      const before = decided(mask[to] / 255);
      result[to] = Math.round(255 * (before + (found - before) * near));
    }
  }
  return result;
}

/** Nearer to 0 and 1: a wide soft edge says how unsure a network is, not what shines through. */
function decided(value) {
  const [inside, outside] = [value ** 4, (1 - value) ** 4];
  return inside / (inside + outside);
}

/** Of cells (colours and mask) the linear function of the colours that is the mask: slope, offset, and whether near. */
function modelOf(cells, window, epsilon) {
  const { width, height, values } = cells;
  // Mean colours and mask, their products with each other.
  const products = grid(width, height, 13);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b, a] = values.subarray(4 * i, 4 * i + 4);
    products.values.set([r, g, b, a, r * a, g * a, b * a, r * r, r * g, r * b, g * g, g * b, b * b], 13 * i);
  }
  const means = boxMean(products, window).values;
  const slopes = grid(width, height, 4);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b, a, ra, ga, ba, rr, rg, rb, gg, gb, bb] = means.subarray(13 * i, 13 * i + 13);
    const [x, y, z] = [ra - r * a, ga - g * a, ba - b * a];
    const [xx, xy, xz] = [rr - r * r + epsilon, rg - r * g, rb - r * b];
    const [yy, yz, zz] = [gg - g * g + epsilon, gb - g * b, bb - b * b + epsilon];
    // The inverse of the symmetric 3x3 matrix, by cofactors.
    const [c, d, e] = [yy * zz - yz * yz, yz * xz - xy * zz, xy * yz - yy * xz];
    const [f, h, k] = [xx * zz - xz * xz, xz * xy - xx * yz, xx * yy - xy * xy];
    const scale = 1 / (xx * c + xy * d + xz * e);
    const slope = [(c * x + d * y + e * z) * scale, (d * x + f * y + h * z) * scale, (e * x + h * y + k * z) * scale];
    slopes.values.set([...slope, a - slope[0] * r - slope[1] * g - slope[2] * b], 4 * i);
  }
  const smooth = boxMean(slopes, window).values;
  const near = boxMean(bandOf(cells, window), 1).values;
  const model = grid(width, height, 5);
  for (let i = 0; i < width * height; i++) {
    model.values.set(smooth.subarray(4 * i, 4 * i + 4), 5 * i);
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
