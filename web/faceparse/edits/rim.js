// The rim of a mask: what its soft edge is mixed of, told from the colours on either side, as edits/rim.py does it.

import { averaged, between, boxMean, enlarged, grid, meanOf } from "./grids.js";

const SIDE = 400; // longer side of the grid, at most
const [NEAR, WIDE, FARTHER, RIM] = [3, 6, 3, 6]; // in its cells
const WHOLE = 0.995;
const ALIKE = 3 * 0.06 ** 2;
const [GENEROUS, TRUSTED] = [1.15, 0.8];
const VARIED = 1.5;

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
      const within = sixth(share.values[i]);
      const beyond = sixth(1 - share.values[i]);
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
    const whole = boxMean(share, RIM);
    const { values } = grid(cells.width, cells.height, 7); // inside (3), outside (3), how much of what is near is inside
    for (let i = 0; i < share.values.length; i++) {
      const within = wide.values[8 * i] + 1e-9;
      const beyond = near.values[8 * i + 1] + 1e-2 * wide.values[8 * i + 1] + 1e-9;
      for (let channel = 0; channel < 3; channel++) {
        const at = 8 * i + 5 + channel;
        values[7 * i + channel] = wide.values[at - 3] / within;
        values[7 * i + 3 + channel] = (near.values[at] + 1e-2 * wide.values[at]) / beyond;
      }
      values[7 * i + 6] = whole.values[i];
    }
    Object.assign(this, { values, width: cells.width, cell: new Float64Array(7) });
    this.across = between(width, cells.width, this.factor);
    this.down = between(height, cells.height, this.factor);
  }

  /** Whether a pixel lies in the rim; `alpha`: the mask there, in 0..1. */
  mixed(alpha, x, y) {
    if (alpha < 1) return true;
    const { across, down, values } = this;
    const whole = (row, column) => values[7 * (row[y] * this.width + column[x]) + 6] >= WHOLE;
    return ![down.first, down.second].every((row) => whole(row, across.first) && whole(row, across.second));
  }

  /** Writes into `found` the colour of what is in the mask there, and its share: of a pixel of the rim, in 0..1. */
  part(pixel, alpha, x, y, found) {
    const { across, down, values } = this;
    const upper = down.first[y] * this.width;
    const lower = down.second[y] * this.width;
    const a = (upper + across.first[x]) * 7;
    const b = (upper + across.second[x]) * 7;
    const c = (lower + across.first[x]) * 7;
    const d = (lower + across.second[x]) * 7;
    const low = down.share[y];
    const right = across.share[x];
    for (let i = 0; i < 7; i++) {
      const top = values[a + i] + (values[b + i] - values[a + i]) * right;
      this.cell[i] = top + (values[c + i] + (values[d + i] - values[c + i]) * right - top) * low;
    }
    let [likeness, length] = [ALIKE, ALIKE];
    for (let channel = 0; channel < 3; channel++) {
      const outside = this.cell[3 + channel];
      const way = this.cell[channel] - outside;
      likeness += (pixel[channel] - outside) * way;
      length += way * way;
    }
    const own = clamp((likeness / length) * (GENEROUS + TRUSTED * (1 - alpha)));
    // Half-way into the mask's neighbourhood the picture is trusted less and less, and the mask more.
    const unsure = Math.sqrt(clamp((WHOLE - this.cell[6]) / (WHOLE - 0.5)));
    const share = Math.min(alpha, 1 + (own - 1) * unsure);
    // What the mixture does not explain is likelier the inside's the more of it there is.
    const theirs = share / (alpha * alpha + VARIED * (1 - alpha) * (1 - alpha));
    for (let channel = 0; channel < 3; channel++) {
      const inside = this.cell[channel];
      const rest = pixel[channel] - share * inside - (1 - share) * this.cell[3 + channel];
      found[channel] = share < 1 ? clamp(inside + theirs * rest) : pixel[channel];
    }
    found[3] = share;
  }
}

function sixth(value) {
  const square = value * value;
  return square * square * square;
}

function clamp(value) {
  return Math.min(Math.max(value, 0), 1);
}
