// The picture on Select Labels is its menu: what is under the pointer lights up, a click adds it to the text of `labels`
// or takes it away. All that is kept is that text; the picture is drawn from it. Without this script the node is the
// same, only without the picture.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { add, chosen, load, remove, terms } from "./labels.js";

const NODE = "FaceParseSelectLabels";
const TEXT = "labels";
const MENU = "picture";
const MARGIN = 10; // what the editor leaves around a DOM widget
const CHIPS = 30; // the line of chips below the picture
const SUBGRAPH_INPUT = "-10"; // what a link from a subgraph's own input has for its origin

const STYLE = `
.faceparse-menu { display: flex; flex-direction: column; gap: 4px; width: 100%; min-width: 0; font: 12px sans-serif;
  color: var(--input-text, #ddd); overflow: hidden; box-sizing: border-box; }
.faceparse-menu p { margin: 0; padding: 6px 2px; opacity: .75; }
.faceparse-picture { position: relative; width: 100%; flex: none; overflow: hidden; border-radius: 6px; cursor: crosshair;
  background: #0004; outline-offset: -2px; }
.faceparse-picture:focus-visible { outline: 2px solid #6cf; }
.faceparse-picture img, .faceparse-picture canvas { position: absolute; inset: 0; width: 100%; height: 100%;
  object-fit: fill; pointer-events: none; user-select: none; }
.faceparse-name { position: absolute; left: 6px; bottom: 6px; padding: 2px 7px; border-radius: 9px; background: #000c;
  color: #fff; pointer-events: none; }
.faceparse-name:empty { display: none; }
.faceparse-large { position: absolute; right: 6px; top: 6px; padding: 2px 7px; border: 0; border-radius: 9px;
  background: #000c; color: #fff; font: inherit; cursor: pointer; }
.faceparse-chips { display: flex; gap: 4px; height: 24px; flex: none; overflow-x: auto; overflow-y: hidden;
  scrollbar-width: thin; align-items: center; }
.faceparse-chips button { flex: none; border: 1px solid #8888; border-radius: 10px; padding: 1px 8px; background: #8883;
  color: inherit; font: inherit; cursor: pointer; white-space: nowrap; }
.faceparse-chips button[data-unknown] { border-color: #e55; }
.faceparse-dialog { border: 0; border-radius: 10px; padding: 14px; background: var(--comfy-menu-bg, #222); max-width: none;
  max-height: none; }
.faceparse-dialog::backdrop { background: #000a; }
`;

/** The picture with its parts, for one node: on the node, and once more where it is opened large. */
class Menu {
  constructor(state, vocabulary) {
    this.state = state;
    this.vocabulary = vocabulary;
    this.under = null; // the id of the label under the pointer, or chosen by the arrow keys
    this.root = element("div", { className: "faceparse-menu" });
    this.hint = element("p", { textContent: "Run once: the picture appears here, and its parts can be clicked." });
    this.image = element("img", { alt: "", draggable: false });
    this.canvas = element("canvas");
    this.name = element("span", { className: "faceparse-name" });
    this.name.setAttribute("aria-live", "polite");
    this.large = element("button", { className: "faceparse-large", type: "button", textContent: "⤢", title: "Open large" });
    this.large.setAttribute("aria-label", "Open the picture large");
    this.picture = element("div", { className: "faceparse-picture", tabIndex: 0, hidden: true });
    this.picture.setAttribute("role", "group");
    this.picture.setAttribute(
      "aria-label",
      "Parts of the picture. Arrow keys go from part to part; Enter adds or removes one.",
    );
    this.picture.append(this.image, this.canvas, this.name, this.large);
    this.chips = element("div", { className: "faceparse-chips", hidden: true });
    this.chips.setAttribute("role", "group");
    this.chips.setAttribute("aria-label", "Chosen parts");
    this.root.append(this.hint, this.picture, this.chips);
    this.#listen();
  }

  show(data) {
    this.data = data;
    this.hint.hidden = true;
    this.picture.hidden = this.chips.hidden = false;
    this.picture.style.aspectRatio = `${data.width} / ${data.height}`;
    this.image.hidden = !data.picture;
    if (data.picture) this.image.src = api.apiURL(`/view?${new URLSearchParams(data.picture)}`);
    this.canvas.width = data.width;
    this.canvas.height = data.height;
    this.labels = unpacked(data.runs, data.width * data.height);
    const areas = new Map();
    for (let i = 0; i < data.runs.length; i += 2)
      areas.set(data.runs[i], (areas.get(data.runs[i]) ?? 0) + data.runs[i + 1]);
    this.present = [...areas.keys()].sort((a, b) => areas.get(b) - areas.get(a));
    this.draw();
  }

