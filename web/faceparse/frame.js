// How a picture is laid out for the network, and brought there: what parser.py, images.py and faces/windows.py do in
// Python.

import { centreOf, turnOf } from "./faces.js";

const STRIDE = 32; // input sizes are multiples of it
const BESIDE_FACES = 0.75; // of the side, where faces are looked at by themselves
const AS_THEY_ARE = { mean: [0, 0, 0], std: [1 / 255, 1 / 255, 1 / 255] }; // pixels that are not normalised yet
const STRETCH_UP_TO = 1.1; // up to this ratio of the sides a picture is stretched to the square, beyond it padded
const LARGEST_SIDE = 4096; // a window whose side is longer is cut out of a reduced picture
const BAND_PIXELS = 1 << 20; // so many pixels are read at a time: a big photo never lies twice in memory

/** The side for the look at a whole picture whose faces are looked at by themselves: what is left to it is large. */
export const sideBesideFaces = (side) => STRIDE * Math.ceil((BESIDE_FACES * side) / STRIDE);

/**
 * The network's input for a picture of this size: `width` and `height` of the input; `inner`, the rectangle in it that
 * the picture fills; `window`, the input's rectangle in the pixels of the picture (it may reach beyond it).
 */
export function frameOf(pictureWidth, pictureHeight, side = 512) {
  const longer = Math.max(pictureWidth, pictureHeight);
  const shorter = Math.min(pictureWidth, pictureHeight);
  let [width, height] = [side, side];
  let inner = { x: 0, y: 0, width, height };
  if (longer > STRETCH_UP_TO * shorter) {
    // As many pixels as the square has, but nothing longer than twice its side.
    const scale = Math.min(side / Math.sqrt(pictureWidth * pictureHeight), (2 * side) / longer);
    const innerWidth = Math.max(1, Math.round(pictureWidth * scale));
    const innerHeight = Math.max(1, Math.round(pictureHeight * scale));
    width = STRIDE * Math.ceil(innerWidth / STRIDE);
    height = STRIDE * Math.ceil(innerHeight / STRIDE);
    inner = { x: (width - innerWidth) >> 1, y: (height - innerHeight) >> 1, width: innerWidth, height: innerHeight };
  }
  const across = pictureWidth / inner.width;
  const down = pictureHeight / inner.height;
  const window = { x: -inner.x * across, y: -inner.y * down, width: width * across, height: height * down };
  return { width, height, inner, window };
}

/**
 * The input of the network, Float32Array [3, height, width], normalised: the picture resized into the frame, zero (the
 * mean colour) around it. Bilinear with antialias, as Pillow does it: a canvas would resize otherwise in each browser.
 */
export function fillFrame(picture, frame, mean, std) {
  const { inner } = frame;
  const across = taps(picture.width, inner.width);
  const down = taps(picture.height, inner.height);
  const plane = frame.width * frame.height;
  const input = new Float32Array(3 * plane);
  const row = new Float32Array(3 * inner.width);
  let first = 0; // output rows before this one are complete
  for (const { top, height, pixels } of bands(picture)) {
    for (let y = 0; y < height; y++) {
      resizeRow(pixels, y * picture.width * 4, across, row);
      const source = top + y;
      while (first < inner.height && down.starts[first] + down.counts[first] <= source) first++;
      for (let out = first; out < inner.height && down.starts[out] <= source; out++) {
        const share = down.weights[out * down.most + source - down.starts[out]];
        let at = (inner.y + out) * frame.width + inner.x;
        for (let x = 0; x < row.length; x += 3, at++) {
          input[at] += share * row[x];
          input[at + plane] += share * row[x + 1];
          input[at + 2 * plane] += share * row[x + 2];
        }
      }
    }
  }
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < inner.height; y++) {
      const start = channel * plane + (inner.y + y) * frame.width + inner.x;
      normalise(input, start, start + inner.width, mean[channel], std[channel]);
    }
  }
  return input;
}

/** Values of 0 to 255 as the network takes them, in place; made whole first: in Python pixels are bytes. */
function normalise(values, start, end, mean, std) {
  const scale = 1 / (255 * std);
  const shift = mean / std;
  for (let at = start; at < end; at++) values[at] = Math.round(values[at]) * scale - shift;
}

/**
 * What lies in a square window of a picture, which may be turned, as the network takes it: upright, `size` pixels a
 * side, Float32Array [3, size, size], normalised, the mean colour beyond the picture.
 */
