// The worker behind client.js: keeps the model and the picture that was parsed last; answers one call after another.

import { change } from "./edits/several.js";
import { bands, pixelsOf } from "./frame.js";
import { LABELS } from "./labels.js";
import { FaceParser } from "./parser.js";
import { encodePng } from "./png.js";

let parser;
let picture; // ImageBitmap, as large as the picture is
let rendering;

const calls = {
  async load(options) {
    parser = await FaceParser.load(options);
    const { model, device, dtype, threads, note, loadTime } = parser;
    return { model, device, dtype, threads, note, loadTime };
  },

  async parse(source, longest, faces) {
    if (!parser) throw new Error("The model is not loaded.");
    const start = performance.now();
    const decoded = source instanceof ImageBitmap ? source : await decode(source);
    const decodeTime = performance.now() - start;
    let parsed;
    try {
      parsed = await parser.parse(decoded, { faces });
    } catch (error) {
      decoded.close();
      throw error;
    }
    picture?.close();
    [picture, rendering] = [decoded, parsed];
    const { width, height } = picture;
    // What is looked at need not be larger than a screen, and labels are sharp at any size.
    const scale = longest / Math.max(width, height);
    const shown = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
    const preview = await createImageBitmap(picture, {
      resizeWidth: shown.width,
      resizeHeight: shown.height,
      resizeQuality: "high",
    });
    const before = performance.now();
    const labels = rendering.labelMap(shown.width, shown.height);
    const end = performance.now();
    const times = { decode: decodeTime, ...rendering.times, render: end - before, total: end - start };
    return reply({ width, height, preview, labels, faces: rendering.faces, times }, [preview, labels.buffer]);
  },

  async labels(width, height) {
    const labels = parsed().labelMap(width, height);
    return reply(labels, [labels.buffer]);
  },

  async mask(ids, options) {
    const mask = parsed().mask(ids, options);
    return reply(mask, [mask.buffer]);
  },

  async edit(wanted, width, height) {
    const start = performance.now();
    const pixels = change(pixelsOf(picture, width, height), width, height, parsed(), wanted);
    return reply({ pixels, time: performance.now() - start }, [pixels.buffer]);
  },

  /** A file of the picture's own size, with what is wanted of it changed. */
  async editedPng(wanted) {
    const { width, height } = parsed();
    const pixels = change(pixelsOf(picture, width, height), width, height, rendering, wanted);
    return encodePng({ width, height, channels: 4 }, [pixels]);
  },

  /** A file of the picture's own size: "labels" (a pixel's value is its label's id), "mask" or "cutout" of `ids`. */
  async png(kind, ids, soft) {
    const { width, height } = parsed();
    if (kind === "labels") {
      const palette = LABELS.map((label) => label.colour);
      return encodePng({ width, height, palette }, [rendering.labelMap()]);
    }
    const mask = rendering.mask(ids, { soft });
    return encodePng({ width, height, channels: kind === "mask" ? 1 : 4 }, kind === "mask" ? [mask] : cutOut(mask));
  },
};

function parsed() {
  if (!rendering) throw new Error("No picture has been parsed.");
  return rendering;
}

async function decode(file) {
  try {
    return await createImageBitmap(file);
  } catch (error) {
    throw new Error(
      `This browser cannot read ${file.name ? `"${file.name}"` : "this"} as a picture. ` +
        "JPEG, PNG, WebP, AVIF and GIF work.",
      { cause: error },
    );
  }
}

/** The picture with a mask as its alpha, RGBA, in bands; no colour is left where nothing shows. */
function* cutOut(mask) {
  for (const { top, pixels } of bands(picture)) {
    const whole = new Uint32Array(pixels.buffer); // a pixel each
    for (let i = 0, at = top * picture.width; i < whole.length; i++, at++) {
      if (mask[at]) pixels[4 * i + 3] = mask[at];
      else whole[i] = 0;
    }
    yield pixels;
  }
}

/** A result with what is handed over instead of copied. */
function reply(result, transfer) {
  return { result, transfer };
}

let turn = Promise.resolve();
self.onmessage = ({ data: { id, name, args } }) => {
  turn = turn.then(async () => {
    try {
      const answer = await calls[name](...args);
      const { result, transfer } = answer?.transfer ? answer : { result: answer, transfer: [] };
      self.postMessage({ id, result }, transfer);
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
};