  /** Draws everything anew from the text. */
  draw() {
    const text = this.state.text;
    const ids = chosen(this.vocabulary, text);
    this.chips.replaceChildren(...terms(this.vocabulary, text).map((term, index) => this.#chip(term, index)));
    if (!this.data) return;
    const rgba = this.vocabulary.labels.map(({ colour }, id) => {
      const alpha = id === this.under ? 0.78 : ids.has(id) ? 0.55 : 0.1;
      return id || ids.has(id) || id === this.under ? [...colour, Math.round(alpha * 255)] : [0, 0, 0, 0];
    });
    const context = this.canvas.getContext("2d");
    const pixels = context.createImageData(this.canvas.width, this.canvas.height);
    const colours = new Uint32Array(rgba.map(([r, g, b, a]) => (a << 24) | (b << 16) | (g << 8) | r));
    const target = new Uint32Array(pixels.data.buffer);
    for (let i = 0; i < target.length; i++) target[i] = colours[this.labels[i]];
    context.putImageData(pixels, 0, 0);
    const title = this.under === null ? "" : this.vocabulary.labels[this.under].title;
    this.name.textContent = title && (ids.has(this.under) ? `${title} ✓` : title);
    this.picture.dataset.under = title;
  }

  #chip({ operator, name, known }, index) {
    const chip = element("button", { type: "button", textContent: `${operator === "-" ? "− " : ""}${name} ×` });
    chip.title = known ? `Remove ${name}` : `There is no ${name}. Remove it`;
    chip.setAttribute("aria-label", chip.title);
    if (!known) chip.dataset.unknown = "";
    chip.addEventListener("click", () => this.state.change((text) => remove(this.vocabulary, text, index)));
    return chip;
  }

  #toggle(id, taking) {
    const title = this.vocabulary.labels[id].title;
    const there = chosen(this.vocabulary, this.state.text).has(id);
    if (taking && !there) return;
    this.state.change((text) => (there ? remove(this.vocabulary, text, title) : add(this.vocabulary, text, title)));
  }

