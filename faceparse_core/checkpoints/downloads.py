"""Fetching a file whole: resumed after an interruption, verified before it gets its name, never half in place.

Our own few lines over urllib, not hf_hub_download: that one gives a file its name before anybody could check its
sha256, waits far longer than 5 seconds for a network that is not there, does not tell a host how far it is, and its
HTTP library changed with each of its major versions. Its cache is read all the same, by ``finding``.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import queue
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from faceparse_core.errors import CheckpointError

_log = logging.getLogger("faceparse")

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all; whatever it raises stops the download for now."""


class RemoteFile(NamedTuple):
    """A file as it must be: its name in the repository, its size in bytes, its sha256 in hexadecimal."""

    name: str
    size: int
    sha256: str


_PATIENCE = 4.0  # seconds for an answer to begin: name look-up, connection, redirections and headers together
_STALL = 20.0  # seconds without a byte, once it has begun
_FRUITLESS = 3  # tries in a row that bring no new byte
_PAUSE = 1.0  # seconds before the second try; doubles
_LONGEST_PAUSE = 10.0
_CHUNK = 1 << 18
_MIRROR_HINT = "If HF_ENDPOINT names a mirror, try without it."


class NoNetwork(CheckpointError):
    """The server cannot be reached."""


class _Interrupted(Exception):
    """A try failed in a way that another may mend. ``wait``: the seconds that the server asks for."""

    def __init__(self, what: str, wait: float = 0.0, *, reached: bool = True):
        super().__init__(what)
        self.wait = wait
        self.reached = reached


def fetch(server: Server, file: RemoteFile, folder: Path, report: Callable[[int], None]) -> None:
    """Downloads one file. Until its sha256 is checked it is a ``.part``, to which a later try or process appends."""
    part = _part(folder, file)
    if part.is_symlink():
        part.unlink()  # nothing is written through a link that somebody else may have made
    elif os.path.lexists(part) and not part.is_file():
        raise CheckpointError(f"{part} is no file, and a download is to be written there: take it away")
    clean = _size(part) == 0  # no bytes of an earlier process, which may have gone wrong in whatever way
    fruitless = 0
    while True:
        here = _size(part)
        if here >= file.size:
            if has_sha256(part, file):
                break
            part.unlink()
            if clean:
                raise CheckpointError(
                    f"{server.url(file)} is not the file that we know: its sha256 differs from {file.sha256}. "
                    f"Nothing was kept. {_MIRROR_HINT}"
                )
            clean = True
            continue
        try:
            server.append(file, part, report)
        except _Interrupted as problem:
            fruitless = 1 if _size(part) > here else fruitless + 1
            if fruitless >= _FRUITLESS or not (problem.reached or server.reached):
                kind = CheckpointError if problem.reached else NoNetwork
                raise kind(f"cannot download {server.url(file)}: {problem}. {_resume_hint(part)}") from problem
            time.sleep(min(max(problem.wait, _PAUSE * 2 ** (fruitless - 1)), _LONGEST_PAUSE))
    try:
        os.replace(part, folder / file.name)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder / file.name}: {error}") from error


