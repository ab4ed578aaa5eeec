// The page: takes pictures in, shows what the worker finds in them, hands files out.

import { GROUPS, LABELS, startParser } from "../faceparse/client.js";
import { editTools } from "./edit.js";

const SAMPLE = "../vendor/closeup.jpg";
const LONGEST = 1280; // longer side of what is shown, in pixels
const LONGEST_LIVE = 800;
const LONGEST_EDITED = 480; // of the camera's frames, to keep up
const STEP = 1 / 48; // of the picture, for the arrow keys
const REGIONS = [
  "person",
  "face",
  "skin",
  "hair",
  "eyes",
  "brows",
  "lips",
  "ears",
  "head",
  "accessories",
  "background",
];

const $ = (id) => document.getElementById(id);
const settings = new URLSearchParams(location.search);

/** What was parsed last: `labels`, `width` and `height` of what is shown, `size` of the picture, `shares` by label. */
let parsed = null;
let chosen = new Set(GROUPS.person);
let lit = null; // the label that is pointed at
let cross = null; // where the keyboard is on the picture, in 0..1
let stream = null; // the camera's, while it runs
let latest = 0; // number of the latest picture: older results are dropped
let parsing = Promise.resolve(); // settled once the worker's picture is the one that is shown

const wantedEdits = editTools($("edits"), draw);
const parser = startEngine();
buildTools();
listen();
performance.mark("interactive");

// ------------------------------------------------------------------------------------------------------- the engine

async function startEngine() {
  $("unstarted").remove();
  const engine = $("engine");
  engine.className = "loading";
  try {
    const parser = await startParser({
      model: settings.get("model") ?? "lite",
      device: settings.get("device") ?? "auto",
      dtype: settings.get("dtype") ?? "auto",
      source: settings.get("from") ?? "vendor",
    });
    engine.className = "ready";
    engine.textContent = `${parser.model} · ${engineName(parser)} · loaded in ${seconds(parser.loadTime)}`;
    if (parser.note) engine.textContent += " (WebGPU failed)";
    engine.title = parser.note;
    return parser;
  } catch (error) {
    engine.className = "failed";
    engine.textContent = "No model";
    problem(error.message);
    return null;
  }
}

function engineName({ device, dtype, threads }) {
  const where = { webgpu: "WebGPU", wasm: "WASM" }[device];
  return `${dtype} on ${where}${threads ? `, ${threads} thread${threads > 1 ? "s" : ""}` : ""}`;
}

// ------------------------------------------------------------------------------------------------- pictures coming in

/** Parses a picture (a Blob) and shows it. */
async function open(source, name) {
  stopCamera();
  problem("");
  const number = ++latest;
  busy(`Parsing ${name} …`);
  const engine = await parser;
  if (!engine || number !== latest) return busy("");
  try {
    const result = await parse(engine, source, LONGEST, name, number);
    if (number !== latest) return;
    const found = LABELS.filter((label) => label.id && parsed.shares[label.id] >= 0.0005);
    const faces = result.faces.length > 1 ? `${result.faces.length} faces; ` : "";
    say(
      `${name} parsed in ${seconds(result.times.total)}. ${found.length ? `Found: ${faces}${list(found)}.` : "No person was found."}`,
    );
  } catch (error) {
    if (number === latest) problem(error.message);
  } finally {
    if (number === latest) busy("");
  }
}

/** Parses a picture, and shows it unless another one has been chosen meanwhile. */
async function parse(engine, source, longest, name, number) {
  const work = engine.parse(source, { longest }).then(async (result) => {
    if (number === latest) await show(result, name);
    return result;
  });
  parsing = work.catch(() => {});
  return work;
}

function openFiles(files) {
  const file = files[0];
  if (file) open(file, file.name || "pasted picture");
}

async function openSample() {
  const response = await fetch(SAMPLE).catch(() => null);
  if (response?.ok) open(await response.blob(), "closeup.jpg");
  else problem("The sample is not there: run `npm run vendor` in the folder web/.");
}

