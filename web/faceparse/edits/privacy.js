// Faces hidden so that nobody can tell whose they are, as edits/privacy.py does it: how coarse follows from each face.

import { distances } from "./grids.js";

const CELLS = 8; // at most so many are left across a face
const WIDTH = 0.75; // a face seen from the side is narrower than it is
const SPARE = 0.06;
const AROUND = 0.25;

/** Puts blocks over each of the `faces` ({ x, y, width, height } in pixels) where `mask` is not 0, into RGBA pixels. */
export function pixelate(pixels, mask, faces, width, height) {
  const before = pixels.slice();
  const owner = nearest(mask, faces, width, height);
  faces.forEach((face, index) => {
    const cell = Math.max(1, sizeOf(face) / CELLS);
    const across = cellsOf(face.x, cell, width);
    const down = cellsOf(face.y, cell, height);
    const sums = new Map(); // of the cells that are needed
    const meanOf = (row, column) => {
      const key = row * across.count + column;
      if (!sums.has(key)) sums.set(key, meanOver(before, width, down.ends(row), across.ends(column)));
      return sums.get(key);
    };
    for (let i = 0; i < mask.length; i++) {
      if (owner[i] !== index + 1) continue;
      const mean = meanOf(down.of[Math.floor(i / width)], across.of[i % width]);
      const share = mask[i] / 255;
      for (let channel = 0; channel < 3; channel++) {
        pixels[4 * i + channel] = before[4 * i + channel] + (mean[channel] - before[4 * i + channel]) * share;
      }
    }
  });
}

/** Cells along an axis, of which one begins at `start`: that of each pixel, and where each of them ends. */
function cellsOf(start, size, count) {
  const first = Math.floor(-start / size) - 2;
  const edge = (cell) => toEven(start + (cell + first) * size);
  const of = new Int32Array(count);
  for (let pixel = 0, cell = 0; pixel < count; pixel++) {
    while (edge(cell + 1) <= pixel) cell++;
    of[pixel] = cell;
  }
  const ends = (cell) => [Math.max(edge(cell), 0), Math.min(edge(cell + 1), count)];
  return { of, ends, count: of[count - 1] + 1 };
}

/** Rounded as Python does it: a half to the even number. */
function toEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function meanOver(pixels, width, [top, bottom], [left, right]) {
  const sums = [0, 0, 0];
  for (let y = top; y < bottom; y++) {
    for (let x = left, at = 4 * (y * width + left); x < right; x++, at += 4) {
      for (let channel = 0; channel < 3; channel++) sums[channel] += pixels[at + channel];
    }
  }
  return sums.map((sum) => sum / ((bottom - top) * (right - left)));
}

/** For each pixel of the mask the number of the nearest face, from 1 on; 0 outside. */
function nearest(mask, faces, width, height) {
  const owner = new Uint8Array(mask.length);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!mask[at]) continue;
      let least = Infinity;
      for (let index = 0; index < faces.length; index++) {
        const far = farness(faces[index], x + 0.5, y + 0.5);
        if (far < least) [least, owner[at]] = [far, index + 1];
      }
    }
  }
  return owner;
}

/**
 * What is to be hidden, 0 or 255: somewhat more than the labels of the faces, and an oval in each one's box in any case.
 * `inside`: not 0 where a label belongs to a face.
 */
export function hiddenArea(inside, faces, width, height) {
  const mask = new Uint8Array(inside.length);
  for (const face of faces) {
    const size = sizeOf(face);
    const [left, right] = [face.x - AROUND * size, face.x + face.width + AROUND * size];
    const [top, bottom] = [face.y - AROUND * size, face.y + face.height + AROUND * size];
    const box = { x: Math.max(0, Math.floor(left)), y: Math.max(0, Math.floor(top)) };
    box.width = Math.min(width, Math.floor(right) + 1) - box.x;
    box.height = Math.min(height, Math.floor(bottom) + 1) - box.y;
    const mine = new Uint8Array(box.width * box.height);
    for (let y = 0, at = 0; y < box.height; y++) {
      for (let x = 0; x < box.width; x++, at++) mine[at] = inside[(box.y + y) * width + box.x + x] ? 1 : 0;
    }
    const owner = nearest(mine, faces.map((one) => ({ ...one, x: one.x - box.x, y: one.y - box.y })), box.width, box.height);
    const own = faces.indexOf(face) + 1;
    const far = distances(owner.map((one) => (one === own ? 1 : 0)), box.width, box.height);
    const reach = Math.max(1, SPARE * size) ** 2;
    for (let y = 0, at = 0; y < box.height; y++) {
      for (let x = 0; x < box.width; x++, at++) {
        const across = ((box.x + x + 0.5 - face.x) / face.width) * 2 - 1;
        const down = ((box.y + y + 0.5 - face.y) / face.height) * 2 - 1;
        if (far[at] <= reach || across ** 2 + down ** 2 <= 1) mask[(box.y + y) * width + box.x + x] = 255;
      }
    }
  }
  return mask;
}

/** The boxes of what is `inside`, in connected parts; none that is much smaller than the largest. */
export function facesIn(inside, width, height) {
  const seen = inside.map((value) => (value ? 0 : 1));
  const found = [];
  const waiting = [];
  for (let start = 0; start < seen.length; start++) {
    if (seen[start]) continue;
    let [left, right, top, bottom, count] = [width, 0, height, 0, 0];
    seen[start] = 1;
    waiting.push(start);
    while (waiting.length) {
      const at = waiting.pop();
      const [x, y] = [at % width, Math.floor(at / width)];
      count++;
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
      for (const [other, there] of [
        [at - 1, x > 0],
        [at + 1, x < width - 1],
        [at - width, y > 0],
        [at + width, y < height - 1],
      ]) {
        if (!there || seen[other]) continue;
        seen[other] = 1;
        waiting.push(other);
      }
    }
    found.push({ x: left, y: top, width: right - left + 1, height: bottom - top + 1, count });
  }
  const most = Math.max(...found.map((face) => face.count), 0);
  return found.filter((face) => face.count > most / 50);
}

function sizeOf(face) {
  return Math.max(face.width, WIDTH * face.height);
}

function farness(face, x, y) {
  const size = Math.max(face.width, face.height);
  return ((x - face.x - face.width / 2) / size) ** 2 + ((y - face.y - face.height / 2) / size) ** 2;
}
