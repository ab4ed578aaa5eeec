"""The endpoint: FastAPI in front of the desk. ``app`` makes it, ``run`` serves it with uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from faceparse_core import __version__
from faceparse_core.errors import CheckpointError
from faceparse_core.labels import DRAWN, GROUPS, LABELS
from faceparse_core.parser import FaceParser
from faceparse_core.scale.answers import Answer, answer, in_json, in_parts, in_zip
from faceparse_core.scale.asking import Asked, Check, Limits, check_count, from_json, options
from faceparse_core.scale.desk import Desk, Full
from faceparse_core.scale.editing import MOST_PIECES, edited, wanted
from faceparse_core.scale.figures import Figures
from faceparse_core.scale.guard import Guard
from faceparse_core.scale.openapi import edit_body, request_body

# Fields of a form: all that there are, regions and pictures as often as they may come, and a few for mistakes.
_MOST_FIELDS = 40
_OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")
_PATHS = ("/v1/parse", "/v1/edit", "/v1/labels", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/")
# The folders of the demo page, and what makes a browser allow it several threads.
_DEMO = ("demo", "faceparse", "vendor")
_SHOWN = tuple(f"/{folder}/" for folder in _DEMO)
_ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_Options = TypeVar("_Options")
_log = logging.getLogger("faceparse")


def app(
    parser: FaceParser,
    *,
    limits: Limits | None = None,
    room: int | None = None,
    batch: int | None = None,
    key: str | None = None,
    demo: Path | None = None,
) -> FastAPI:
    """The endpoint as an ASGI application, ready as soon as it is there.

    ``room``: for so many pictures, waiting or being worked at; ``batch``: how many go through the network together (see
    ``Desk``); ``key``: what callers must send; ``demo``: the folder ``web`` with the demo page, to be shown at ``/``.
    """
    limits = limits or Limits()
    figures = Figures(_PATHS)
    _warm_up(parser)
    desk = Desk(parser, limits, room, batch, figures.of_batch)
    figures.inside.set_function(lambda: desk.inside)
    limits = replace(limits, pictures=min(limits.pictures, desk.room))  # more could never be taken

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    api = FastAPI(
        title="faceparse",
        version=__version__,
        summary="Face parsing: 19 labels for every face in a picture",
        lifespan=life,
        redoc_url=None,
    )
    api.add_middleware(
        Guard,
        key=key,
        limits=limits,
        most=desk.room,
        needs_key=lambda path: path not in _OPEN and not (demo and (path == "/" or path.startswith(_SHOWN))),
        busy=desk.retry_after,
        told=figures.request,
    )
    _tell_errors(api)

    @api.post("/v1/parse", openapi_extra=request_body(), summary="Parse pictures", response_class=Response)
    async def parse(request: Request) -> Response:
        with _in_time(desk):
            answers = await desk.answers(await _asked(request, limits, options, several="regions"), answer)
        return await run_in_threadpool(_packed, request, parser.checkpoint.name, answers)

    @api.post("/v1/edit", openapi_extra=edit_body(), summary="Change a picture", response_class=Response)
    async def edit(request: Request) -> Response:
        with _in_time(desk):
            one = replace(limits, pictures=1)
            (changed,) = await desk.answers(await _asked(request, one, wanted, several="wear", files=True), edited)
        return Response(changed, media_type="image/png")

    @api.get("/v1/labels", summary="Labels, groups and drawn regions")
    def labels() -> dict:
        named = [
            {"id": label.id, "name": label.title, "published": label.name, "note": label.note, "colour": label.colour}
            for label in LABELS
        ]
        return {"labels": named, "groups": GROUPS, "drawn": list(DRAWN)}

    @api.get("/healthz", summary="Whether the server runs")
    def healthy() -> dict:
        return {"status": "ok"}

    @api.get("/readyz", summary="Whether there is room for a picture")
    def ready() -> JSONResponse:
        full = desk.inside >= desk.room
        return JSONResponse(
            {"status": "full" if full else "ready", "model": parser.checkpoint.name}, 503 if full else 200
        )

    @api.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    def metrics() -> Response:
        return Response(figures.text(), media_type=figures.content_type)

    if demo is not None:
        _show(api, demo)
    return api


def run(api: FastAPI, host: str, port: int) -> None:
    """Serves until it is told to end; requests that are being answered then are answered."""
    uvicorn.run(api, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=30)


@contextlib.contextmanager
def _in_time(desk: Desk) -> Iterator[None]:
    """Too little time is told as what it is."""
    try:
        yield
    except asyncio.TimeoutError:
        seconds = desk.limits.seconds
        said = f"there was no time for it within {seconds:g} s: try again, or send fewer or smaller pictures"
        raise HTTPException(503, said, {"Retry-After": str(desk.retry_after())}) from None


async def _asked(
    request: Request, limits: Limits, check: Check[_Options], *, several: str, files: bool = False
) -> Asked[_Options]:
    """What a request asks for, in whichever of the two forms it comes; ``check`` makes its options. In a form the field
    ``several`` may come more than once, also as ``files``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await run_in_threadpool(from_json, await request.body(), limits, check)
    if kind != "multipart/form-data":
        raise HTTPException(
            415, f"a request is multipart/form-data or application/json, not {kind or 'without a type'}"
        )
    most_files = limits.pictures + (MOST_PIECES if files else 0)
    async with request.form(max_files=most_files, max_fields=_MOST_FIELDS, max_part_size=64 * 1024) as form:
        images: list[bytes] = []
        values: dict[str, object] = {}
        collected: list[object] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in ("image", "images") and not (files and name == several):
                    raise ValueError(f"the picture must be a field of the name image, not {name[:40]!r}")
                data = await value.read()
                if name != several:
                    images.append(data)
                    continue
                value = data
            elif name in ("image", "images"):
                raise ValueError(f"{name} is a text: send a file (with curl: -F image=@portrait.jpg)")
            if name == several:
                collected.append(value)
            else:
                values[name] = value
        if collected:
            values[several] = collected
        check_count(len(images), limits)
        return Asked(images, check(values))