  #over(event) {
    const box = this.picture.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * this.canvas.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * this.canvas.height);
    const inside = x >= 0 && y >= 0 && x < this.canvas.width && y < this.canvas.height;
    return inside ? this.labels[y * this.canvas.width + x] : null;
  }

  #light(id) {
    if (id === this.under) return;
    this.under = id;
    this.draw();
  }

  #listen() {
    for (const kind of ["pointerdown", "mousedown", "dblclick"])
      this.root.addEventListener(kind, (event) => event.button === 0 && event.stopPropagation());
    // The wheel and the middle button are the editor's: they zoom and move its canvas. In the classic look this element
    // lies over the canvas, which would not see them; Nodes 2.0 hands them on itself.
    const handOn = (kind, whether, how) =>
      this.root.addEventListener(kind, (event) => {
        if (!LiteGraph.vueNodesMode && !this.root.closest("dialog") && whether(event)) app.canvas[how](event);
      });
    handOn("wheel", () => true, "processMouseWheel");
    handOn("pointerdown", ({ button }) => button === 1, "processMouseDown");
    handOn("pointermove", ({ buttons }) => buttons & 4, "processMouseMove");
    handOn("pointerup", ({ button }) => button === 1, "processMouseUp");
    this.picture.addEventListener("pointermove", (event) => {
      if (event.target !== this.large) this.#light(this.#over(event));
    });
    this.picture.addEventListener("pointerleave", () => this.#light(null));
    this.picture.addEventListener("click", (event) => {
      if (event.target === this.large) return;
      const id = this.#over(event);
      if (id !== null) this.#toggle(id, event.altKey);
    });
    this.picture.addEventListener("keydown", (event) => this.#key(event));
    this.picture.addEventListener("blur", () => this.#light(null));
    this.large.addEventListener("click", () => this.state.openLarge());
  }

  #key(event) {
    if (event.target !== this.picture) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      const at = this.present.indexOf(this.under);
      const next = at < 0 && step < 0 ? this.present.length - 1 : (at + step + this.present.length) % this.present.length;
      this.#light(this.present[next]);
    } else if (["Enter", " ", "Delete"].includes(event.key) && this.under !== null) {
      this.#toggle(this.under, event.key === "Delete");
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** One node's side of it: where the text is, and what the last run sent. */
class State {
  constructor(node, vocabulary) {
    this.node = node;
    this.hosts = []; // the subgraph nodes that the last run came through, outermost first
    this.menus = new Set();
    this.vocabulary = vocabulary;
    this.menu = this.newMenu();
    this.shown = null;
    const height = () => this.height();
    this.widget = node.addDOMWidget(MENU, "faceparse-menu", this.menu.root, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: height,
      getMaxHeight: height,
      getValue: () => "",
      setValue: () => {},
    });
    this.widget.serialize = false;
  }

  newMenu() {
    const menu = new Menu(this, this.vocabulary);
    this.menus.add(menu);
    return menu;
  }

  height() {
    if (!this.data) return CHIPS + 2 * MARGIN;
    return ((this.node.size[0] - 2 * MARGIN) * this.data.height) / this.data.width + CHIPS + 2 * MARGIN;
  }

  /** The widget that says what is selected: the node's own, or that of the subgraph node that it is promoted to. */
  get source() {
    let { node } = this;
    let name = TEXT;
    for (const host of [...this.hosts].reverse()) {
      const link = linkInto(node, name);
      if (!link || String(link.origin_id) !== SUBGRAPH_INPUT) break;
      name = node.graph.inputs[link.origin_slot].name;
      node = host;
    }
    // A link from another node decides by itself: there is nothing to edit then.
    return linkInto(node, name) ? null : (node.widgets?.find((widget) => widget.name === name) ?? null);
  }

  get text() {
    return String(this.source?.value ?? "");
  }

  change(edit) {
    const { source } = this;
    if (!source) return;
    source.value = edit(this.text);
    source.callback?.(source.value);
    this.redraw();
    app.graph.setDirtyCanvas(true, true);
  }

  redraw() {
    this.drawn = this.text;
    for (const menu of this.menus) menu.draw();
  }

  show(data, hosts) {
    const before = this.height();
    this.data = data;
    this.hosts = hosts;
    for (const menu of this.menus) menu.show(data);
    this.drawn = this.text;
    const more = this.height() - before;
    const [width, height] = this.node.size;
    const needed = this.node.computeSize()[1];
    if (more && height < needed) this.node.setSize([width, needed]);
    app.graph.setDirtyCanvas(true, true);
    // The text may be edited anywhere: on the node, on a subgraph, by undo. It is looked at, not listened to.
    this.watch ??= setInterval(() => this.drawn !== this.text && this.redraw(), 250);
  }

  openLarge() {
    if (!this.data) return;
    const menu = this.newMenu();
    menu.large.remove();
    menu.show(this.data);
    const dialog = element("dialog", { className: "faceparse-dialog" });
    dialog.setAttribute("aria-label", "Select Labels: the picture, large");
    const ratio = this.data.width / this.data.height;
    menu.root.style.width = `min(90vw, calc((90vh - 60px) * ${ratio}))`;
    dialog.append(menu.root);
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => event.stopPropagation());
    dialog.addEventListener("close", () => {
      this.menus.delete(menu);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
    menu.picture.focus();
  }

  gone() {
    clearInterval(this.watch);
  }
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

/** The labels of all pixels from [label, length, label, length …]. */
function unpacked(runs, size) {
  const labels = new Uint8Array(size);
  for (let i = 0, at = 0; i < runs.length; i += 2) labels.fill(runs[i], at, (at += runs[i + 1]));
  return labels;
}

function linkInto(node, name) {
  const input = node.inputs?.find((slot) => slot.widget?.name === name || slot.name === name);
  if (input?.link == null) return null;
  return node.graph.getLink?.(input.link) ?? node.graph.links.get?.(input.link) ?? node.graph.links[input.link];
}

/** The node of an id such as 7 or, in subgraphs, 1:2:7, and the subgraph nodes on the way. */
function found(id) {
  let graph = app.rootGraph ?? app.graph.rootGraph ?? app.graph;
  const hosts = [];
  const path = String(id).split(":");
  for (const part of path.slice(0, -1)) {
    const host = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));
    hosts.push(host);
    graph = host?.subgraph;
  }
  const last = path.at(-1);
  return { node: graph?.getNodeById(last) ?? graph?.getNodeById(Number(last)), hosts };
}

const states = new WeakMap();

app.registerExtension({
  name: "faceparse.menu",

  async init() {
    document.head.append(element("style", { textContent: STYLE }));
    this.vocabulary = await load();
    api.addEventListener("executed", ({ detail }) => {
      const data = detail.output?.faceparse?.[0];
      if (!data) return;
      const { node, hosts } = found(detail.display_node ?? detail.node);
      states.get(node)?.show(data, hosts);
    });
  },

  nodeCreated(node) {
    if (node.comfyClass !== NODE || !this.vocabulary) return;
    const state = new State(node, this.vocabulary);
    states.set(node, state);
    const removed = node.onRemoved;
    node.onRemoved = function (...rest) {
      state.gone();
      return removed?.apply(this, rest);
    };
  },
});