class Server:
    """The folder of one repository on a server of the hub. ``reached`` once it has answered."""

    def __init__(self, base: str):
        if not re.match("https?://", base):
            raise CheckpointError(f"HF_ENDPOINT must be an http or https address, got {server_address()!r}")
        self.base = base
        self.reached = False

    def url(self, file: RemoteFile) -> str:
        return f"{self.base}/{file.name}"

    def append(self, file: RemoteFile, part: Path, report: Callable[[int], None]) -> None:
        """Asks for what is missing from ``part`` and appends what comes. Raises _Interrupted if not all of it came."""
        here = _size(part)
        with self._answer(file, part) as answer:
            if here and not _continues(answer, here):
                here = 0  # the server sends the file from its start
            length = answer.headers.get("Content-Length")
            if length is not None and not re.fullmatch("[0-9]{1,18}", length):
                raise _Interrupted("the server answers with a Content-Length that is no number")
            if length is not None and here + int(length) != file.size:
                raise CheckpointError(
                    f"{self.url(file)} has {here + int(length):,} bytes instead of {file.size:,}: not the file that "
                    f"we know. Does the network want a login first? {_MIRROR_HINT}"
                )
            with _writing(part, "ab" if here else "wb") as write:
                report(here)
                for chunk in _chunks(answer):
                    write(chunk[: file.size - here])
                    here = min(here + len(chunk), file.size)
                    report(here)
                    if here == file.size:
                        return
        raise _Interrupted(f"the connection ended after {here:,} of {file.size:,} bytes")

    def _answer(self, file, part):
        try:
            answer = _open(self.url(file), _size(part))
        except urllib.error.HTTPError as error:
            self.reached = True
            error.close()
            what = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # no such range: start anew
                part.unlink(missing_ok=True)
            if error.code in (416, 429) or error.code >= 500:
                raise _Interrupted(what, _seconds(error.headers.get("Retry-After"))) from error
            raise CheckpointError(f"cannot download {self.url(file)}: {what}. {_MIRROR_HINT}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise _Interrupted(str(reason) or type(reason).__name__, reached=False) from error
        self.reached = True
        return answer


def _open(url: str, start: int) -> http.client.HTTPResponse:
    """The server's answer, after ``_PATIENCE`` seconds at most.

    The time-outs of sockets do not bound the look-up of a name and count anew for each address, so a thread asks.
    """
    headers = {"User-Agent": "faceparse"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask():
        try:
            answers.put(urllib.request.urlopen(request, timeout=_STALL, context=_trust()))
        except Exception as error:  # raised again below, in the thread that waits
            answers.put(error)

    threading.Thread(target=ask, name="faceparse-download", daemon=True).start()
    try:
        answer = answers.get(timeout=_PATIENCE)
    except queue.Empty:
        raise TimeoutError(f"no answer within {_PATIENCE:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _trust() -> ssl.SSLContext:
    """The system's certificates and, where it is installed, certifi's: Python from python.org on a Mac has none."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _continues(answer, start):
    """Whether the answer goes on at byte ``start``; the whole file (200) is the other answer that servers give."""
    if answer.status != 206:
        return False
    given = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if given is None or int(given[1]) != start:
        raise _Interrupted(f"the server answers with another range than the one from byte {start}")
    return True


def _chunks(answer) -> Iterator[bytes]:
    try:
        while chunk := answer.read1(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"the connection broke: {error or type(error).__name__}") from error


@contextlib.contextmanager
def _writing(part, mode):
    """A function that writes to ``part``; a full disk is an error of its own, not of the network."""
    try:
        file = part.open(mode, buffering=0)
    except OSError as error:
        raise CheckpointError(f"cannot write {part}: {error}") from error

    def write(data):
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            raise CheckpointError(f"cannot write {part}: {error}. {_resume_hint(part)}") from error

    with file:
        yield write


@contextlib.contextmanager
def only_one(folder: Path, files: Sequence[RemoteFile], report: Callable[[int], None]) -> Iterator[None]:
    """Holds the folder against other downloads into it, of this process and of others; waits while one runs."""
    from filelock import FileLock

    lock = FileLock(folder / ".lock")
    if not _acquired(lock, 0):
        _log.info("Another process downloads into %s; waiting for it", folder)
        paths = [path for file in files for path in (folder / file.name, _part(folder, file))]
        total = sum(file.size for file in files)
        while not _acquired(lock, 0.5):
            report(min(sum(map(_size, paths)), total))
    try:
        yield
    finally:
        lock.release()


def _acquired(lock, seconds):
    from filelock import Timeout

    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        raise CheckpointError(
            f"cannot lock {lock.lock_file}: {error}. Set FACEPARSE_HOME to a local folder."
        ) from error
    return True


@contextlib.contextmanager
def reporter(name: str, total: int, progress: bool | Progress) -> Iterator[Callable[[int], None]]:
    """A function that is told the bytes that are here, and shows them as ``progress`` says."""
    if callable(progress):
        yield lambda here: progress(here, total)
        return
    if not progress:
        yield lambda here: None
        return
    from tqdm import tqdm

    with contextlib.ExitStack() as bars:
        bar = None

        def report(here):
            nonlocal bar
            if bar is None:  # not before something has come: without a network nobody wants to see a bar
                bar = bars.enter_context(tqdm(total=total, initial=here, unit="B", unit_scale=True, desc=name))
            bar.update(here - bar.n)

        yield report


def server_address() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _resume_hint(part):
    here = _size(part)
    return f"{here:,} bytes are kept; the next try goes on from there." if here else "Try again later."


def _seconds(text):
    return float(text) if text and text.strip().isdecimal() else 0.0


def _part(folder: Path, file: RemoteFile) -> Path:
    return folder / f"{file.name}.{file.sha256[:8]}.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def has_sha256(path: Path, file: RemoteFile) -> bool:
    return _size(path) == file.size and _sha256(path) == file.sha256


def require_sha256(path: Path, file: RemoteFile) -> None:
    if not has_sha256(path, file):
        raise CheckpointError(f"{path} is damaged: its sha256 is not {file.sha256}. Delete it and download again.")
