// FaceParser: a model, run by Transformers.js; pictures in, a Rendering out. It blocks the thread it runs in while the
// model computes: pages use it through client.js, in a worker.

import { fillFrame, frameOf } from "./frame.js";
import { LABELS } from "./labels.js";
import { Rendering } from "./rendering.js";

/** Where Transformers.js comes from: files beside this page (`npm run vendor`), or a CDN, by the same version. */
export const SOURCES = {
  vendor: new URL("../vendor/transformers/", import.meta.url).href,
  cdn: "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.1/dist/",
};
export const MODELS = new URL("../vendor/models/", import.meta.url).href;

const THREADS = 4; // at most: more of them gain little

export class FaceParser {
  /**
   * Loads a model.
   *
   * `model`: a folder under `models`, as `faceparse export` writes it; `source`: a key of SOURCES; `device`: "auto"
   * (WebGPU where the browser has it, else WASM), "webgpu" or "wasm"; `dtype`: "auto", "fp32", "fp16" or "q8".
   * Throws an Error that says what to do where the model or Transformers.js is not there.
   */
  static async load({ model = "lite", models = MODELS, source = "vendor", device = "auto", dtype = "auto" } = {}) {
    const start = performance.now();
    const [files, adapter] = await Promise.all([describe(models, model), findAdapter(device)]);
    if (device === "webgpu" && !adapter) throw new Error("This browser has no WebGPU; WASM works in every one.");
    const options = { models, model, dtype, ...files };
    const transformers = await importTransformers(source, adapter !== null);
    const parser = new FaceParser();
    Object.assign(parser, files, { transformers, note: "" });
    if (adapter) {
      try {
        await parser.#start(options, "webgpu", adapter.features.has("shader-f16") ? "fp16" : "fp32");
        // Shaders are compiled at the first run, and what does not work shows there.
        await parser.run(new Float32Array(3 * parser.side ** 2), parser.side, parser.side);
      } catch (error) {
        if (device === "webgpu") throw error;
        parser.note = `WebGPU was tried and failed: ${error.message}`;
        parser.network = null;
      }
    }
    // fp16 halves the download; ONNX Runtime computes in fp32 on WASM, so it is as fast, and its labels are fp32's.
    if (!parser.network) await parser.#start(options, "wasm", "fp16");
    parser.loadTime = performance.now() - start;
    return parser;
  }

  async #start({ models, model, dtype }, device, best) {
    const { AutoModelForSemanticSegmentation, env } = this.transformers;
    env.allowRemoteModels = false;
    env.allowLocalModels = true;
    env.localModelPath = models;
    env.useBrowserCache = false; // the ordinary cache notices changed files
    this.device = device;
    this.dtype = dtype === "auto" ? best : dtype;
    this.threads = device === "wasm" ? env.backends.onnx.wasm.numThreads : null;
    this.network = await AutoModelForSemanticSegmentation.from_pretrained(model, { device, dtype: this.dtype });
  }

  /** The logits, a tensor [1, 19, height / 4, width / 4], of an input as `fillFrame` makes it. */
  async run(input, width, height) {
    const pixels = new this.transformers.Tensor("float32", input, [1, 3, height, width]);
    const { logits } = await this.network({ pixel_values: pixels });
    return logits;
  }

  /** Parses a picture, an ImageBitmap or a canvas. Gives a Rendering, with the milliseconds of each step in `times`. */
  async parse(picture) {
    const start = performance.now();
    const frame = frameOf(picture.width, picture.height, this.side);
    const input = fillFrame(picture, frame, this.mean, this.std);
    const prepared = performance.now();
    const logits = await this.run(input, frame.width, frame.height);
    const done = performance.now();
    const rendering = new Rendering(logits.data, logits.dims.slice(1), frame.window, picture.width, picture.height);
    logits.dispose?.();
    rendering.times = { prepare: prepared - start, run: done - prepared };
    return rendering;
  }
}

/** A GPU, or null. One that the processor imitates takes 100 times as long: only where WebGPU is asked for. */
async function findAdapter(device) {
  if (device === "wasm") return null;
  const adapter = await globalThis.navigator?.gpu?.requestAdapter().catch(() => null);
  const imitated = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;
  return adapter && (device === "webgpu" || !imitated) ? adapter : null;
}

async function importTransformers(source, webgpu) {
  const base = SOURCES[source];
  if (!base) throw new Error(`Transformers.js comes from ${Object.keys(SOURCES).join(" or ")}, not from "${source}".`);
  let transformers;
  try {
    transformers = await import(`${base}transformers.min.js`);
  } catch (error) {
    const help =
      source === "cdn" ? "Is there a connection to it?" : "Run `npm ci` and `npm run vendor` in the folder web/.";
    throw new Error(`Transformers.js could not be loaded from ${base}. ${help}`, { cause: error });
  }
  const { wasm } = transformers.env.backends.onnx;
  // The build without WebGPU is half as large, and starts in half the time.
  const build = `ort-wasm-simd-threaded${webgpu ? ".asyncify" : ""}`;
  for (const kind of ["mjs", "wasm"]) {
    const folder = source === "vendor" ? base : new URL(".", wasm.wasmPaths[kind]).href;
    wasm.wasmPaths[kind] = `${folder}${build}.${kind}`;
  }
  transformers.env.useWasmCache = false; // so that it is compiled while it arrives; the browser's own cache is enough
  // Several threads need a page that is isolated from other origins (see tools/serve.js).
  wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency) : 1;
  return transformers;
}

/** What the model's own files say of it; they are also the test whether it is there. */
async function describe(models, model) {
  const read = async (file) => {
    const response = await fetch(`${models}${model}/${file}`).catch(() => null);
    if (!response?.ok) {
      throw new Error(
        `The model "${model}" is not there (${models}${model}/). Run \`npm run vendor\` in the folder web/; it ` +
          `exports the bundled model. Others: faceparse export CHECKPOINT --out web/vendor/models/NAME`,
      );
    }
    return response.json();
  };
  const [config, preprocessor] = await Promise.all([read("config.json"), read("preprocessor_config.json")]);
  const wrong = LABELS.filter((label) => config.id2label?.[label.id] !== label.name);
  if (wrong.length)
    throw new Error(`The labels of the model "${model}" are not the 19 of CelebAMask-HQ in their order.`);
  return { model, side: preprocessor.size.height, mean: preprocessor.image_mean, std: preprocessor.image_std };
}
