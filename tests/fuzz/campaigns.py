"""One function a campaign: a case of it, from random numbers."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import json
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faceparse_core import FaceParser, checkpoints, images, masks
from faceparse_core.checkpoints import Checkpoint, downloads, finding, table
from faceparse_core.cli import main
from faceparse_core.faces import Face, crop_faces, paste_faces
from faceparse_core.labels import DRAWN, GROUPS, LABELS, region_ids, resolve
from faceparse_core.models.segformer import SegFormer, SegFormerConfig
from faceparse_core.parsing import Parsing
from faceparse_core.rendering import Window
from tests.fuzz.servers import Hub, LyingHost, can_serve_pages, page_server

CAMPAIGNS = {}
NUMBERS = (
    0, 1, -1, 2, 3.5, 19, 31, 32, 64, 255, 256, 511, 1000, 65536, 1e6, -1e6, 2**31, 2**63, 1e9, 1e300, -1e300, 1e-300,
    float("nan"), float("inf"), float("-inf"), True, False, None, "", "x", "12", [], {}, [1], 10**400,
)  # fmt: skip


def campaign(case):
    case.__name__ = case.__name__.removesuffix("_")
    CAMPAIGNS[case.__name__] = case
    return case


class Patchwork(torch.nn.Module):
    """A network that sees something, quickly: noise that depends on its input."""

    def forward(self, pixels: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(pixels.float(), 4)
        return torch.cat([small * (k - 3) for k in range(6)] + [small[:, :1] * 9], 1)


@cache
def parser() -> FaceParser:
    return FaceParser(Checkpoint("patchwork", Path("x"), "segformer", 64), "cpu", "fp32", network=Patchwork())


def require(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def require_shares(values: Tensor, what: str) -> None:
    require(not values.numel() or (values.min() >= 0 and values.max() <= 1), f"{what} leaves 0..1")  # NaN does, too


def number(random: Random) -> object:
    return random.choice(NUMBERS) if random.random() < 0.5 else random.choice((1, 10, 1000)) * random.uniform(-1, 1)


def mutated(random: Random, data: bytes, other: bytes = b"") -> bytes:
    """Damaged bytes: flipped, cut, doubled, filled, or gone on with by those of another file."""
    data = bytearray(data)
    for _ in range(random.randint(1, 6)):
        at, length = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 16, 300))
        kind = random.randrange(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[at : at + length] = random.randbytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[max(0, at - length) : at]
        elif kind == 4:
            data[at : at + length] = random.choice((b"\0", b"\xff")) * length
        elif random.random() < 0.3:
            data[at:] = other[at:]
    return bytes(data)


# ---------------------------------------------------------------------------------------------- pictures and arrays


@cache
def corpus() -> list[tuple[str, bytes]]:
    """Small pictures of many kinds: their suffix and bytes."""
    noise = Image.effect_noise((37, 23), 60)
    colour = Image.merge("RGB", (noise, noise.rotate(40), noise.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for suffix, picture, options in (
        (".jpg", colour, {"exif": exif}), (".jpg", noise, {"progressive": True}), (".jpg", colour.convert("CMYK"), {}),
        (".png", colour.convert("RGBA"), {}), (".png", colour.quantize(9), {}), (".png", noise.convert("1"), {}),
        (".png", Image.fromarray(np.arange(851, dtype=np.uint16).reshape(23, 37) * 70), {}), (".gif", colour, {}),
        (".webp", colour, {}), (".webp", colour, {"lossless": True}), (".bmp", colour, {}), (".ppm", colour, {}),
        (".tif", colour, {"compression": "tiff_lzw"}), (".tif", colour.convert("F").convert("I"), {}),
        (".tif", colour, {"compression": "tiff_deflate"}), (".tga", colour, {}), (".ico", colour, {}),
        (".jp2", colour, {}), (".pcx", colour, {}), (".sgi", colour, {}), (".dds", colour, {}), (".avif", colour, {}),
    ):  # fmt: skip
        file = io.BytesIO()
        with contextlib.suppress(OSError, KeyError, ValueError):  # a Pillow without this format
            picture.save(file, Image.registered_extensions()[suffix], **options)
            made.append((suffix, file.getvalue()))
    return made


@campaign
def pictures(random: Random, folder: Path) -> None:
    (suffix, data), (_, other) = random.choice(corpus()), random.choice(corpus())
    file = folder / f"x{suffix if random.random() < 0.9 else '.jpg'}"
    file.write_bytes(mutated(random, data, other))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it finds odd
        if random.random() < 0.2:
            try:
                opened = Image.open(io.BytesIO(data)) if random.random() < 0.3 else Image.open(file)
            except Exception as error:  # what Pillow says to those who call it themselves is not ours
                raise ValueError("not opened") from error
            (picture,) = images.load(opened)
        else:
            (picture,) = images.load(file)
    require(picture.dtype == torch.uint8 and picture.shape[2] == 3 and min(picture.shape) > 0, "no picture came out")
    require(images.is_ours(file) is False, "taken for ours")
    if picture.numel() < 1 << 20:
        parsing = parser().parse(picture, faces="image")
        require(parsing.labels.max() < 19 and parsing.labels.shape[1:] == picture.shape[:2], "labels")
        images.save(images.indexed(parsing.labels[0]), folder / "out.png")
        require(images.is_ours(folder / "out.png"), "not marked")


def array(random: Random) -> object:
    shape = [random.choice((0, 1, 1, 2, 3, 4, 5, 17, 40)) for _ in range(random.choice((0, 1, 2, 3, 3, 4, 4, 5)))]
    if random.random() < 0.7 and shape:
        shape[-1] = random.choice((1, 3, 4))
    dtype = random.choice(
        (np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64, bool, complex, ">f4", "O")
    )
    values = np.random.default_rng(random.randrange(1 << 30)).random(shape) * random.choice((0.99, 1, 255, 1e9))
    if random.random() < 0.2 and values.size:
        values.flat[random.randrange(values.size)] = random.choice((np.nan, np.inf, -1, 1e300))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = np.asarray(values).astype(dtype)
    if made.ndim and random.random() < 0.3:
        made = made[::-1] if random.random() < 0.5 else made.swapaxes(0, -1)
    if random.random() < 0.1:
        made.flags.writeable = False
    if made.dtype.kind in "uif" and made.dtype.isnative and made.dtype != np.uint16 and random.random() < 0.4:
        tensor = torch.from_numpy(made.copy())
        kind = random.randrange(8)
        if kind == 0:
            return tensor.to_sparse()
        if kind == 1:
            return tensor.to("meta")
        return tensor.bfloat16() if kind == 2 and tensor.is_floating_point() else tensor
    return made


@campaign
def arrays(random: Random, folder: Path) -> None:
    given = array(random) if random.random() < 0.9 else [array(random) for _ in range(random.randrange(4))]
    if random.random() < 0.1:
        given = random.choice((None, 5, {}, "", b"x", (), [[]], Image.new("P", (3, 0)), Path(), object()))
    before = copy.deepcopy(given) if isinstance(given, (np.ndarray, Tensor)) and given.dtype != object else None
    options = {"track": number(random)} if random.random() < 0.1 else {}
    if random.random() < 0.1:
        options["batch_size"] = number(random)
    parsing = parser().parse(given, faces="image", **options)
    if isinstance(before, np.ndarray):
        require(np.array_equal(before, given), "what was given has changed")
    for one in parsing:
        require(one.labels.max() < 19, "labels")
        require_shares(one.mask("skin + hair", soft=True), "a soft mask")
        one.figures()


# ---------------------------------------------------------------------------------------------- regions, boxes, masks

WORDS = [*[label.title for label in LABELS], *[label.name for label in LABELS], *GROUPS, *DRAWN]


def expression(random: Random) -> object:
    parts = []
    for _ in range(random.choice((1, 1, 2, 3, 5, 40))):
        word = random.choice(WORDS)
        kind = random.randrange(12)
        if kind == 0:
            word = "".join(random.sample(word, len(word)))
        elif kind == 1:
            word = "".join(chr(random.randrange(1, 0x2FF)) for _ in range(random.randrange(9)))
        elif kind == 2:
            word = word.upper().replace(" ", random.choice(("_", "-", "  ", "\t")))
        parts += [word, random.choice((" + ", " - ", "-", ",", "+", "--", " "))]
    return "".join(parts[:-1]) if random.random() < 0.95 else number(random)


@cache
def parsed() -> Parsing:
    return parser().parse(torch.rand(2, 40, 56, 3, generator=torch.Generator().manual_seed(3)), faces="image")


@campaign
def expressions(random: Random, folder: Path) -> None:
    text = expression(random)
    region = resolve(text)
    require(region.ids or region.drawn, "an empty region")
    if not region.drawn:
        require(region_ids(text) == region.ids, "two readings")
    face = random.choice(("all", "largest", 0, 1, number(random)))
    hard, soft = (parsed().mask(text, soft=soft, face=face) for soft in (False, True))
    require_shares(hard, f"the mask of {text}")
    require_shares(soft, f"the soft mask of {text}")


@campaign
def boxes(random: Random, folder: Path) -> None:
    size = random.choice(((1, 1), (9, 200), (40, 50), (90, 70)))
    picture = torch.rand(1, *size, 3)

    def box() -> object:
        values = [random.uniform(-50, 200) if random.random() < 0.85 else number(random) for _ in range(4)]
        names = ("x", "y", "width", "height")
        kind = random.randrange(8)
        if kind == 0:
            return dict(zip(names, values, strict=True)) | {"score": number(random), "angle": random.uniform(-400, 400)}
        if kind == 1:
            return dict(zip(names, values, strict=True), angle=number(random))
        if kind == 2:
            return Face(random.randrange(4), *values, angle=number(random))
        return tuple(values[: random.choice((4, 4, 4, 3))])

    given = [box() for _ in range(random.randrange(4))]
    if random.random() < 0.5:
        parsing = stand_in_finder().parse(picture, faces=[given], smallest=random.choice((0, 0, 5, number(random))))
        require(all(f.x >= 0 and f.x + f.width <= size[1] for f in parsing.faces[0]), "a face beyond its picture")
        require_shares(parsing.mask("person", soft=True), "a soft mask")
        return
    whole = [[int(v) if isinstance(v, float) and abs(v) < 1e9 else v for v in one]
             for one in given if isinstance(one, tuple) and len(one) == 4]  # fmt: skip
    faces = [Face(index, *values, angle=random.uniform(-90, 90)) for index, values in enumerate(whole)]
    options = {
        "size": random.choice((0, 8, 32, 33, number(random))),
        "padding": random.choice((0, 0.5, 3, number(random))),
    }
    if isinstance(options["size"], float) and options["size"] > 500:
        options["size"] = 500
    crops, shown, places = crop_faces(picture, [faces], align=random.random() < 0.5, **options)
    require_shares(crops, "a crop")
    require_shares(shown, "a crop's mask")
    back = paste_faces(picture, crops, places, feather=random.choice((0, 5, 300, number(random))))
    require_shares(back, "what was pasted")


@cache
def stand_in_finder() -> FaceParser:
    """A parser whose finder is its own network: nothing is found, and boxes stay as they are."""
    made = FaceParser(Checkpoint("patchwork", Path("x"), "segformer", 64), "cpu", "fp32", network=Patchwork())
    made.__dict__["_finder"] = SimpleNamespace(
        find=lambda some: [[] for _ in some], find_near=lambda image, faces: [None] * len(faces)
    )
    return made


@campaign
def mask_tools(random: Random, folder: Path) -> None:
    shape = [random.choice((1, 1, 2)), random.choice((1, 2, 3, 33, 60)), random.choice((1, 2, 5, 32, 70))]
    generator = torch.Generator().manual_seed(random.randrange(1 << 30))
    mask = torch.rand(shape, generator=generator)
    kind = random.randrange(8)
    mask = {0: mask.round(), 1: mask * 0, 2: mask * 0 + 1, 3: (mask * 40 - 20).clamp(0, 1), 4: mask * 1e-30}.get(
        kind, mask
    )
    if random.random() < 0.1:
        mask = random.choice((mask * float("nan"), mask[..., None], mask.double(), mask.half(), mask > 0.5, mask[:0]))
    tool = random.randrange(8)
    if tool == 0:
        names = (
            "grow",
            "feather",
            "remove_specks",
            "keep_largest",
            "open_radius",
            "close_radius",
            "smooth_radius",
            "blur_sigma",
        )
        result = masks.edit(
            mask, fill_holes=random.random() < 0.5, **{n: number(random) for n in random.sample(names, 2)}
        )
    elif tool == 1:
        result = masks.combine([mask, 1 - mask.float(), mask], random.choice(masks.OPERATIONS))
    elif tool == 2:
        picture = torch.rand(*mask.shape[:3], 3)
        options = {"radius": number(random), "strength": random.choice((1, 1, 0.5, number(random)))}
        unit, hair = random.choice(masks.UNITS), random.random() < 0.5
        result = masks.refine(picture, mask, unit=unit, hair=hair, **options)
    elif tool == 3:
        result = masks.cut_out(torch.rand(*mask.shape[:3], 3), mask, clean_colours=random.random() < 0.7)
    elif tool == 4:
        result = masks.keep_parts(
            masks.filled(mask), smallest=number(random), largest=random.choice((None, number(random)))
        )
    else:
        change = random.choice(
            (masks.grown, masks.feathered, masks.blurred, masks.smoothed, masks.opened, masks.closed)
        )
        result = change(mask, number(random))
    require_shares(result, "a mask")


# ---------------------------------------------------------------------------------------------- checkpoints, downloads


@cache
def tiny_model() -> dict[str, bytes]:
    """The files of a folder with a SegFormer of a few kB."""
    import tempfile

    torch.manual_seed(1)
    config = SegFormerConfig(depths=(1, 1, 1, 1), hidden_sizes=(4, 8, 12, 16), decoder_width=8, num_heads=(1, 2, 3, 4))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(SegFormer(config), folder, dtype=torch.float32)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def damaged_json(random: Random, data: bytes) -> bytes:
    content = json.loads(data)
    for _ in range(random.randint(1, 3)):
        place = content
        key = random.choice(list(place))
        while isinstance(place[key], (dict, list)) and place[key] and random.random() < 0.7:
            place = place[key]
            key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
        kind = random.randrange(6)
        if kind == 0 and isinstance(place, dict):
            del place[key]
        elif kind == 1:
            place[key] = random.choice(("segformer", "beit", "upernet", "dpt", "../../etc", "nan"))
        elif kind == 2 and isinstance(place, dict):
            place[random.choice(("backbone", "auto_map", "quantization_config", "num_labels", "torch_dtype"))] = number(
                random
            )
        else:
            place[key] = number(random)
        if not content:
            break
    return json.dumps(content).encode()


@campaign
def checkpoints_(random: Random, folder: Path) -> None:
    files = dict(tiny_model())
    for name in random.sample(sorted(files), random.choice((1, 1, 2))):
        if name.endswith(".json") and random.random() < 0.7:
            files[name] = damaged_json(random, files[name])
        elif random.random() < 0.1:
            del files[name]
        else:
            files[name] = mutated(random, files[name], files.get("config.json", b""))
    place = folder / "model"
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    found = checkpoints.find(place)
    network = checkpoints.load(found, trainable=random.random() < 0.2)
    side = min(found.resolution, 64)
    loaded = FaceParser(found, "cpu", "fp32", resolution=side, network=network.requires_grad_(False))
    parsing = loaded.parse(torch.rand(1, 33, 40, 3), faces="image")
    require_shares(parsing.mask("hair", soft=True), "a mask of a damaged model")


@cache
def hub() -> Hub:
    return Hub({name: data for name, data in tiny_model().items()})


@campaign
def downloads_(random: Random, folder: Path) -> None:
    server, files = hub(), tiny_model()
    order = sorted(files, key=lambda name: name.endswith("safetensors"))
    wanted = table.Published(
        "me/model", "main", tuple(downloads.RemoteFile(name, len(files[name]), server.sha256(name)) for name in order),
        "none", ("tiny",),
    )  # fmt: skip
    server.faults = [random.choice(server.FAULTS) for _ in range(random.randrange(6))]
    server.random = random
    home = folder / "home"
    (home / "tiny").mkdir(parents=True)
    part = home / "tiny" / f"{order[-1]}.{server.sha256(order[-1])[:8]}.part"
    left = random.randrange(6)
    if left == 0:
        part.write_bytes(random.randbytes(random.randrange(90_000)))
    elif left == 1:
        part.symlink_to(folder / "elsewhere")
    elif left == 2:
        part.mkdir()
    patched = {"_PAUSE": 0.0, "_LONGEST_PAUSE": 0.0, "_STALL": 0.15, "_PATIENCE": 3.0}
    with (
        _set(downloads, **patched),
        _environment(HF_ENDPOINT=server.url, FACEPARSE_HOME=str(home), HF_HUB_CACHE=str(folder)),
    ):
        try:
            with _published(wanted):
                place = finding._download("tiny", server.url, False)
        finally:
            for name, data in files.items():
                file = home / "tiny" / name
                require(not file.exists() or file.read_bytes() == data, f"{name} is in place, but another")
            require(not (folder / "elsewhere").exists(), "written through a link")
    require(all((place / name).is_file() for name in files), "not all is there")


@contextlib.contextmanager
def _set(module, **values):
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@contextlib.contextmanager
def _published(entry):
    table.PUBLISHED["tiny"] = entry
    try:
        yield
    finally:
        del table.PUBLISHED["tiny"]


@contextlib.contextmanager
def _environment(**values: str):
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# ---------------------------------------------------------------------------------------------- commands


@contextlib.contextmanager
def _inside(folder: Path):
    before = os.getcwd()
    os.chdir(folder)
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            yield out
    finally:
        os.chdir(before)


def _said(out: io.TextIOWrapper) -> str:
    out.flush()
    return out.buffer.getvalue().decode(errors="replace")


class _Seeing:
    """In the place of the command's parser."""

    checkpoint, device, precision, resolution = SimpleNamespace(name="stand-in"), "cpu", "fp32", 64

    def parse(self, image, faces="auto"):
        size = tuple(image.shape[:2])
        logits = torch.zeros(19, 16, 16)
        logits[13, :8], logits[1, 8:] = 9, 9
        return Parsing([logits], [Window(0, 0, size[1], size[0])], [size])


