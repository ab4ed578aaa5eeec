// How what was seen of a picture as a whole and, more exactly, of each of its faces becomes one picture: what
// faces/windows.py does (its numbers are those here).
//
// A look is what the network made of a window: `logits`, Float32Array [labels, rows, columns], and the `window` in pixels
// of the picture, which may be turned by `angle` degrees.

import { CONFIRMED, centreOf, turnOf } from "./faces.js";
import { regionIds } from "./labels.js";

const SURE = 0.7; // from this share of the way to its border on, what was seen in a window counts less and less
const NEARNESS = 6; // how quickly a window gives way to another whose middle is nearer
const RIM = 4; // cells of background around a person that are left as they were seen
const [FEWEST_HAIR, SURE_HAIR] = [30, 0.8]; // of somebody whose face is turned away
// Where there is a face, the network sees one in so much of its box, with such a probability; where the finder is so
// sure, it is enough that so much of the box is probable; where it is not, the network must be so sure of each of the
// parts that every face has.
const [SHOWN, PROBABLE] = [0.1, 0.3];
const [SURE_FACE, SHOWN_OF_SURE] = [0.7, 0.05];
const SURE_PART = 0.9;
const PARTS = [["eyes", "eyeglasses"], ["nose"], ["mouth_area"]].map((names) => regionIds(...names));
const NOTHING = -20; // the logit of what is not there
const HEAD = regionIds("hair", "hat");
const FACE = regionIds("skin", "nose", "eyes", "brows", "lips", "inner mouth", "eyeglasses");
// How many heights of a face away from its middle a label may be.
const REACH = new Float32Array(19).fill(Infinity);
for (const [names, most] of [
  [["eyes", "brows", "eyeglasses", "nose", "mouth_area"], 0.65],
  [["skin", "ears"], 0.9],
  [["neck", "necklace"], 2],
  [["hair", "hat", "earring"], 3],
  [["clothing"], 9],
]) {
  for (const id of regionIds(...names)) REACH[id] = most;
}

/** Whether the look at a face shows some of one where it should be: else the finder was wrong. */
export function isShown(face, look) {
  const cells = grid({ x: face.x, y: face.y, width: face.width, height: face.height }, 16, 16);
  const values = sampled(look, cells);
  const probable = (ids) => Array.from({ length: 256 }, (_, cell) => probability(values, 256, cell, ids));
  if (face.score < CONFIRMED && PARTS.some((part) => Math.max(...probable(part)) < SURE_PART)) return false;
  const ofFace = probable(FACE);
  if (ofFace.filter((p) => p > PROBABLE).length >= SHOWN * 256) return true;
  return face.score >= SURE_FACE && ofFace.reduce((sum, p) => sum + p) >= SHOWN_OF_SURE * 256;
}

/**
 * The looks that, painted over each other in order on background, are the picture, each an upright window of whole
 * pixels. `whole`: a look whose window holds the picture; `details`: those at the square windows of its faces.
 */
export function compose(whole, picture, details) {
  const { look, kept } = attached(
    whole,
    details.map((detail) => detail.window),
  );
  const looks = kept ? [cropped(look, kept, picture)] : [];
  for (const detail of [...details].sort((a, b) => b.window.width - a.window.width)) {
    const place = reached(detail.window, picture);
    if (place.width <= 0 || place.height <= 0) continue;
    const cell = detail.window.width / detail.columns;
    looks.push(mixed(look, details, grid(place, Math.ceil(place.height / cell), Math.ceil(place.width / cell)), place));
  }
  return looks;
}

/** The part of a look that is kept, on whole pixels of the picture. */
function cropped(look, { top, bottom, left, right }, picture) {
  const { window } = look;
  const [down, across] = [window.height / look.rows, window.width / look.columns];
  const [x, y] = [window.x + (left - 1) * across, window.y + (top - 1) * down];
  const around = { x, y, width: (right - left + 3) * across, height: (bottom - top + 3) * down };
  const place = reached(around, picture);
  const cells = grid(place, Math.ceil(place.height / down), Math.ceil(place.width / across));
  return { logits: sampled(look, cells), rows: cells.rows, columns: cells.columns, window: place };
}