def _packed(request: Request, model: str, answers: list[Answer]) -> Response:
    """The answers in the form that the request accepts: JSON unless it says otherwise."""
    accepted = request.headers.get("accept", "")
    if "application/zip" in accepted:
        return Response(in_zip(model, answers), media_type="application/zip")
    if "multipart/mixed" in accepted:
        body, kind = in_parts(model, answers)
        return Response(body, media_type=kind)
    return Response(in_json(model, answers), media_type="application/json")


def _tell_errors(api: FastAPI) -> None:
    """Every error is a sentence in JSON."""

    def answer(status: int, error: object, headers=None) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status, headers)

    @api.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, error.detail, error.headers)

    @api.exception_handler(ValueError)
    async def value(_: Request, error: ValueError) -> JSONResponse:
        return answer(400, error)

    @api.exception_handler(Full)
    async def full(_: Request, error: Full) -> JSONResponse:
        return answer(429, error, {"Retry-After": str(error.seconds)})

    @api.exception_handler(MemoryError)
    async def memory(_: Request, error: MemoryError) -> JSONResponse:
        return answer(503, error, {"Retry-After": "5"})

    @api.exception_handler(CheckpointError)
    async def checkpoint(_: Request, error: CheckpointError) -> JSONResponse:
        _log.error("%s", error)
        return answer(500, "the model cannot be run: the server's log says why")

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(400, "the request broke off")  # to be counted: nobody hears it

    @api.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        return answer(500, "something went wrong in the server: its log says what")


def _warm_up(parser: FaceParser) -> None:
    """The first run of a network takes longer than all others."""
    parser.parse(torch.zeros(64, 64, 3, dtype=torch.uint8)).labels  # noqa: B018


def _show(api: FastAPI, web: Path) -> None:
    """The demo page, which parses in the browser, at ``/``."""

    class Isolated(StaticFiles):
        def file_response(self, *args, **kwargs) -> Response:
            response = super().file_response(*args, **kwargs)
            response.headers.update(_ISOLATED)
            return response

    @api.get("/", include_in_schema=False)
    def front() -> RedirectResponse:
        return RedirectResponse("/demo/", headers=_ISOLATED)

    for folder in _DEMO:
        if (web / folder).is_dir():
            api.mount(f"/{folder}", Isolated(directory=web / folder, html=True))
