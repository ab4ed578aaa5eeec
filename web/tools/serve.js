// Serves this folder to browsers on this machine: `node tools/serve.js`. PORT in the environment; 8000, 0: any free.
//
// Any static server will do. This one adds the two headers with which a browser allows a page several threads
// (cross-origin isolation): without them the model runs on one thread.

import { createServer } from "node:http";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".svg": "image/svg+xml",
  ".jpg": "image/jpeg",
  ".png": "image/png",
};
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-cache", // ask again, but send nothing twice
};

const server = createServer(async (request, response) => {
  const answer = (status, headers = {}, text = "") => response.writeHead(status, { ...HEADERS, ...headers }).end(text);
  if (request.method !== "GET" && request.method !== "HEAD") return answer(405, { Allow: "GET, HEAD" });
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/") return answer(302, { Location: "/demo/" });
  try {
    let path = normalize(join(ROOT, decodeURIComponent(pathname)));
    const hidden = path
      .slice(ROOT.length)
      .split(sep)
      .some((part) => part.startsWith(".") || part === "node_modules");
    if (!path.startsWith(ROOT) || hidden) return answer(404, {}, "There is no such file.");
    let file = await stat(path);
    if (file.isDirectory()) {
      if (!pathname.endsWith("/")) return answer(302, { Location: `${pathname}/` });
      path = join(path, "index.html");
      file = await stat(path);
    }
    const headers = {
      "Content-Type": TYPES[extname(path)] ?? "application/octet-stream",
      ETag: `"${file.size}-${Math.trunc(file.mtimeMs)}"`,
    };
    if (request.headers["if-none-match"] === headers.ETag) return answer(304, headers);
    response.writeHead(200, { ...HEADERS, ...headers, "Content-Length": file.size });
    if (request.method === "HEAD") response.end();
    else createReadStream(path).pipe(response);
  } catch (error) {
    if (!["ENOENT", "ENOTDIR"].includes(error.code) && !(error instanceof URIError)) console.error(error);
    answer(404, {}, "There is no such file.");
  }
});

server.on("error", (error) => {
  const taken =
    error.code === "EADDRINUSE" ? `port ${error.port} is taken: give another, PORT=8001 npm run demo` : error;
  console.error(`The server cannot start: ${taken}`);
  process.exitCode = 1;
});
server.listen(Number(process.env.PORT ?? 8000), "127.0.0.1", () => {
  const address = `http://127.0.0.1:${server.address().port}`;
  console.log(`The demo: ${address}/demo/\nThe p5.js sketch: ${address}/p5js/\nCtrl-C ends the server.`);
});
