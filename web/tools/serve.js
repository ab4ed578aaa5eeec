// Serves the pages of this folder to browsers on this machine: `npm run serve`. PORT in the environment; 8000, 0: any.
//
// Any static server will do. This one adds the two headers with which a browser allows a page several threads
// (cross-origin isolation): without them the model runs on one thread. Files are sent by `send`, which Express uses;
// here is decided which: those of four folders, wherever links and encodings seem to lead.

import { realpath } from "node:fs/promises";
import { createServer } from "node:http";
import { join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import send from "send";

const ROOT = await realpath(fileURLToPath(new URL("..", import.meta.url)));
const FOLDERS = ["demo", "faceparse", "p5js", "vendor"];
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-cache", // ask again, but send nothing twice
};

const server = createServer(async (request, response) => {
  const answer = (status, headers = {}) => response.writeHead(status, headers).end(status < 400 ? "" : `${status}\n`);
  for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
  if (request.method !== "GET" && request.method !== "HEAD") return answer(405, { Allow: "GET, HEAD" });
  const path = request.url.split(/[?#]/)[0];
  if (path === "/") return answer(302, { Location: "/demo/" });
  if (FOLDERS.includes(path.slice(1))) return answer(302, { Location: `${path}/` });
  const file = await find(path);
  if (!file) return answer(404);
  send(request, file, { root: ROOT, index: false, cacheControl: false })
    .on("directory", () => answer(404))
    .on("error", (error) => answer(error.status ?? 500, error.headers))
    .pipe(response);
});

/** The address below ROOT of the file that the path of a request means; undefined: there is none that may be seen. */
async function find(path) {
  const [, folder, rest] = /^\/([^/]+)\/(.*)$/s.exec(path) ?? [];
  if (!FOLDERS.includes(folder)) return undefined;
  try {
    const name = decodeURIComponent(rest);
    const file = await realpath(join(ROOT, folder, name === "" ? "index.html" : name));
    const inside = relative(join(ROOT, folder), file).split(sep);
    if (inside.some((part) => part.startsWith(".") || part === "node_modules")) return undefined; // "..": outside
    return [folder, ...inside].map(encodeURIComponent).join("/");
  } catch {
    return undefined; // no such file, or no path at all
  }
}

server.on("error", (error) => {
  const taken =
    error.code === "EADDRINUSE" ? `port ${error.port} is taken: give another, PORT=8001 npm run demo` : error;
  console.error(`The server cannot start: ${taken}`);
  process.exitCode = 1;
});

const port = process.env.PORT ?? "8000";
if (/^\d{1,5}$/.test(port) && Number(port) < 65536) {
  server.listen(Number(port), "127.0.0.1", () => {
    const address = `http://127.0.0.1:${server.address().port}`;
    console.log(`The demo: ${address}/demo/\nThe p5.js sketch: ${address}/p5js/\nCtrl-C ends the server.`);
  });
} else {
  console.error(`The server cannot start: PORT=${port} is no port. Give one from 1 to 65535, or 0 for any that is free`);
  process.exitCode = 1;
}
