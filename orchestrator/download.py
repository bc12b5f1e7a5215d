"""Fetching a file over HTTPS: resumed where it broke off, checked, and put in place in one step."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests

from orchestrator.errors import MachineError, UsageError
from orchestrator.files import sha256_of

ATTEMPTS = 4
TIMEOUT = (20, 60)  # seconds to connect, and between two blocks
_BLOCK = 1 << 18

Progress = Callable[[int, int | None], None]
"""Called with the bytes there and the bytes expected, if known."""


def fetch(url: str, target: Path, *, sha256: str | None, size: int | None, progress: Progress) -> str:
    """Download `url` to `target` and give its sha256. A broken download goes on where it stopped, also next time.

    Raises UsageError for an insecure URL, MachineError when the server, the disk or the digest says no.
    """
    _require_https(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _transfer(url, part, size, progress)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if attempt == ATTEMPTS:
                raise MachineError(
                    f"cannot fetch {url}", why=_short(error), hint="type the same command again: it resumes"
                ) from error
            time.sleep(min(2**attempt, 10) * 0.5)
    digest = sha256_of(part)
    if sha256 is not None and digest != sha256:
        part.unlink()
        raise MachineError(f"{url} is not the expected file", why=f"sha256 {digest}, expected {sha256}")
    os.replace(part, target)
    return digest


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
        return
    raise UsageError(f"{url}: weights are only fetched over https")


def _transfer(url: str, part: Path, size: int | None, progress: Progress) -> None:
    there = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={there}-"} if there else {}
    headers["Accept-Encoding"] = "identity"  # ranges count the bytes of the file, not of a compressed transfer
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            if _total(response) == there:
                return  # it was complete, only not renamed
            part.unlink()
            raise requests.ConnectionError("the file on the server changed; starting over")
        if response.status_code >= 500:
            raise requests.ConnectionError(f"the server answered {response.status_code} {response.reason}")
        if response.status_code >= 400:
            raise MachineError(
                f"cannot fetch {url}", why=f"the server answered {response.status_code} {response.reason}"
            )
        if response.status_code != requests.codes.partial_content:
            there = 0
        total = _total(response) or size
        _require_space(part.parent, (total or 0) - there)
        with part.open("ab" if there else "wb") as stream:
            for block in response.iter_content(_BLOCK):
                stream.write(block)
                there += len(block)
                progress(there, total)
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and there != total:
        raise requests.ConnectionError(f"the connection broke after {there} of {total} bytes")


def _total(response: requests.Response) -> int | None:
    span = response.headers.get("Content-Range", "")
    if "/" in span and span.rpartition("/")[2].isdigit():
        return int(span.rpartition("/")[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and response.status_code == requests.codes.ok else None


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free - (64 << 20):
        raise MachineError(f"no room in {folder}", why=f"{needed >> 20} MB needed, {free >> 20} MB free")


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
