"""The guard before the endpoint, plain ASGI: who may ask, how much and how slowly may be sent, how many at a time.

What it refuses has not been read into memory; all of it is decided before a body is decoded.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from faceparse_core.scale.asking import Limits

# What is left of a refused body is taken from the line and thrown away for so long: a caller who is still sending
# reads the answer only then.
_SECONDS_OF_DRAINING = 2.0


class Guard:
    """Asks for the ``key`` (where one is given), holds the ``limits``, lets ``most()`` requests in at a time.

    ``needs_key(path)``: whether the key is asked for there. ``busy()`` says in how many seconds to come again.
    ``told(path, status, seconds)`` is called after every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str | None,
        limits: Limits,
        most: Callable[[], int],
        needs_key: Callable[[str], bool],
        busy: Callable[[], int],
        told: Callable[[str, int, float], None],
    ):
        self.app, self.limits, self.most = app, limits, most
        self.needs_key, self.busy, self.told = needs_key, busy, told
        self.key = key.encode() if key else None
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none here
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._let_in(scope, receive, watched)
        finally:
            self.told(scope["path"], status, time.perf_counter() - start)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self.needs_key(scope["path"]) and not self._knows(headers):
            said = "this server asks for a key: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            await self._refuse(receive, send, 401, said, (b"www-authenticate", b"Bearer"))
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            await self._refuse(receive, send, 400, "the Content-Length is no number")
        elif int(length) > self.limits.bytes:
            await self._refuse(receive, send, 413, self._too_large())
        elif scope["method"] == "POST" and self.inside >= self.most():
            seconds = self.busy()
            said = f"the queue is full: try again in {seconds} s"
            await self._refuse(receive, send, 429, said, (b"retry-after", str(seconds).encode()))
        else:
            self.inside += 1
            try:
                await self.app(scope, self._measured(receive), send)
            finally:
                self.inside -= 1

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the key is right, or none asked for; the time that it takes tells nothing of the key."""
        if self.key is None:
            return True
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, self.key)

    def _measured(self, receive: Receive) -> Receive:
        """``receive`` that ends a body which grows too large or takes too long, while it comes in."""
        bytes_in, until = 0, time.monotonic() + self.limits.seconds
        whole = False

        async def measured() -> Message:
            nonlocal bytes_in, whole
            if whole:  # what comes now is that the caller has gone, whenever
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(until - time.monotonic(), 0))
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the request took longer than {self.limits.seconds:g} s to arrive") from None
            if message["type"] == "http.request":
                bytes_in += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if bytes_in > self.limits.bytes:
                    await _drained(receive)
                    raise HTTPException(413, self._too_large())
            return message

        return measured

    def _too_large(self) -> str:
        return f"the request is too large: at most {self.limits.bytes:,} bytes are taken"

    async def _refuse(
        self, receive: Receive, send: Send, status: int, said: str, *headers: tuple[bytes, bytes]
    ) -> None:
        await _drained(receive)
        body = json.dumps({"error": said}).encode()
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
        await send({"type": "http.response.body", "body": body})


async def _drained(receive: Receive) -> None:
    """Throws away what is still coming, for a while."""
    until = time.monotonic() + _SECONDS_OF_DRAINING
    try:
        while (await asyncio.wait_for(receive(), max(until - time.monotonic(), 0))).get("more_body", False):
            pass
    except asyncio.TimeoutError:
        pass
