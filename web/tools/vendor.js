// Puts into vendor/, which git ignores, what the pages need and is not ours, and the bundled models as ONNX. Afterwards
// the pages need no network. `npm run vendor`; PYTHON names the Python that has faceparse[export], if not found.

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const WEB = fileURLToPath(new URL("..", import.meta.url));
const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));
const MODULES = join(WEB, "node_modules");
const VENDOR = join(WEB, "vendor");
const MODELS = ["lite", "finder"];

const FILES = {
  "transformers/transformers.min.js": join(MODULES, "@huggingface/transformers/dist/transformers.min.js"),
  "transformers/LICENSE": join(MODULES, "@huggingface/transformers/LICENSE"),
  // ONNX Runtime twice: with WebGPU, and half the size without.
  ...Object.fromEntries(
    ["asyncify.mjs", "asyncify.wasm", "mjs", "wasm"].map((end) => [
      `transformers/ort-wasm-simd-threaded.${end}`,
      join(MODULES, "onnxruntime-web/dist", `ort-wasm-simd-threaded.${end}`),
    ]),
  ),
  "p5/p5.min.js": join(MODULES, "p5/lib/p5.min.js"),
  "closeup.jpg": join(REPOSITORY, "samples/closeup.jpg"),
};

if (!existsSync(MODULES)) fail("The packages are not installed: run `npm ci` in web/ first.");
for (const [name, source] of Object.entries(FILES)) {
  const target = join(VENDOR, name);
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(source, target);
}

for (const name of MODELS) {
  const folder = join(VENDOR, "models", name);
  const graph = join(folder, "onnx", "model.onnx");
  const weights = join(REPOSITORY, "faceparse_core", "weights", `${name}.safetensors`);
  if (existsSync(graph) && age(graph) >= age(weights)) continue;
  rmSync(folder, { recursive: true, force: true });
  const python = findPython();
  console.log(`Exporting ${name}, which comes with the package, with ${python} …`);
  const { status } = spawnSync(python, ["-m", "faceparse_core", "export", name, "--out", folder], {
    cwd: REPOSITORY,
    stdio: "inherit",
  });
  if (status !== 0) fail(`${name} could not be exported (see above).`);
}
console.log(`Everything is in ${VENDOR}`);

/** When a file was written. */
function age(path) {
  return statSync(path).mtimeMs;
}

/** The first Python that can export. */
function findPython() {
  const own = [".venv/bin/python", ".venv/Scripts/python.exe"].map((path) => join(REPOSITORY, path));
  const candidates = [process.env.PYTHON, ...own.filter(existsSync), "python3", "python"].filter(Boolean);
  const works = (python) => spawnSync(python, ["-c", "import torch, onnx, onnxruntime"]).status === 0;
  const python = candidates.find(works);
  if (!python) {
    fail(
      `No Python here can export the model (tried ${candidates.join(", ")}). In the repository:\n` +
        '  python3 -m venv .venv && .venv/bin/pip install ".[export]" -c constraints.txt\n' +
        "or name one that has faceparse[export]: PYTHON=/path/to/python npm run demo",
    );
  }
  return python;
}

function fail(message) {
  console.error(message);
  process.exit(1);
}
