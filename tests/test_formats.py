"""Labels in the formats of annotators, read by the formats' own libraries, and back."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw

from faceparse_core.cli import main
from faceparse_core.export import formats
from faceparse_core.labels import LABELS

IDS = {label.title: label.id for label in LABELS}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Training data: two pictures with labels that are made up, one with pixels of which nothing is told."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(1)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for name, (height, width) in (("a", (48, 64)), ("b", (70, 40))):
        labels = np.kron(random.integers(0, 19, (height // 2, width // 2)), np.ones((2, 2))).astype(np.uint8)
        labels[3:9, 5:30], labels[10:20, 10:20] = 13, 0
        if name == "b":
            labels[-4:] = 255
        Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(folder / "images" / f"{name}.jpg")
        Image.fromarray(labels).save(folder / "masks" / f"{name}.png")
    return folder


def labels_of(data: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.array(Image.open(path)) for path in sorted((data / "masks").glob("*.png"))}


def told(labels: np.ndarray) -> np.ndarray:
    """What a format can tell of labels: nothing of what was not told."""
    return np.where(labels == 255, 0, labels)


def converted(source: Path, kind: str, out: Path, *words: str) -> Path:
    assert main(["convert", str(source), "--to", kind, "--out", str(out), *words]) == 0
    return out


# ---------------------------------------------------------------------------------------------- there


def test_coco_instances_in_pycocotools(data, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    out = converted(data, "coco-instances", tmp_path / "out")
    read = coco.COCO(str(out / "instances.json"))
    for image in read.loadImgs(read.getImgIds()):
        labels = told(labels_of(data)[Path(image["file_name"]).stem])
        drawn = np.zeros_like(labels)
        for annotation in read.loadAnns(read.getAnnIds(image["id"])):
            mask = read.annToMask(annotation).astype(bool)
            drawn[mask] = IDS[read.loadCats(annotation["category_id"])[0]["name"]]
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert (drawn == labels).all() and len(np.unique(labels)) > 15


def test_coco_panoptic(data, tmp_path):
    out = converted(data, "coco-panoptic", tmp_path / "out")
    values = json.loads((out / "panoptic.json").read_text())
    categories = {one["id"]: one["name"] for one in values["categories"]}
    assert len(values["annotations"]) == len(values["images"]) == 2
    for image, annotation in zip(values["images"], values["annotations"], strict=True):
        pixels = np.asarray(Image.open(out / "panoptic" / annotation["file_name"])).astype(int)
        ids = pixels @ [1, 256, 65536]  # as the format has it
        labels = told(labels_of(data)[Path(image["file_name"]).stem])
        drawn = np.zeros_like(labels)
        for segment in annotation["segments_info"]:
            drawn[ids == segment["id"]] = IDS[categories[segment["category_id"]]]
            assert segment["area"] == (ids == segment["id"]).sum()
        assert (drawn == labels).all()
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in annotation["segments_info"]}


def test_labelme_in_labelme(data, tmp_path):
    out = converted(data, "labelme", tmp_path / "out")
    try:
        from labelme.utils import shapes_to_label
    except ImportError:
        shapes_to_label = None
    for name, labels in labels_of(data).items():
        values = json.loads((out / f"{name}.json").read_text())
        assert (out / values["imagePath"]).resolve() == (data / "images" / f"{name}.jpg").resolve()
        drawn = np.zeros_like(labels)
        for shape in values["shapes"]:
            shape["mask"] = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
            (left, top), (right, bottom) = shape["points"]
            drawn[top : bottom + 1, left : right + 1][shape["mask"]] = IDS[shape["label"]]
        assert (drawn == told(labels)).all()
        if shapes_to_label:
            assert (shapes_to_label(labels.shape, values["shapes"], IDS)[0] == drawn).all()


def test_cvat_in_its_sdk(data, tmp_path):
    out = converted(data, "cvat", tmp_path / "out")
    names = [one["name"] for one in json.loads((out / "labels.json").read_text())]
    assert names == [label.title for label in LABELS[1:]]
    try:
        from cvat_sdk.masks import decode_mask
    except ImportError:
        decode_mask = None
    images = ElementTree.parse(out / "annotations.xml").getroot().findall("image")
    assert len(images) == 2
    for image in images:
        labels = told(labels_of(data)[Path(image.get("name")).stem])
        drawn = np.zeros_like(labels)
        for mask in image.findall("mask"):
            left, top, width, height = (int(mask.get(name)) for name in ("left", "top", "width", "height"))
            lengths = [int(length) for length in mask.get("rle").split(", ")]
            part = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
            drawn[top : top + height, left : left + width][part] = IDS[mask.get("label")]
            if decode_mask:
                points = [*lengths, left, top, left + width - 1, top + height - 1]
                theirs = decode_mask(points, image_width=labels.shape[1], image_height=labels.shape[0])
                assert (theirs[top : top + height, left : left + width] == part).all()
        assert (drawn == labels).all()


def test_pngs_with_a_class_list(data, tmp_path):
    out = converted(data, "png", tmp_path / "out")
    classes = json.loads((out / "obj_class_to_machine_color.json").read_text())
    assert classes == {label.title: [label.id] * 3 for label in LABELS[1:]}
    for name, labels in labels_of(data).items():
        assert (np.asarray(Image.open(out / "masks_machine" / f"{name}.png")) == told(labels)).all()
        human = np.asarray(Image.open(out / "masks_human" / f"{name}.png"))
        assert (human[labels == 13] == LABELS[13].colour).all()


# ---------------------------------------------------------------------------------------------- and back


@pytest.mark.parametrize(
    ("kind", "source"), [("coco-instances", "instances.json"), ("coco-panoptic", "panoptic.json"), ("labelme", "")]
)
def test_back_into_training_data(data, tmp_path, kind, source):
    from faceparse_core.training.data import read_names, read_pair

    out = converted(data, kind, tmp_path / "out") / source
    words = ["--images", str(data / "images")] if source else []
    back = converted(out, "data", tmp_path / "back", *words)
    assert read_names(back, "train") == ["a", "b"]
    for name, labels in labels_of(data).items():
        image, mask = read_pair(back, name)
        assert (mask == told(labels)).all()
        assert (image == read_pair(data, name)[0]).all()


def test_what_people_draw_is_read(tmp_path):
    (tmp_path / "labelme").mkdir()
    Image.new("RGB", (60, 50)).save(tmp_path / "labelme" / "me.jpg")
    shapes = [
        {"label": "skin", "points": [[5, 5], [50, 5], [50, 40], [5, 40]], "shape_type": "polygon"},
        {"label": "Left Eye", "points": [[30, 10], [20, 20]], "shape_type": "rectangle"},
        {"label": "r_eye", "points": [[40, 20], [44, 20]], "shape_type": "circle"},
    ]
    values = {"shapes": shapes, "imagePath": "me.jpg", "imageHeight": 50, "imageWidth": 60, "imageData": None}
    (tmp_path / "labelme" / "me.json").write_text(json.dumps(values))
    back = converted(tmp_path / "labelme", "data", tmp_path / "back")
    expected = Image.new("L", (60, 50))
    draw = ImageDraw.Draw(expected)
    draw.rectangle((5, 5, 50, 40), fill=1)
    draw.rectangle((20, 10, 30, 20), fill=4)
    draw.ellipse((36, 16, 44, 24), fill=5)
    assert (labels_of(back)["me"] == np.array(expected)).all()
    polygon = {"image_id": 7, "category_id": 3, "segmentation": [[5, 5, 50, 5, 50, 40, 5, 40]]}
    coco = {"images": [{"id": 7, "file_name": "me.jpg", "height": 50, "width": 60}], "annotations": [polygon],
            "categories": [{"id": 3, "name": "hair"}]}  # fmt: skip
    (tmp_path / "labelme" / "coco.json").write_text(json.dumps(coco))
    back = converted(tmp_path / "labelme" / "coco.json", "data", tmp_path / "coco")
    draw.rectangle((0, 0, 60, 50), fill=0)
    draw.rectangle((5, 5, 50, 40), fill=13)
    assert (labels_of(back)["me"] == np.array(expected)).all()


def test_what_faceparse_wrote(portrait, tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "photos").mkdir()
    Image.open(portrait.with_name("closeup.jpg")).resize((64, 64)).save(tmp_path / "photos" / "me.jpg")
    small = ["--model", "lite", "--device", "cpu", "--resolution", "96", "--faces", "image"]
    assert main([str(tmp_path / "photos"), "--out", str(tmp_path / "parsed"), *small]) == 0
    words = ["batch", str(tmp_path / "photos"), "--out", str(tmp_path / "shards"), "--format", "coco-instances", *small]
    for _ in range(2):
        assert main(words) == 0
    values = json.loads((tmp_path / "shards" / "_coco-instances" / "instances.json").read_text())
    assert values["images"][0]["file_name"].endswith("photos/me.jpg") and values["annotations"]
    first = converted(tmp_path / "parsed", "data", tmp_path / "1", "--images", str(tmp_path / "photos"))
    second = converted(tmp_path / "shards", "data", tmp_path / "2")
    (one,), (other,) = labels_of(first).values(), labels_of(second).values()
    assert (one == other).all() and one.any()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("a.json", "{", "no COCO file"),
        ("a.json", "[]", "no COCO file"),
        ("a.json", '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}', "there is no 'dog'"),
        ("a.json", '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "eyes"}]}', "no label of ours"),
        (
            "a.json",
            '{"images": [{"id": 1, "file_name": "../../x.jpg", "height": 2, "width": 2}], "annotations": [], '
            '"categories": []}',
            "must not lead out",
        ),
        (
            "set/a.json",
            '{"shapes": [{}], "imageHeight": 2, "imageWidth": 2, "imagePath": "a.jpg"}',
            "no file of LabelMe",
        ),
        ("empty/notes.md", "text", "holds neither"),
    ],
)
def test_what_is_no_set_is_told(tmp_path, file, text, said, capsys):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    source = path if path.parent == tmp_path else path.parent
    assert main(["convert", str(source), "--to", "png", "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err


def test_nothing_is_written_over(data, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        formats.convert(data, "png", tmp_path)
    with pytest.raises(ValueError, match="choose one of coco-instances"):
        formats.convert(data, "voc", tmp_path / "out")