/** A look at a place, of the details, and where they end of the base. */
function mixed(base, details, cells, place) {
  const count = cells.rows * cells.columns;
  const under = sampled(base, cells);
  const total = new Float32Array(under.length);
  const share = new Float32Array(count);
  const rest = new Float32Array(count).fill(1);
  const away = new Float32Array(count).fill(Infinity);
  const weight = new Float32Array(count);
  for (const detail of details) {
    const { across, down } = within(detail.window, cells);
    let isInside = false;
    for (let i = 0; i < count; i++) {
      const inside = Math.min(1, (1 - Math.max(Math.abs(across[i]), Math.abs(down[i]))) / (1 - SURE));
      weight[i] = 0;
      if (inside <= 0) continue;
      isInside = true;
      weight[i] = inside * Math.exp(-NEARNESS * (across[i] ** 2 + down[i] ** 2));
      rest[i] *= 1 - inside;
      share[i] += weight[i];
    }
    if (!isInside) continue;
    for (let i = 0; i < count; i++) away[i] = Math.min(away[i], Math.hypot(across[i], down[i]));
    const seen = sampled(detail, cells, weight);
    for (let label = 0, at = 0; label < REACH.length; label++) {
      for (let i = 0; i < count; i++, at++) total[at] += weight[i] * seen[at];
    }
  }
  for (let label = 0, at = 0; label < REACH.length; label++) {
    for (let i = 0; i < count; i++, at++) {
      if (away[i] > REACH[label]) total[at] = NOTHING;
      else total[at] = share[i] ? (total[at] / share[i]) * (1 - rest[i]) + under[at] * rest[i] : under[at];
    }
  }
  return { logits: total, rows: cells.rows, columns: cells.columns, window: place };
}

/**
 * The whole with nothing but background where there is nobody, and the cells of the others (`top`, `bottom`, `left`,
 * `right`; null: nobody is anywhere): what hangs together with a face, and people who show hair alone.
 */
function attached(whole, faces) {
  const { logits, rows, columns } = whole;
  const count = rows * columns;
  const cells = grid(whole.window, rows, columns);
  const away = new Float32Array(count).fill(Infinity);
  for (const face of faces) {
    const { across, down } = within(face, cells);
    for (let i = 0; i < count; i++) away[i] = Math.min(away[i], Math.hypot(across[i], down[i]));
  }
  const labels = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    for (let label = 1; label < REACH.length; label++) {
      if (logits[label * count + i] > logits[labels[i] * count + i]) labels[i] = label;
    }
  }
  const { pieces, number } = connected(
    labels.map((label, i) => (label > 0 && away[i] <= REACH[label] ? 1 : 0)),
    rows,
    columns,
  );
  const holds = new Uint8Array(number + 1);
  for (let i = 0; i < count; i++) if (pieces[i] && away[i] < 0.5) holds[pieces[i]] = 1;
  const keep = new Uint8Array(count);
  for (let i = 0; i < count; i++) keep[i] = holds[pieces[i]];
  withoutFace(whole, labels, keep);
  for (let ring = 0; ring < RIM; ring++) widen(keep, labels, rows, columns);
  const left = new Float32Array(logits.length);
  for (let at = 0; at < left.length; at++) left[at] = keep[at % count] ? logits[at] : at < count ? 0 : NOTHING;
  return { look: { ...whole, logits: left }, kept: extent(keep, rows, columns) };
}

/** Keeps people, too, whose faces are turned away. */
function withoutFace({ logits, rows, columns }, labels, keep) {
  const count = rows * columns;
  const hair = labels.map((label, i) => (label && !keep[i] && probability(logits, count, i, HEAD) > SURE_HAIR ? 1 : 0));
  const rest = labels.map((label, i) => (label && !keep[i] ? 1 : 0));
  const { pieces, number } = connected(rest, rows, columns);
  const cells = new Uint32Array(number + 1);
  for (let i = 0; i < count; i++) cells[pieces[i]] += hair[i];
  for (let i = 0; i < count; i++) if (pieces[i] && cells[pieces[i]] >= FEWEST_HAIR) keep[i] = 1;
}

/** What is kept grows by the cells of background around it. */
function widen(keep, labels, rows, columns) {
  const before = keep.slice();
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at++) {
      if (before[at] || labels[at]) continue; // what is too far from its face to be what it looks like is no rim
      for (let y = Math.max(0, row - 1); y <= Math.min(rows - 1, row + 1) && !keep[at]; y++) {
        for (let x = Math.max(0, column - 1); x <= Math.min(columns - 1, column + 1); x++) {
          if (before[y * columns + x]) keep[at] = 1;
        }
      }
    }
  }
}

/** The first and last row and column with something in them, or null. */
function extent(mask, rows, columns) {
  const found = { top: rows, bottom: -1, left: columns, right: -1 };
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at++) {
      if (!mask[at]) continue;
      found.top = Math.min(found.top, row);
      found.bottom = row;
      found.left = Math.min(found.left, column);
      found.right = Math.max(found.right, column);
    }
  }
  return found.bottom < 0 ? null : found;
}

