// The background out of focus, as a lens does it, as edits/backdrop.py has it.

import { averaged, boxMean, distances, enlarged, grid, meanOf, rowsOf } from "./grids.js";
import { Rim } from "./rim.js";

const [CELLS, FINEST] = [5, 2.5];
const BLURS = 3;
const DEPTH = 6;
const FALLOFF = 0.6;
// Of each value of a mask how much of the background counts: what is only half of it has the person's colours in it.
const BEYOND = Float64Array.from({ length: 256 }, (_, value) => (1 - value / 255) ** 4);

/**
 * Blurs everything but the person (0 to 255) in the pixels (RGBA) of a picture; `radius` of the discs in percent of the
 * longer side. The person has no part in the blur.
 */
export function blurBackground(pixels, person, width, height, radius = 2) {
  const size = (radius / 100) * Math.max(width, height);
  if (size < 0.5 || !person.some((value) => value < 128)) return;
  const factor = Math.max(1, Math.floor((size * (1 - 0.8 * FALLOFF)) / FINEST));
  const small = outOfFocus(pixels, person, width, height, size, factor);
  const edge = person.some((value) => value > 0 && value < 255) ? new Rim(pixels, person, width, height) : null;
  const [found, pixel] = [new Float32Array(4), new Float32Array(3)];
  const rows = rowsOf(small, width, height, factor, factor);
  for (let y = 0, at = 0; y < height; y++) {
    const { row } = rows.next().value;
    for (let x = 0; x < width; x++, at++) {
      if (person[at] === 255) continue;
      if (person[at]) {
        for (let channel = 0; channel < 3; channel++) pixel[channel] = pixels[4 * at + channel] / 255;
        edge.part(pixel, person[at] / 255, x, y, found);
      } else {
        found[3] = 0;
      }
      for (let channel = 0; channel < 3; channel++) {
        const behind = Math.sqrt(row[3 * x + channel]);
        pixels[4 * at + channel] = 255 * (behind + (found[channel] - behind) * found[3]);
      }
    }
  }
}

/** The blurred light of the background, on a grid reduced by `factor`; discs of `size` pixels at most. */
function outOfFocus(pixels, person, width, height, size, factor) {
  const whole = grid(width, height, 4);
  for (let i = 0, at = 0; i < person.length; i++, at += 4) {
    const weight = BEYOND[person[i]];
    if (!weight) continue;
    for (let channel = 0; channel < 3; channel++) {
      const value = pixels[at + channel] / 255;
      whole.values[at + channel] = value * value * weight; // nearly: sRGB is a power of 2.2
    }
    whole.values[at + 3] = weight;
  }
  const light = averaged(whole, factor);
  // Where there is no background far and wide, what there is of it at all.
  const far = boxMean(light, Math.max(1, Math.floor(Math.max(light.width, light.height) / 4)));
  const mean = meanOf(light);
  light.values.forEach((value, i) => (light.values[i] = value + 1e-3 * far.values[i] + 1e-6 * mean[i % 4]));

  const near = depth(light, size / factor);
  const result = grid(light.width, light.height, 3);
  for (let step = 0; step < BLURS; step++) {
    const radius = (size * (1 - 0.8 * FALLOFF * (1 - step / (BLURS - 1)))) / factor;
    const blurred = discBlur(light, radius);
    for (let i = 0; i < near.length; i++) {
      const share = step ? Math.min(Math.max(near[i] * (BLURS - 1) - step + 1, 0), 1) : 1;
      const scale = 1 / Math.max(blurred.values[4 * i + 3], 1e-9);
      for (let channel = 0; channel < 3; channel++) {
        const before = result.values[3 * i + channel];
        result.values[3 * i + channel] = before + (blurred.values[4 * i + channel] * scale - before) * share;
      }
    }
  }
  return result;
}

/** How far the background is taken to be: 0 beside the person, 1 at DEPTH sizes. */
function depth({ values, width, height }, size) {
  const person = Uint8Array.from({ length: width * height }, (_, i) => (values[4 * i + 3] < 0.5 ? 1 : 0));
  return distances(person, width, height).map((squared) => {
    const away = Math.min(Math.sqrt(squared) / (DEPTH * size), 1);
    return away * away * (3 - 2 * away);
  });
}

/** Each cell as a disc of this radius in cells, the border repeated. */
function discBlur(light, radius) {
  const factor = Math.max(1, Math.round(radius / CELLS));
  const coarse = averaged(light, factor);
  radius /= factor;
  const reach = Math.max(1, Math.round(radius + 0.5));
  const disc = [];
  let total = 0;
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const weight = Math.min(Math.max(radius + 0.5 - Math.hypot(x, y), 0), 1);
      if (weight) disc.push({ x, y, weight });
      total += weight;
    }
  }
  const { width, height } = coarse;
  const blurred = grid(width, height, 4);
  const padded = grid(width + 2 * reach, height + 2 * reach, 4);
  const inside = (place, count) => Math.min(Math.max(place - reach, 0), count - 1);
  for (let y = 0, at = 0; y < padded.height; y++) {
    for (let x = 0; x < padded.width; x++, at += 4) {
      const from = 4 * (inside(y, height) * width + inside(x, width));
      for (let channel = 0; channel < 4; channel++) padded.values[at + channel] = coarse.values[from + channel];
    }
  }
  // One tap of the disc after the other, over a row: that is what engines compute fastest.
  const line = 4 * width;
  for (let y = 0; y < height; y++) {
    const sums = blurred.values.subarray(y * line, (y + 1) * line);
    for (const tap of disc) {
      const from = 4 * ((y + reach + tap.y) * padded.width + reach + tap.x);
      const share = tap.weight / total;
      for (let i = 0; i < line; i++) sums[i] += share * padded.values[from + i];
    }
  }
  return factor === 1 ? blurred : enlarged(blurred, light.width, light.height, factor, factor);
}
