// The parser as pages use it: in a worker, so that nothing freezes while the model computes.
//
//   const parser = await startParser();
//   const { labels, preview } = await parser.parse(file);       // a File, Blob, ImageBitmap, canvas, video or <img>
//   const mask = await parser.mask(regionIds("hair"));          // Uint8Array, 0..255, of the picture's size

export { GROUPS, LABELS, regionIds } from "./labels.js";

/** Starts a worker and loads a model into it; the options are those of `FaceParser.load`. */
export async function startParser(options = {}) {
  const parser = new Client();
  Object.assign(parser, await parser.call("load", [options]));
  return parser;
}

class Client {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #next = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.#worker.onerror = (event) => {
      const error = new Error(`The worker failed: ${event.message ?? "it could not be loaded"}`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    };
  }

  /** Calls a function of worker.js. */
  call(name, args = [], transfer = []) {
    return new Promise((resolve, reject) => {
      this.#waiting.set(++this.#next, { resolve, reject });
      this.#worker.postMessage({ id: this.#next, name, args }, transfer);
    });
  }

  /**
   * Parses a picture, face by face where no single one fills it. Gives its `width` and `height`; `preview`, an
   * ImageBitmap of it whose longer side is `longest` pixels; `labels`, Uint8Array, the label of each pixel of the
   * preview; its `faces`, the largest first (see faces.js); and `times` in milliseconds. `faces: "image"` takes every
   * picture for the portrait of one face, and looks for none.
   */
  async parse(source, { longest = 1024, faces = "auto" } = {}) {
    if (source instanceof Blob) return this.call("parse", [source, longest, faces]);
    const bitmap = await createImageBitmap(source);
    return this.call("parse", [bitmap, longest, faces], [bitmap]);
  }

  /** The label of each pixel of the last picture, Uint8Array [height, width], at its own size or another. */
  labels(width, height) {
    return this.call("labels", [width, height]);
  }

  /** The mask of label ids in the last picture, Uint8Array 0..255: `soft`, or 0 and 255; at its own size or another. */
  mask(ids, { soft = true, width, height } = {}) {
    return this.call("mask", [ids, { soft, width, height }]);
  }

  /**
   * The last picture at this size with what is `wanted` changed, see edits/several.js: `pixels`, RGBA in a
   * Uint8ClampedArray, and the `time` it took in milliseconds.
   */
  edit(wanted, width, height) {
    return this.call("edit", [wanted, width, height]);
  }

  /** The same as a PNG file (a Blob), as large as the picture. */
  editedPng(wanted) {
    return this.call("editedPng", [wanted]);
  }

  /** A PNG file (a Blob) of the last picture's size: "labels", or the "mask" or the "cutout" of label ids. */
  png(kind, ids = [], { soft = true } = {}) {
    return this.call("png", [kind, ids, soft]);
  }

  close() {
    this.#worker.terminate();
  }
}
