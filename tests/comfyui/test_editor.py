"""The pack in ComfyUI's editor, in Chromium: in its classic look and in Nodes 2.0.

``CHROMIUM`` names the browser, as for tests/browser. The server has nothing in its input folder.
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
GRAPHS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
BLUEPRINTS = sorted(path.stem for path in (PACK / "subgraphs").glob("*.json"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
HAIR, NOSE, CORNER = (260 / 512, 100 / 512), (253 / 512, 245 / 512), (20 / 512, 20 / 512)  # of the close-up

# A graph of its own, because the editor remembers values by graph and node.
ADD = """async ([chain, values]) => {
    await app.loadGraphData({ last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [], version: 0.4 });
    let before = null;
    const ids = chain.map((type, index) => {
        const node = LiteGraph.createNode(type);
        node.pos = [40 + index * 380, 120];
        app.graph.add(node);
        before?.connect(0, node, 0);
        before = node;
        return node.id;
    });
    for (const [index, name, value] of values)
        app.graph.getNodeById(ids[index]).widgets.find((widget) => widget.name === name).value = value;
    app.canvas.ds.scale = 0.9;
    app.canvas.ds.offset = [60, 80];
    app.canvas.setDirty(true, true);
    return ids;
}"""
RUN = """async () => {
    const kinds = ["execution_success", "execution_error", "execution_interrupted"];
    const end = new Promise((resolve) => {
        for (const kind of kinds)
            app.api.addEventListener(kind, ({ detail }) => resolve([kind, detail]), { once: true });
    });
    await app.queuePrompt(0);
    const wrong = app.lastNodeErrors ?? {};
    return Object.keys(wrong).length ? ["refused", wrong] : await end;
}"""

SHOWN_IN_APP = """([inputs, outputs]) => {
    const stores = document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s;
    const app = stores.get("appMode");
    return app.selectedInputs.length === inputs && app.selectedOutputs.length === outputs;
}"""


class Editor:
    """The editor on a page: graphs are put into it and run from it."""

    def __init__(self, page, comfy):
        self.page, self.comfy, self.complaints = page, comfy, []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._console)
        page.goto(comfy.url, timeout=120_000)
        page.wait_for_function("() => window.app?.extensionManager && window.app.canvas?.graph", timeout=120_000)
        page.wait_for_function("() => window.LiteGraph.registered_node_types.FaceParseSelectLabels", timeout=120_000)

    def _console(self, message) -> None:
        if message.type == "error" and "/extensions/faceparse/" in message.location.get("url", "") + message.text:
            self.complaints.append(message.text)

    def open(self, graph: dict) -> None:
        load = "async (graph) => { await app.loadGraphData(graph, true, true, null, { openSource: 'template' }) }"
        self.page.evaluate(load, graph)
        unknown = (
            "() => app.graph.nodes.filter((node) => !LiteGraph.registered_node_types[node.type]).map((n) => n.type)"
        )
        known = {subgraph["id"] for subgraph in graph.get("definitions", {}).get("subgraphs", [])} | {"MarkdownNote"}
        assert set(self.page.evaluate(unknown)) <= known

    def add(self, *chain: str, values: tuple = ()) -> list:
        """Fresh nodes, one after the other, each connected to the one before; their ids."""
        return self.page.evaluate(ADD, [chain, values])

    def run(self) -> tuple[str, dict]:
        self.page.set_default_timeout(300_000)
        return self.page.evaluate(RUN)

    def succeed(self) -> dict[str, dict]:
        """Runs the graph, which must go well; the outputs of its nodes."""
        kind, detail = self.run()
        assert kind == "execution_success", detail
        (run,) = self.comfy.get_json(f"/history/{detail['prompt_id']}").values()
        return run["outputs"]

    def text(self, node) -> str:
        return self.page.evaluate(
            "(id) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === 'labels').value", node
        )

    def write(self, node, text: str) -> None:
        self.page.evaluate(
            "([id, text]) => { app.graph.getNodeById(id).widgets.find(({ name }) => name === 'labels').value = text }",
            [node, text],
        )

    def between(self, preview: str) -> list:
        """Sample Portrait before the first node of the graph, a preview behind it; the ids of that node and the
        preview."""
        return self.page.evaluate(
            """(preview) => {
                const [task] = app.graph.nodes;
                const picture = LiteGraph.createNode("FaceParseSamplePortrait"), shown = LiteGraph.createNode(preview);
                app.graph.add(picture);
                app.graph.add(shown);
                picture.connect(0, task, 0);
                task.connect(0, shown, 0);
                return [task.id, shown.id];
            }""",
            preview,
        )

    def picture(self):
        """The picture that is the menu of the only Select Labels that is shown."""
        picture = self.page.locator(".faceparse-picture:visible")
        picture.wait_for(timeout=20_000)
        assert picture.count() == 1
        return picture

    def click(self, place: tuple[float, float], **how) -> None:
        self.page.wait_for_timeout(300)  # what was moved has come to rest
        box = self.picture().bounding_box()
        x, y = (start + side * share for start, side, share in zip(
            (box["x"], box["y"]), (box["width"], box["height"]), place, strict=True
        ))  # fmt: skip
        self.page.mouse.move(x, y)
        for key in how.get("keys", ()):
            self.page.keyboard.down(key)
        self.page.mouse.click(x, y)
        for key in how.get("keys", ()):
            self.page.keyboard.up(key)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if not os.environ.get("CHROMIUM"):
        pytest.skip("CHROMIUM is not set: it names the browser to test in")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["classic", "nodes 2.0"])
def editor(request, comfy, browser) -> Iterator[Editor]:
    settings = {"Comfy.VueNodes.Enabled": request.param == "nodes 2.0", "Comfy.TutorialCompleted": True}
    for name, value in settings.items():
        content = {"Content-Type": "application/json"}
        sent = urllib.request.Request(f"{comfy.url}/settings/{name}", json.dumps(value).encode(), content)
        urllib.request.urlopen(sent, timeout=60).close()
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    yield Editor(page, comfy)
    page.close()


@pytest.fixture(autouse=True)
def no_complaint(request) -> Iterator:
    yield
    editor = request.node.funcargs.get("editor")
    if editor:
        assert not editor.complaints
        if folder := os.environ.get("SCREENSHOTS"):  # to look at them
            Path(folder).mkdir(parents=True, exist_ok=True)
            editor.page.screenshot(path=Path(folder) / (re.sub(r"\W+", "_", request.node.name) + ".png"))


def mask_of(comfy, outputs: dict[str, dict], node) -> object:
    """What a Preview Mask shows, as an array [H, W] of 0..255."""
    import io

    import numpy as np
    from PIL import Image

    (shown,) = outputs[str(node)]["images"]
    query = "&".join(f"{key}={shown[key]}" for key in ("filename", "subfolder", "type"))
    with Image.open(io.BytesIO(comfy.get(f"/view?{query}"))) as picture:
        return np.asarray(picture.convert("L"))


def at(mask, place: tuple[float, float]) -> int:
    return int(mask[int(place[1] * mask.shape[0]), int(place[0] * mask.shape[1])])


# ---------------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize("name", GRAPHS)
def test_a_template_opens_readable_and_runs(editor, name):
    graph = editor.comfy.get_json(f"/api/workflow_templates/faceparse/{name}.json")
    editor.open(graph)
    assert editor.page.evaluate("() => app.canvas.ds.scale") > 0.6
    if app := graph.get("extra", {}).get("linearData"):  # what App mode shows of it
        editor.page.wait_for_function(SHOWN_IN_APP, arg=[len(app["inputs"]), len(app["outputs"])], timeout=10_000)
    if name == "inpaint_region":  # needs a checkpoint, which a server may not have
        kind, detail = editor.run()
        assert kind == "refused" and "ckpt_name" in json.dumps(detail)
        return
    saved = [one for output in editor.succeed().values() for one in output.get("images", ())]
    assert any(one["type"] == "output" for one in saved)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_runs(editor, name):
    assert name in {entry["name"] for entry in editor.comfy.get_json("/global_subgraphs").values()}
    editor.open(json.loads((PACK / "subgraphs" / f"{name}.json").read_text(encoding="utf-8")))
    if name == "Face detail pass":  # a sampler needs a model
        inputs = editor.page.evaluate("() => app.graph.nodes[0].inputs.map((slot) => slot.name)")
        assert inputs[:5] == ["image", "model", "positive", "negative", "vae"]
        return
    preview = "MaskPreview" if name == "Hair mask" else "PreviewImage"
    editor.between(preview)
    assert any(output.get("images") for output in editor.succeed().values())


# ---------------------------------------------------------------------------------------------- the menu


CHAIN = ("FaceParseSamplePortrait", "FaceParseParseFace", "FaceParseSelectLabels", "MaskPreview")


def test_fresh_nodes_run_at_once(editor):
    *_, select, preview = editor.add(*CHAIN)
    mask = mask_of(editor.comfy, editor.succeed(), preview)
    assert editor.text(select) == "face" and at(mask, NOSE) == 255 and at(mask, HAIR) == 0


def test_a_picture_of_ones_own_runs_at_once(editor):
    (editor.comfy.base / "input" / "me.jpg").write_bytes((PACK / "samples" / "closeup.jpg").read_bytes())
    try:
        editor.page.evaluate("() => app.refreshComboInNodes()")
        ids = editor.add("LoadImage", *CHAIN[1:], values=((0, "image", "me.jpg"),))
        assert at(mask_of(editor.comfy, editor.succeed(), ids[-1]), NOSE) == 255
    finally:
        (editor.comfy.base / "input" / "me.jpg").unlink()


def test_clicks_on_the_picture_edit_the_text_and_cost_no_run_of_the_model(editor):
    *_, select, preview = editor.add(*CHAIN)
    editor.succeed()
    runs = editor.comfy.log.count("Parse Face: 1 image")
    editor.click(HAIR)
    assert editor.text(select) == "face + hair"
    assert editor.picture().get_attribute("data-under") == "hair"
    mask = mask_of(editor.comfy, editor.succeed(), preview)
    assert at(mask, HAIR) == at(mask, NOSE) == 255 and at(mask, CORNER) == 0
    editor.click(NOSE)  # a second click, or one with Alt, takes away
    assert editor.text(select) == "face + hair - nose"
    editor.click(HAIR, keys=["Alt"])
    assert editor.text(select) == "face - nose"
    editor.click(HAIR, keys=["Alt"])
    assert editor.text(select) == "face - nose", "with Alt nothing is added"
    mask = mask_of(editor.comfy, editor.succeed(), preview)
    assert at(mask, HAIR) == at(mask, NOSE) == 0
    assert editor.comfy.log.count("Parse Face: 1 image") == runs


def test_chips_show_what_is_chosen_and_remove_it(editor):
    *_, select, _ = editor.add(*CHAIN, values=((2, "labels", "hair + hiar - left eye"),))
    kind, detail = editor.run()
    assert kind == "refused" and "did you mean 'hair'" in json.dumps(detail)
    editor.write(select, "hair + face - left eye")
    editor.succeed()
    chips = editor.page.locator(".faceparse-chips:visible button")
    assert chips.all_text_contents() == ["hair ×", "face ×", "− left eye ×"]
    chips.nth(0).click()
    assert editor.text(select) == "face - left eye"
    # The text may be edited anywhere: the chips follow.
    editor.write(select, "neck")
    editor.page.wait_for_function(
        "() => [...document.querySelectorAll('.faceparse-chips button')].some((chip) => chip.textContent === 'neck ×')"
    )


def test_the_picture_is_for_the_keyboard_too_and_opens_large(editor):
    *_, select, _ = editor.add(*CHAIN)
    editor.succeed()
    assert "Arrow keys" in editor.picture().get_attribute("aria-label")
    editor.picture().focus()
    names = []
    for _ in range(3):  # the largest parts first
        editor.page.keyboard.press("ArrowRight")
        names.append(editor.picture().get_attribute("data-under"))
    assert "hair" in names and len(set(names)) == 3
    for _ in range(2 - names.index("hair")):
        editor.page.keyboard.press("ArrowLeft")
    editor.page.keyboard.press("Enter")
    assert editor.text(select) == "face + hair"
    editor.page.locator(".faceparse-large:visible").click()
    dialog = editor.page.locator(".faceparse-dialog")
    assert dialog.bounding_box()["height"] > 700
    box = dialog.locator(".faceparse-picture").bounding_box()
    editor.page.mouse.click(box["x"] + box["width"] * NOSE[0], box["y"] + box["height"] * NOSE[1])
    assert editor.text(select) == "face + hair - nose"
    editor.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")


def test_the_wheel_and_the_other_buttons_are_the_editors(editor):
    editor.add(*CHAIN)
    editor.succeed()
    editor.page.wait_for_timeout(300)
    before = editor.page.evaluate("() => app.canvas.ds.scale")
    box = editor.picture().bounding_box()
    editor.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    editor.page.mouse.wheel(0, -300)
    editor.page.wait_for_timeout(500)
    assert editor.page.evaluate("() => app.canvas.ds.scale") > before


def test_what_is_saved_is_the_text_alone(editor):
    *_, select, _ = editor.add(*CHAIN)
    editor.succeed()
    saved = editor.page.evaluate("(id) => app.graph.getNodeById(id).serialize()", select)
    assert saved["widgets_values"] == ["face", False, "all"]
    sent = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert sent[str(select)]["inputs"].keys() == {"parsing", "labels", "soft", "face"}


def test_in_a_subgraph_the_text_that_it_is_promoted_to_is_edited(editor):
    graph = json.loads((PACK / "subgraphs" / "Hair mask.json").read_text(encoding="utf-8"))
    # Where the editor keeps it: of today's with the subgraph, before 1.49 in the node inside.
    (inside,) = (one for one in graph["definitions"]["subgraphs"][0]["nodes"] if one["type"].endswith("SelectLabels"))
    graph["nodes"][0]["widgets_values"][0] = inside["widgets_values"][0] = "face"
    editor.open(graph)
    host, preview = editor.between("MaskPreview")
    mask = mask_of(editor.comfy, editor.succeed(), preview)
    assert at(mask, NOSE) > 250 and at(mask, HAIR) < 5
    enter = "(id) => app.canvas.openSubgraph(app.graph.getNodeById(id).subgraph, app.graph.getNodeById(id))"
    editor.page.evaluate(enter, host)
    editor.click(HAIR)
    editor.page.evaluate("() => app.canvas.setGraph(app.rootGraph ?? app.graph.rootGraph)")
    assert editor.text(host) == "face + hair"
    mask = mask_of(editor.comfy, editor.succeed(), preview)
    assert at(mask, NOSE) > 250 and at(mask, HAIR) > 250