export function cut(picture, window, size, mean, std) {
  const [sine, cosine] = turnOf(window);
  const [x, y] = centreOf(window);
  const reach = window.width * (Math.abs(sine) + Math.abs(cosine));
  const [left, top] = [Math.floor(x - reach / 2), Math.floor(y - reach / 2)];
  const side = Math.max(1, Math.round(reach));
  const shrink = Math.max(1, side / LARGEST_SIDE);
  const canvas = new OffscreenCanvas(Math.round(side / shrink), Math.round(side / shrink));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const { width, height } = canvas;
  context.fillStyle = `rgb(${mean.map((value) => Math.floor(255 * value)).join(" ")})`;
  context.fillRect(0, 0, width, height);
  // Only what lies in both: a bitmap that reaches far beyond a canvas may be drawn with errors.
  const from = [Math.max(0, left), Math.max(0, top)];
  const until = [Math.min(picture.width, left + side), Math.min(picture.height, top + side)];
  const [across, down] = [until[0] - from[0], until[1] - from[1]];
  if (across > 0 && down > 0) {
    const to = [from[0] - left, from[1] - top, across, down].map((value) => value / shrink);
    context.clearRect(...to);
    context.fillStyle = "white"; // where the picture is transparent
    context.fillRect(...to);
    context.drawImage(picture, ...from, across, down, ...to);
  }
  if (!window.angle) {
    const inner = { x: 0, y: 0, width: size, height: size };
    return fillFrame(canvas, { width: size, height: size, inner }, mean, std);
  }
  // What is reduced is so before it is turned; turning enlarges by itself.
  const scaled = Math.min(width, Math.round((size * side) / window.width));
  const inner = { x: 0, y: 0, width: scaled, height: scaled };
  const piece = fillFrame(canvas, { width: scaled, height: scaled, inner }, AS_THEY_ARE.mean, AS_THEY_ARE.std);
  const step = (window.width / side) * (scaled / size); // of a pixel of the result, in pixels of the piece
  const [middleX, middleY] = [((x - left) * scaled) / side - 0.5, ((y - top) * scaled) / side - 0.5];
  const result = turned(piece, scaled, size, (u, v) => {
    const [a, b] = [(u - size / 2) * step, (v - size / 2) * step];
    return [middleX + cosine * a - sine * b, middleY + sine * a + cosine * b];
  });
  for (let channel = 0; channel < 3; channel++) {
    normalise(result, channel * size * size, (channel + 1) * size * size, mean[channel], std[channel]);
  }
  return result;
}

/** A square of planes, `from` pixels a side, at the places that `place` gives for those of the result, bilinear. */
function turned(planes, from, size, place) {
  const result = new Float32Array(3 * size * size);
  const inside = (value) => Math.min(Math.max(value, 0), from - 1);
  for (let v = 0, at = 0; v < size; v++) {
    for (let u = 0; u < size; u++, at++) {
      const [x, y] = place(u + 0.5, v + 0.5).map(inside);
      const [left, top] = [Math.floor(x), Math.floor(y)];
      const [right, bottom] = [Math.min(left + 1, from - 1), Math.min(top + 1, from - 1)];
      const [a, b] = [x - left, y - top];
      for (let channel = 0, plane = 0; channel < 3; channel++, plane += from * from) {
        const upper = planes[plane + top * from + left] * (1 - a) + planes[plane + top * from + right] * a;
        const lower = planes[plane + bottom * from + left] * (1 - a) + planes[plane + bottom * from + right] * a;
        result[channel * size * size + at] = upper * (1 - b) + lower * b;
      }
    }
  }
  return result;
}

/**
 * The pixels of a picture (an ImageBitmap or a canvas), RGBA, in bands of rows from the top; over white where it is
 * transparent.
 */
export function* bands(picture) {
  const { width, height } = picture;
  const step = Math.max(1, Math.min(height, Math.floor(BAND_PIXELS / width)));
  const canvas = new OffscreenCanvas(width, step);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += step) {
    const rows = Math.min(step, height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(picture, 0, top, width, rows, 0, 0, width, rows);
    yield { top, height: rows, pixels: context.getImageData(0, 0, width, rows).data };
  }
}

/** All pixels of a picture, RGBA, at this size; over white where it is transparent. */
export function pixelsOf(picture, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  Object.assign(context, { fillStyle: "white", imageSmoothingQuality: "high" });
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

/** For each output sample along an axis: the first input sample it takes, how many, and their weights (`most` each). */
function taps(from, to) {
  const scale = from / to;
  const reach = Math.max(1, scale); // a triangle of one output pixel, or of one input pixel where it is enlarged
  const most = Math.ceil(reach) * 2 + 1;
  const starts = new Int32Array(to);
  const counts = new Int32Array(to);
  const weights = new Float32Array(to * most);
  for (let out = 0; out < to; out++) {
    const centre = (out + 0.5) * scale;
    const start = Math.max(0, Math.floor(centre - reach + 0.5));
    const end = Math.min(from, Math.floor(centre + reach + 0.5));
    let total = 0;
    for (let i = start; i < end; i++) {
      const weight = Math.max(0, 1 - Math.abs((i + 0.5 - centre) / reach));
      weights[out * most + i - start] = weight;
      total += weight;
    }
    for (let i = 0; i < end - start; i++) weights[out * most + i] /= total;
    starts[out] = start;
    counts[out] = end - start;
  }
  return { starts, counts, weights, most };
}

/** One row of RGBA `pixels`, from `offset`, resized into `row`, RGB, whole values: as Pillow does it. */
function resizeRow(pixels, offset, { starts, counts, weights, most }, row) {
  for (let out = 0; out < starts.length; out++) {
    let red = 0;
    let green = 0;
    let blue = 0;
    let at = offset + 4 * starts[out];
    for (let i = out * most, end = i + counts[out]; i < end; i++, at += 4) {
      const weight = weights[i];
      red += weight * pixels[at];
      green += weight * pixels[at + 1];
      blue += weight * pixels[at + 2];
    }
    row[3 * out] = Math.round(red);
    row[3 * out + 1] = Math.round(green);
    row[3 * out + 2] = Math.round(blue);
  }
}