/** The `pieces` of a mask that hang together, corners too: their numbers from 1 on, 0 outside; and their `number`. */
export function connected(mask, rows, columns) {
  const pieces = new Int32Array(mask.length);
  const waiting = [];
  let number = 0;
  for (let first = 0; first < mask.length; first++) {
    if (!mask[first] || pieces[first]) continue;
    pieces[first] = ++number;
    waiting.push(first);
    while (waiting.length) {
      const at = waiting.pop();
      const [row, column] = [Math.floor(at / columns), at % columns];
      for (let y = Math.max(0, row - 1); y <= Math.min(rows - 1, row + 1); y++) {
        for (let x = Math.max(0, column - 1); x <= Math.min(columns - 1, column + 1); x++) {
          const next = y * columns + x;
          if (!mask[next] || pieces[next]) continue;
          pieces[next] = number;
          waiting.push(next);
        }
      }
    }
  }
  return { pieces, number };
}

/** The centres of cells in an upright window, in the picture's pixels. */
function grid(window, rows, columns) {
  const x = Float64Array.from({ length: columns }, (_, i) => window.x + ((i + 0.5) * window.width) / columns);
  const y = Float64Array.from({ length: rows }, (_, i) => window.y + ((i + 0.5) * window.height) / rows);
  return { rows, columns, x, y };
}

/** Where cells lie in a window: from -1 to 1 `across` and `down`, along its own axes. */
function within(window, { rows, columns, x, y }) {
  const across = new Float32Array(rows * columns);
  const down = new Float32Array(rows * columns);
  const [sine, cosine] = turnOf(window);
  const [middleX, middleY] = centreOf(window);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at++) {
      const [a, b] = [x[column] - middleX, y[row] - middleY];
      across[at] = (cosine * a + sine * b) / (window.width / 2);
      down[at] = (cosine * b - sine * a) / (window.height / 2);
    }
  }
  return { across, down };
}

/** The logits of a look at cells, bilinear, its border repeated beyond it; with `wanted` only where that is not 0. */
function sampled(look, cells, wanted = null) {
  const { logits, rows, columns } = look;
  const { across, down } = within(look.window, cells);
  const count = across.length;
  const plane = rows * columns;
  const values = new Float32Array(REACH.length * count);
  for (let i = 0; i < count; i++) {
    if (wanted && !wanted[i]) continue;
    const x = Math.min(Math.max(((across[i] + 1) * columns - 1) / 2, 0), columns - 1);
    const y = Math.min(Math.max(((down[i] + 1) * rows - 1) / 2, 0), rows - 1);
    const [left, top] = [Math.floor(x), Math.floor(y)];
    const [right, bottom] = [Math.min(left + 1, columns - 1), Math.min(top + 1, rows - 1)];
    const [a, b] = [x - left, y - top];
    for (let label = 0, at = i, map = 0; label < REACH.length; label++, at += count, map += plane) {
      const upper = logits[map + top * columns + left] * (1 - a) + logits[map + top * columns + right] * a;
      const lower = logits[map + bottom * columns + left] * (1 - a) + logits[map + bottom * columns + right] * a;
      values[at] = upper * (1 - b) + lower * b;
    }
  }
  return values;
}

/** How likely a cell is one of these labels. */
function probability(logits, count, cell, ids) {
  let greatest = -Infinity;
  for (let at = cell; at < logits.length; at += count) greatest = Math.max(greatest, logits[at]);
  let sum = 0;
  for (let at = cell; at < logits.length; at += count) sum += Math.exp(logits[at] - greatest);
  return ids.reduce((chosen, id) => chosen + Math.exp(logits[id * count + cell] - greatest), 0) / sum;
}

/** The upright window of the pixels of a picture that a window, which may be turned, reaches. */
function reached(window, picture) {
  const [sine, cosine] = turnOf(window).map(Math.abs);
  const [x, y] = centreOf(window);
  const wide = cosine * window.width + sine * window.height;
  const high = sine * window.width + cosine * window.height;
  const [left, top] = [Math.max(0, Math.floor(x - wide / 2)), Math.max(0, Math.floor(y - high / 2))];
  const right = Math.min(picture.width, Math.ceil(x + wide / 2));
  const bottom = Math.min(picture.height, Math.ceil(y + high / 2));
  return { x: left, y: top, width: right - left, height: bottom - top };
}