async function startCamera() {
  problem("");
  if (!navigator.mediaDevices?.getUserMedia) {
    return problem("The camera needs a page from this machine (127.0.0.1) or over https.");
  }
  const number = ++latest;
  let opened;
  try {
    opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } } });
  } catch (error) {
    const reasons = {
      NotAllowedError: "This page may not use the camera: allow it in the browser's address bar.",
      NotFoundError: "There is no camera.",
      NotReadableError: "The camera is used by another program.",
    };
    return problem(reasons[error.name] ?? `The camera cannot be used: ${error.message}`);
  }
  if (number !== latest) return opened.getTracks().forEach((track) => track.stop());
  stream = opened;
  stream.getVideoTracks()[0].addEventListener("ended", stopCamera);
  showSources();
  busy("Starting the camera …");
  const video = document.createElement("video");
  Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
  try {
    await video.play();
    const engine = await parser;
    while (engine && stream === opened) {
      await parse(engine, video, viewName() === "edit" ? LONGEST_EDITED : LONGEST_LIVE, "camera", number);
      busy("");
    }
  } catch (error) {
    if (stream === opened) problem(`The camera stopped: ${error.message}`);
  }
  if (stream === opened) stopCamera();
}

/** Ends the camera; the last frame stays as the picture. */
function stopCamera() {
  if (!stream) return;
  stream.getTracks().forEach((track) => track.stop());
  stream = null;
  busy("");
  showSources();
  $("view").classList.remove("live");
}

function showSources() {
  const hadFocus = $("sources").contains(document.activeElement);
  for (const id of ["choose", "camera", "sample"]) $(id).hidden = stream !== null;
  for (const id of ["snap", "stop"]) $(id).hidden = stream === null;
  if (hadFocus) $(stream ? "snap" : "camera").focus();
}

// -------------------------------------------------------------------------------------------------------- the picture

async function show({ width, height, preview, labels, faces, times }, name) {
  const counts = new Array(LABELS.length).fill(0);
  for (const label of labels) counts[label]++;
  parsed?.preview.close();
  parsed = { labels, preview, name, width: preview.width, height: preview.height, size: { width, height }, times };
  parsed.several = faces.length > 1 ? ` · ${faces.length} faces` : "";
  parsed.shares = counts.map((count) => count / labels.length);
  for (const canvas of [$("picture"), $("overlay")]) {
    // Another size, even the same one, wipes it: frames of the camera would flicker.
    if (canvas.width === parsed.width && canvas.height === parsed.height) continue;
    Object.assign(canvas, { width: parsed.width, height: parsed.height });
  }
  $("picture").getContext("2d", { willReadFrequently: true }).drawImage(preview, 0, 0);
  $("start").hidden = true;
  $("view").hidden = false;
  $("view").classList.toggle("live", stream !== null);
  $("tools").inert = false;
  $("size").textContent = `${width} × ${height}`;
  $("facts").textContent = facts();
  $("facts").dataset.milliseconds = Math.round(times.total);
  for (const row of $("labels").children) {
    const share = parsed.shares[row.dataset.label];
    row.classList.toggle("absent", share === 0);
    row.querySelector("small").textContent = share ? percent(share) : "";
  }
  $("overlay").setAttribute(
    "aria-label",
    `${name}: ${list(LABELS.filter((label) => label.id && parsed.shares[label.id]))}`,
  );
  if (!stream) cross = null;
  await draw();
  performance.mark("result");
  point(cross);
}

function facts() {
  const { size, several, times } = parsed;
  return `${size.width} × ${size.height}${several} · parsed in ${seconds(times.total)} (the network ${seconds(times.run)})`;
}