@campaign
def command_line(random: Random, folder: Path) -> None:
    command = importlib.import_module("faceparse_core.cli.parse")
    names = ["a.jpg", "b.png", "a.png", "a.mask.png", "a.labels.png", "smile \U0001f600.png", "sub/c.png", "-x.png"]
    (folder / "sub").mkdir()
    mine = {}
    for name in random.sample(names, 5):
        Image.new("RGB", (random.randint(1, 30), 20), (9, 90, 190)).save(folder / name)
        mine[folder / name] = (folder / name).read_bytes()
    options = ["--region", "--soft", "--refine", "--grow", "--feather", "--cutout", "--faces", "--face", "--json"]
    options += ["--out", "-o", "--skip-existing", "--resolution", "--fit", "--model", "--device", "--version", "--what"]
    words = [*names, "hair", "face - eyes", "each", "0", "7", "largest", "3.5", "nan", "1e400", "", ".", "out", "x.png"]
    words += ["sub", "image", "x" * 300, "a\u0301.jpg", "\ud800", "models", "/dev/null", "all", "auto", "pad"]
    arguments = [random.choice(options if random.random() < 0.35 else words) for _ in range(random.randrange(7))]
    if "--model" in arguments or arguments[:1] == ["models"]:
        os.makedirs(folder / "home", exist_ok=True)
    with (
        _set(command, face_parser=lambda args: _Seeing()),
        _environment(FACEPARSE_HOME=str(folder / "home")),
        _inside(folder) as out,
    ):
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    said = _said(out)
    require(code in (0, 1, 2), f"exit code {code} for {arguments}")
    require("Traceback" not in said, said)
    require(code == 0 or said.strip(), f"nothing said of {arguments}")
    for path, data in mine.items():
        require(path.read_bytes() == data, f"{path.name} was changed by {arguments}")
    left = [path.name for path in folder.rglob("*.part")]
    require(not left, f"left over: {left}")


