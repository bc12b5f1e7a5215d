"""Fetching a file over HTTPS: resumed where it broke off, checked, and put in place in one step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests

from orchestrator.errors import MachineError, UsageError
from orchestrator.system.files import sha256_of, write_text
from orchestrator.system.free_space import Need, require_space

ATTEMPTS = 4
"""So many failures without a new byte between them end a download."""
TIMEOUT = (20, 60)  # seconds to connect, and between two blocks
RESERVE_BYTES = 64 << 20
_BLOCK = 1 << 16
_TRY_LATER = (408, 429)

TransferProgress = Callable[[int, int | None], None]
"""Called with the bytes there and the bytes expected, if known."""


def fetch(url: str, target: Path, *, sha256: str | None, size: int | None, progress: TransferProgress) -> str:
    """Download `url` to `target` and give its sha256. A broken download goes on where it stopped, also next time.

    Raises UsageError for an insecure URL, MachineError when the server, the disk or the digest says no.
    """
    _require_https(url)
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _transfer_patiently(url, part, size, progress, trusting=sha256 is not None)
    except requests.RequestException as error:
        hint = "type the same command again: it resumes"
        raise MachineError(f"cannot fetch {url}", why=_short(error), hint=hint) from error
    except OSError as error:
        raise MachineError(f"cannot store {target}", why=error.strerror or str(error)) from error
    digest = sha256_of(part)
    problem = None
    if sha256 is not None and digest != sha256:
        problem = f"sha256 {digest}, expected {sha256}"
    elif size is not None and part.stat().st_size != size:
        problem = f"{part.stat().st_size} bytes, expected {size}"
    _version_note(part).unlink(missing_ok=True)
    if problem is not None:
        part.unlink()
        raise MachineError(f"{url} is not the expected file", why=problem)
    os.replace(part, target)
    return digest


def _transfer_patiently(url: str, part: Path, size: int | None, progress: TransferProgress, *, trusting: bool) -> None:
    failures = 0
    while True:
        before = _length(part)
        try:
            _transfer(url, part, size, progress, trusting=trusting)
            return
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            failures = 1 if _length(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise
            time.sleep(min(2**failures, 10) * 0.5)


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
        return
    raise UsageError(f"{url}: weights are only fetched over https")


def _transfer(url: str, part: Path, size: int | None, progress: TransferProgress, *, trusting: bool) -> None:
    noted_url, version = _noted_version(part)
    there = _length(part)
    if noted_url != url or not (version or trusting):
        there = 0  # without version and digest nobody would notice that the rest is another file's
    headers = {"Accept-Encoding": "identity"}  # ranges count the bytes of the file, not of a compressed transfer
    if there:
        headers |= {"Range": f"bytes={there}-", **({"If-Range": version} if version else {})}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        for hop in (*response.history, response):
            _require_https(hop.url)
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            if _total(response) == there:
                return  # it was complete, only not renamed
            _start_over(part)
        _require_success(url, response)
        resumed = response.status_code == requests.codes.partial_content
        if resumed and version and _version(response) not in (None, version):
            _start_over(part)  # a server that knows no If-Range
        there = there if resumed else 0
        total = _total(response) or size
        require_space([Need(part.parent, (total or 0) - there, url)], "a download", reserve=RESERVE_BYTES)
        if not resumed:
            part.unlink(missing_ok=True)
            write_text(_version_note(part), f"{url}\n{_version(response) or ''}")
        with part.open("ab" if resumed else "wb") as stream:
            for block in response.iter_content(_BLOCK):
                stream.write(block)
                there += len(block)
                progress(there, total)
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and there != total:
        raise requests.ConnectionError(f"the connection broke after {there} of {total} bytes")


def _start_over(part: Path) -> None:
    part.unlink()
    raise requests.ConnectionError("the file on the server changed; starting over")


def _require_success(url: str, response: requests.Response) -> None:
    answer = f"the server answered {response.status_code} {response.reason}"
    if response.status_code >= 500 or response.status_code in _TRY_LATER:
        raise requests.ConnectionError(answer)
    if response.status_code >= 400:
        raise MachineError(f"cannot fetch {url}", why=answer)


def _version_note(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _noted_version(part: Path) -> tuple[str, str]:
    """The URL that `part` is the beginning of, and what the server called its version, if anything."""
    try:
        url, _, version = _version_note(part).read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return "", ""
    return url, version


def _version(response: requests.Response) -> str | None:
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _total(response: requests.Response) -> int | None:
    span = response.headers.get("Content-Range", "")
    if "/" in span and span.rpartition("/")[2].isdigit():
        return int(span.rpartition("/")[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and response.status_code == requests.codes.ok else None


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