/** Draws what is chosen, in the way that is chosen. */
async function draw() {
  if (!parsed) return;
  const drawn = parsed;
  const view = viewName();
  $("strength-row").hidden = view !== "labels";
  $("soft-row").hidden = view === "labels" || view === "edit";
  $("edits").hidden = view !== "edit";
  for (const choice of document.querySelectorAll(".choice")) choice.hidden = view === "edit";
  $("downloads").querySelector("[data-file=edited]").hidden = view !== "edit";
  for (const kind of ["mask", "cutout"]) $("downloads").querySelector(`[data-file=${kind}]`).hidden = view === "edit";
  if (view === "labels") {
    paint(labelPixels());
  } else if (view === "edit") {
    await drawEdited();
  } else {
    const { width, height } = parsed;
    const mask = await (await parser).mask([...chosen], { soft: $("soft").checked, width, height });
    if (parsed !== drawn || viewName() !== view) return;
    paint(view === "mask" ? maskPixels(mask) : cutOutPixels(mask));
  }
  if (view !== "edit") $("facts").textContent = facts();
  $("view").classList.toggle("bare", view !== "labels");
  $("view").classList.toggle("cutout", view === "cutout");
}

let editing = null; // settled once the picture is drawn with what was asked for last
let again = false;

/** The picture with the edits; while one is drawn, all that a slider asks for meanwhile is one more. */
function drawEdited() {
  again = true;
  editing ??= (async () => {
    const engine = await parser;
    while (again && viewName() === "edit") {
      again = false;
      const drawn = parsed;
      const { pixels, time } = await engine.edit(wantedEdits(), drawn.width, drawn.height);
      if (parsed !== drawn || viewName() !== "edit") continue;
      paint(pixels);
      $("facts").textContent = `${facts()} · edited in ${seconds(time)}`;
    }
  })().finally(() => (editing = null));
  return editing;
}

function paint(pixels) {
  $("overlay")
    .getContext("2d")
    .putImageData(new ImageData(pixels, parsed.width, parsed.height), 0, 0);
}

/** The chosen labels in their colours with a bright rim, RGBA; the one that is pointed at stands out. */
function labelPixels() {
  const { labels, width } = parsed;
  const strength = $("strength").value / 100;
  const pixels = new Uint32Array(labels.length);
  const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
  const rgba = (r, g, b, a) =>
    (little ? (a << 24) | (b << 16) | (g << 8) | r : (r << 24) | (g << 16) | (b << 8) | a) >>> 0;
  const fills = LABELS.map(({ id, colour }) => {
    if (id === lit) return rgba(...colour, Math.round(255 * Math.max(0.75, strength)));
    if (!chosen.has(id)) return 0;
    return rgba(...colour, Math.round(255 * strength * (lit === null ? 1 : 0.6)));
  });
  const rims = fills.map((fill, id) => (fill ? rgba(255, 255, 255, id === lit ? 255 : lit === null ? 120 : 50) : 0));
  const last = labels.length - width;
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    if (!fills[label]) continue;
    const rim =
      labels[i + 1] !== label ||
      labels[i - 1] !== label ||
      (i >= width && labels[i - width] !== label) ||
      (i < last && labels[i + width] !== label);
    pixels[i] = rim ? rims[label] : fills[label];
  }
  return new Uint8ClampedArray(pixels.buffer);
}

function maskPixels(mask) {
  const pixels = new Uint8ClampedArray(4 * mask.length).fill(255);
  for (let i = 0; i < mask.length; i++) pixels[4 * i] = pixels[4 * i + 1] = pixels[4 * i + 2] = mask[i];
  return pixels;
}

function cutOutPixels(mask) {
  const pixels = $("picture").getContext("2d").getImageData(0, 0, parsed.width, parsed.height).data;
  for (let i = 0; i < mask.length; i++) pixels[4 * i + 3] = mask[i];
  return pixels;
}

// ----------------------------------------------------------------------------------------------- pointing and choosing

/** The label at a place in the picture, {x, y} in 0..1. */
function labelAt({ x, y }) {
  const column = Math.min(parsed.width - 1, Math.floor(x * parsed.width));
  const row = Math.min(parsed.height - 1, Math.floor(y * parsed.height));
  return LABELS[parsed.labels[row * parsed.width + column]];
}

