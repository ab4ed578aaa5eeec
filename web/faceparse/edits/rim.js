// The rim of a mask: what its soft edge is mixed of, told from the colours on either side, as edits/rim.py does it.

import { averaged, between, boxMean, enlarged, grid, meanOf } from "./grids.js";

const SIDE = 400; // longer side of the grid, at most
const [NEAR, WIDE, FARTHER, RIM] = [3, 6, 3, 6]; // in its cells
const WHOLE = 0.995;
const ALIKE = 3 * 0.06 ** 2;
const [GENEROUS, TRUSTED] = [1.15, 0.8];

/** Of pixels (RGBA) and their mask (0 to 255), both of this size. */
export class Rim {
  constructor(pixels, mask, width, height) {
    this.factor = Math.max(1, Math.ceil(Math.max(width, height) / SIDE));
    const picture = grid(width, height, 4);
    for (let i = 0; i < mask.length; i++) {
      for (let channel = 0; channel < 3; channel++) picture.values[4 * i + channel] = pixels[4 * i + channel] / 255;
      picture.values[4 * i + 3] = mask[i] / 255;
    }
    const cells = averaged(picture, this.factor);
    const sums = grid(cells.width, cells.height, 8);
    const share = grid(cells.width, cells.height);
    for (let i = 0; i < share.values.length; i++) {
      share.values[i] = cells.values[4 * i + 3];
      const [within, beyond] = [share.values[i] ** 6, (1 - share.values[i]) ** 6];
      sums.values[8 * i] = within;
      sums.values[8 * i + 1] = beyond;
      for (let channel = 0; channel < 3; channel++) {
        sums.values[8 * i + 2 + channel] = cells.values[4 * i + channel] * within;
        sums.values[8 * i + 5 + channel] = cells.values[4 * i + channel] * beyond;
      }
    }
    const mean = meanOf(sums);
    const coarse = boxMean(Math.min(cells.width, cells.height) > 1 ? averaged(sums, WIDE) : sums, FARTHER);
    coarse.values.forEach((value, i) => (coarse.values[i] = value + 1e-3 * mean[i % 8]));
    const wide = enlarged(coarse, cells.width, cells.height);
    const near = boxMean(sums, NEAR);
    // The inside is told from far, since near the edge it is no longer pure; the outside is what is beside it.
    this.inside = grid(cells.width, cells.height, 3);
    this.outside = grid(cells.width, cells.height, 3);
    this.whole = boxMean(share, RIM);
    for (let i = 0; i < share.values.length; i++) {
      const out = near.values[8 * i + 1] + 1e-2 * wide.values[8 * i + 1] + 1e-9;
      for (let channel = 0; channel < 3; channel++) {
        this.inside.values[3 * i + channel] = wide.values[8 * i + 2 + channel] / (wide.values[8 * i] + 1e-9);
        this.outside.values[3 * i + channel] =
          (near.values[8 * i + 5 + channel] + 1e-2 * wide.values[8 * i + 5 + channel]) / out;
      }
    }
    this.across = between(width, cells.width, this.factor);
    this.down = between(height, cells.height, this.factor);
  }

  /** Whether a pixel lies in the rim; `alpha`: the mask there, in 0..1. */
  mixed(alpha, x, y) {
    const cell = Math.floor(y / this.factor) * this.whole.width + Math.floor(x / this.factor);
    return alpha < 1 || this.whole.values[cell] < WHOLE;
  }

  /** Writes into `found` the colour of what is in the mask there, and its share: of a pixel of the rim, in 0..1. */
  part(pixel, alpha, x, y, found) {
    const { across, down } = this;
    const [left, right, up, low] = [across.first[x], across.second[x], down.first[y], down.second[y]];
    const { width } = this.whole;
    const [a, b, c, d] = [up * width + left, up * width + right, low * width + left, low * width + right];
    const [right_, low_] = [across.share[x], down.share[y]];
    const weights = [(1 - right_) * (1 - low_), right_ * (1 - low_), (1 - right_) * low_, right_ * low_];
    const at = ({ values, channels }, channel) =>
      weights[0] * values[a * channels + channel] +
      weights[1] * values[b * channels + channel] +
      weights[2] * values[c * channels + channel] +
      weights[3] * values[d * channels + channel];
    let [likeness, length] = [ALIKE, ALIKE];
    const [inside, outside] = [[], []];
    for (let channel = 0; channel < 3; channel++) {
      inside.push(at(this.inside, channel));
      outside.push(at(this.outside, channel));
      const way = inside[channel] - outside[channel];
      likeness += (pixel[channel] - outside[channel]) * way;
      length += way * way;
    }
    const own = clamp((likeness / length) * (GENEROUS + TRUSTED * (1 - alpha)));
    // Half-way into the mask's neighbourhood the picture is trusted less and less, and the mask more.
    const unsure = Math.sqrt(clamp((WHOLE - at(this.whole, 0)) / (WHOLE - 0.5)));
    const share = Math.min(alpha, 1 + (own - 1) * unsure);
    for (let channel = 0; channel < 3; channel++) {
      const left_over = pixel[channel] - share * inside[channel] - (1 - share) * outside[channel];
      found[channel] = clamp(share < 1 ? inside[channel] + share * left_over : pixel[channel]);
    }
    found[3] = share;
  }
}

function clamp(value) {
  return Math.min(Math.max(value, 0), 1);
}
