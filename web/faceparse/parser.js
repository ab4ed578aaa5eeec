// FaceParser: a model, run by Transformers.js; pictures in, a Rendering out. It blocks the thread it runs in while the
// model computes: pages use it through client.js, in a worker.

import { fills, framing } from "./faces.js";
import { Finder } from "./finder.js";
import { cut, fillFrame, frameOf, sideBesideFaces } from "./frame.js";
import { LABELS } from "./labels.js";
import { Rendering, Scene } from "./rendering.js";
import { compose, isShown } from "./windows.js";

/** Where Transformers.js comes from: files beside this page (`npm run vendor`), or a CDN, by the same version. */
export const SOURCES = {
  vendor: new URL("../vendor/transformers/", import.meta.url).href,
  cdn: "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.1/dist/",
};
export const MODELS = new URL("../vendor/models/", import.meta.url).href;

const FINDER = "finder"; // the folder of the network that finds faces
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
    const [files, adapter] = await Promise.all([
      describe(models, model),
      findAdapter(device),
      read(models, FINDER, "config.json"),
    ]);
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
    const { AutoModelForSemanticSegmentation, PreTrainedModel, env } = this.transformers;
    env.allowRemoteModels = false;
    env.allowLocalModels = true;
    env.localModelPath = models;
    env.useBrowserCache = false; // the ordinary cache notices changed files
    this.device = device;
    this.dtype = dtype === "auto" ? best : dtype;
    this.threads = device === "wasm" ? env.backends.onnx.wasm.numThreads : null;
    // The finder is small, and in half precision its boxes would be pixels off.
    [this.network, this.finding] = await Promise.all([
      AutoModelForSemanticSegmentation.from_pretrained(model, { device, dtype: this.dtype }),
      PreTrainedModel.from_pretrained(FINDER, { device, dtype: "fp32" }),
    ]);
    this.finder = new Finder((input, width, height) => this.run(input, width, height, this.finding));
  }

  /** The logits, a tensor [1, 19, height / 4, width / 4], of an input as `fillFrame` makes it. */
  async run(input, width, height, network = this.network) {
    const pixels = new this.transformers.Tensor("float32", input, [1, 3, height, width]);
    const { logits } = await network({ pixel_values: pixels });
    return logits;
  }

  /**
   * Parses a picture, an ImageBitmap or a canvas. Gives a Rendering or, of a picture that no single face fills, a Scene
   * that was parsed face by face; with its `faces` (see faces.js), and the milliseconds of each step in `times`. With
   * `faces` "image" no faces are looked for, and the picture is taken for the portrait of one.
   */
  async parse(picture, { faces = "auto" } = {}) {
    const start = performance.now();
    const found = faces === "image" ? [] : await this.finder.find(picture);
    const times = { find: performance.now() - start, prepare: 0, run: 0 };
    const apart = found.length > 0 && !(found.length === 1 && fills(found[0], picture));
    const frame = frameOf(picture.width, picture.height, apart ? sideBesideFaces(this.side) : this.side);
    const whole = await this.#look(() => fillFrame(picture, frame, this.mean, this.std), frame, times);
    const details = [];
    if (apart) {
      for (const face of found) {
        const size = { width: this.side, height: this.side, window: framing(face) };
        const look = await this.#look(() => cut(picture, size.window, this.side, this.mean, this.std), size, times);
        if (isShown(face, look)) details.push({ face, look });
      }
    }
    const { width, height } = picture;
    let rendering;
    if (details.length) {
      const looks = details.map(({ look }) => look);
      rendering = new Scene(compose(whole, picture, looks), width, height);
      rendering.faces = details.map(({ face }, index) => ({ ...face, index }));
    } else {
      rendering = new Rendering(whole.logits, [LABELS.length, whole.rows, whole.columns], frame.window, width, height);
      rendering.faces = found.length === 1 && fills(found[0], picture) && isShown(found[0], whole) ? found : [];
    }
    return Object.assign(rendering, { times });
  }

  /** What the network makes of an input that `make` gives, of this size and window. */
  async #look(make, { width, height, window }, times) {
    const start = performance.now();
    const input = make();
    const prepared = performance.now();
    const logits = await this.run(input, width, height);
    const [, , rows, columns] = logits.dims;
    const look = { logits: Float32Array.from(logits.data), rows, columns, window };
    logits.dispose?.();
    times.prepare += prepared - start;
    times.run += performance.now() - prepared;
    return look;
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
  const [config, preprocessor] = await Promise.all(
    ["config.json", "preprocessor_config.json"].map((file) => read(models, model, file)),
  );
  const wrong = LABELS.filter((label) => config.id2label?.[label.id] !== label.name);
  if (wrong.length)
    throw new Error(`The labels of the model "${model}" are not the 19 of CelebAMask-HQ in their order.`);
  return { model, side: preprocessor.size.height, mean: preprocessor.image_mean, std: preprocessor.image_std };
}

async function read(models, model, file) {
  const response = await fetch(`${models}${model}/${file}`).catch(() => null);
  if (!response?.ok) {
    throw new Error(
      `The model "${model}" is not there (${models}${model}/). Run \`npm run vendor\` in the folder web/; it ` +
        `exports the bundled ones. Others: faceparse export CHECKPOINT --out web/vendor/models/NAME`,
    );
  }
  return response.json();
}