function placeOf(event) {
  const box = $("overlay").getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width;
  return {
    x: Math.min(Math.max(stream ? 1 - x : x, 0), 1),
    y: Math.min(Math.max((event.clientY - box.top) / box.height, 0), 1),
  };
}

/** Names the label at a place beside it, and lights it up; null: nowhere. */
function point(place) {
  const name = $("name");
  name.hidden = place === null;
  $("cross").hidden = place === null || place !== cross;
  light(place && labelAt(place).id);
  if (!place) return;
  const label = labelAt(place);
  name.querySelector("i").style.background = css(label);
  name.querySelector("b").textContent = label.title;
  name.querySelector("small").textContent = label.note;
  const overlay = $("overlay");
  const left = overlay.offsetLeft + (stream ? 1 - place.x : place.x) * overlay.offsetWidth;
  const top = overlay.offsetTop + place.y * overlay.offsetHeight;
  Object.assign($("cross").style, { left: `${left}px`, top: `${top}px` });
  // Beside the pointer, where there is room.
  const room = $("stage").getBoundingClientRect().right - $("canvases").getBoundingClientRect().left;
  const beyond = left + 18 + name.offsetWidth > room;
  name.style.left = `${beyond ? Math.max(0, left - 14 - name.offsetWidth) : left + 18}px`;
  name.style.top = `${Math.min(top + 16, overlay.offsetTop + overlay.offsetHeight - name.offsetHeight - 4)}px`;
}

function light(label) {
  if (label === lit) return;
  lit = label;
  for (const row of $("labels").children) row.classList.toggle("lit", Number(row.dataset.label) === lit);
  if (viewName() === "labels") draw();
}

function choose(ids) {
  if (viewName() === "edit") return; // nobody would see it
  chosen = new Set(ids);
  for (const row of $("labels").children) row.querySelector("input").checked = chosen.has(Number(row.dataset.label));
  for (const chip of $("regions").children) {
    const group = GROUPS[chip.dataset.region];
    chip.setAttribute("aria-pressed", group.length === chosen.size && group.every((id) => chosen.has(id)));
  }
  for (const button of $("downloads").querySelectorAll("[data-file=mask], [data-file=cutout]"))
    button.disabled = !chosen.size;
  draw();
}

function toggle(id) {
  choose(chosen.has(id) ? [...chosen].filter((other) => other !== id) : [...chosen, id]);
}

function moveCross(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (event.key === "Escape" && cross) {
    cross = null;
    point(null);
  } else if (move) {
    const step = STEP * (event.shiftKey ? 4 : 1) * (stream && move[0] ? -1 : 1);
    const { x, y } = cross ?? { x: 0.5, y: 0.5 };
    const inside = (value) => Math.min(Math.max(value, 0), 1);
    cross = cross
      ? { x: inside(x + move[0] * step), y: inside(y + move[1] * (event.shiftKey ? 4 : 1) * STEP) }
      : { x, y };
    point(cross);
    const label = labelAt(cross);
    say(label.title + (chosen.has(label.id) ? "" : ", not shown"));
  } else if (cross && (event.key === "Enter" || event.key === " ")) {
    const label = labelAt(cross);
    if (event.key === "Enter") choose([label.id]);
    else toggle(label.id);
    say(
      event.key === "Enter" ? `only ${label.title}` : `${label.title} ${chosen.has(label.id) ? "shown" : "not shown"}`,
    );
  } else {
    return;
  }
  event.preventDefault();
}

// ---------------------------------------------------------------------------------------------------------- downloads