@cache
def _runner():
    path = Path(__file__).parents[2] / "workflows" / "run.py"
    spec = importlib.util.spec_from_file_location("faceparse_fuzzed_run", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.time = SimpleNamespace(
        sleep=lambda seconds: None, **{n: getattr(module.time, n) for n in ("time", "monotonic")}
    )
    return module


@cache
def host() -> LyingHost:
    return LyingHost()


@campaign
def workflows(random: Random, folder: Path) -> None:
    run, server = _runner(), host()
    server.random = random
    Image.new("RGB", (9, 9)).save(folder / "me.jpg")
    before = (folder / "me.jpg").read_bytes()
    with _inside(folder) as out, contextlib.suppress(SystemExit):
        arguments = [random.choice(("hair_mask", "parse_preview")), "--image", "me.jpg", "--server", server.url]
        code = run.main(arguments)
        require(code in (0, 1, 2), f"exit code {code}")
    require("Traceback" not in _said(out), "a traceback")
    require((folder / "me.jpg").read_bytes() == before, "the user's picture was replaced")
    strange = [path.name for path in folder.parent.iterdir() if path.name.startswith("escaped")]
    require(not strange, f"written outside: {strange}")


def page_server_(random: Random, folder: Path) -> None:
    page_server().attack(random)


if can_serve_pages():
    campaign(page_server_)