async function download(kind, button) {
  const engine = await parser;
  stopCamera(); // so that the file is of what is seen
  button.disabled = true;
  await parsing;
  const picture = parsed;
  busy(`Writing the ${button.textContent.toLowerCase()} …`);
  try {
    const file = await fileOf(kind, engine);
    const base = picture.name.replace(/\.[a-z0-9]+$/i, "").replaceAll(" ", "_") || "picture";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${base}.${kind === "shown" ? "overlay" : kind}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say(`${link.download} saved`);
  } catch (error) {
    problem(`The file could not be written: ${error.message}`);
  } finally {
    button.disabled = false;
    busy("");
  }
}

function fileOf(kind, engine) {
  if (kind === "shown") return asShown();
  if (kind === "edited") return engine.editedPng(wantedEdits());
  return engine.png(kind, [...chosen], { soft: $("soft").checked });
}

function asShown() {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: parsed.width, height: parsed.height });
  const context = canvas.getContext("2d");
  if (viewName() === "labels") context.drawImage($("picture"), 0, 0);
  context.drawImage($("overlay"), 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// ----------------------------------------------------------------------------------------------------------- the page

function buildTools() {
  for (const region of REGIONS) {
    const chip = document.createElement("button");
    Object.assign(chip, { type: "button", textContent: region });
    chip.dataset.region = region;
    chip.addEventListener("click", () => choose(GROUPS[region]));
    $("regions").append(chip);
  }
  for (const { id, title, note } of LABELS) {
    const row = document.createElement("li");
    row.dataset.label = id;
    row.innerHTML = `<label><input type="checkbox"><i></i><span></span><small></small></label>`;
    row.title = note;
    row.querySelector("i").style.background = css(LABELS[id]);
    row.querySelector("span").textContent = title;
    row.addEventListener("change", () => toggle(id));
    row.addEventListener("pointerenter", () => light(id));
    row.addEventListener("pointerleave", () => light(null));
    row.addEventListener("focusin", () => light(id));
    row.addEventListener("focusout", () => light(null));
    $("labels").append(row);
  }
  choose(chosen);
}

function listen() {
  $("file").addEventListener("change", (event) => {
    openFiles(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  $("sample").addEventListener("click", openSample);
  $("camera").addEventListener("click", startCamera);
  $("snap").addEventListener("click", () => {
    stopCamera();
    say("Picture taken");
  });
  $("stop").addEventListener("click", stopCamera);
  document.addEventListener("paste", (event) => openFiles(event.clipboardData.files));

  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true;
  });
  document.addEventListener("drop", (event) => {
    $("drop").hidden = true;
    if (!carriesFiles(event)) return;
    event.preventDefault();
    openFiles(event.dataTransfer.files);
  });

  const overlay = $("overlay");
  overlay.addEventListener("pointermove", (event) => point(placeOf(event)));
  overlay.addEventListener("pointerleave", () => point(null));
  overlay.addEventListener("click", (event) => {
    const { id } = labelAt(placeOf(event));
    if (event.shiftKey || event.ctrlKey || event.metaKey) toggle(id);
    else choose(chosen.size === 1 && chosen.has(id) ? GROUPS.person : [id]);
  });
  overlay.addEventListener("keydown", moveCross);
  overlay.addEventListener("blur", () => {
    cross = null;
    point(null);
  });

  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("views").addEventListener("change", draw);
  $("strength").addEventListener("input", draw);
  $("soft").addEventListener("change", draw);
  for (const button of $("downloads").querySelectorAll("button")) {
    button.addEventListener("click", () => download(button.dataset.file, button));
  }

  const theme = $("theme");
  const dark = () => {
    const own = document.documentElement.dataset.theme;
    return own ? own === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const named = () => (theme.textContent = dark() ? "Light" : "Dark");
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
    named();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", named);
  if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
  named();
}

function viewName() {
  return document.querySelector("[name=view]:checked").value;
}

function busy(text) {
  $("busy").textContent = text;
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function say(text) {
  $("spoken").textContent = text;
}

function css({ colour }) {
  return `rgb(${colour.join(" ")})`;
}

function list(labels) {
  return labels.map((label) => label.title).join(", ");
}

function seconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(2)} s`;
}

function percent(share) {
  return share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}
