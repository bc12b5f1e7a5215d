"""Fetch a file over HTTPS: a broken download resumes, the result is checked and replaces the target in one step."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from orchestrator.errors import MachineError, UsageError
from orchestrator.system.files import sha256_of, write_text
from orchestrator.system.free_space import Need, require_space

if TYPE_CHECKING:
    import requests

ATTEMPTS = 4  # failures in a row, without a new byte between them, that end a download
TIMEOUT = (20, 60)  # seconds to connect, and between two blocks
RESERVE_BYTES = 64 << 20
RESUME_HINT = "check the network, behind a proxy HTTPS_PROXY; then the same command again: it resumes"
_BLOCK = 1 << 16
TOKENS = {"huggingface.co": "HF_TOKEN"}
"""Variables with the token of a host, for weights that it gives to those alone who agreed to a licence."""
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE = 200, 206, 416
_RETRY_STATUSES = (408, 429)

_KNOWN_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that requests itself reads."""

TransferProgress = Callable[[int, int | None], None]
"""Called with the bytes received and the bytes expected, None where they are unknown."""


@dataclass(frozen=True)
class _Source:
    """What is fetched: its address, its bytes where they are known, the most it may have, and the hops it may take."""

    url: str
    size: int | None
    limit: int | None
    allow: Callable[[str], None]

    def check_redirect(self, response: requests.Response, **_: object) -> None:
        """Refuse the address that a redirect leads to before it is followed."""
        if response.is_redirect:
            self.allow(urljoin(response.url, response.headers["Location"]))

    def check_length(self, length: int) -> None:
        """Raise MachineError for more bytes than the limit."""
        if self.limit is not None and length > self.limit:
            raise MachineError(f"{self.url} is too large", why=f"it has more than {self.limit / 1e9:.0f} GB")


class _TransferBroken(Exception):
    """A transfer that failed and may be tried again."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    size: int | None,
    progress: TransferProgress,
    allow: Callable[[str], None] | None = None,
    limit: int | None = None,
) -> str:
    """Download `url` to `target` and return its SHA-256. A broken download resumes, also with the next command.

    `allow` is called with the address, and with each that a redirect leads to before it is asked, and raises UsageError
    for one that is not to be used; by default for one that is not https. `limit`: most bytes.
    Raises UsageError for such an address, MachineError when the server, the disk or the digest refuses.
    """
    allow = allow or _require_https
    allow(url)
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _transfer_with_retries(_Source(url, size, limit, allow), part, progress, is_trusted=sha256 is not None)
    except OSError as error:
        hint = "free disk space or change permissions there; $ORCH_HOME moves the cache"
        raise MachineError(f"cannot store {target}", why=error.strerror or str(error), hint=hint) from error
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


def open_url(url: str, headers: Mapping[str, str], check_redirect: Callable[..., None]) -> requests.Response:
    """Ask for an address; the answer's body is not read yet. Proxies and certificates are those of the environment.

    The token of a host that has one is sent to that host alone: requests drops it where a redirect leads elsewhere.
    `check_redirect` is called with each answer, and raises for one that is not to be followed. Raises
    requests.RequestException.
    """
    import requests

    token = os.environ.get(TOKENS.get(urlsplit(url).hostname or "", ""))
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    own = None if any(os.environ.get(name) for name in _KNOWN_CERTIFICATES) else os.environ.get("SSL_CERT_FILE")
    return requests.get(
        url,
        headers={**headers, **authorization},
        stream=True,
        timeout=TIMEOUT,
        hooks={"response": check_redirect},
        verify=own or None,
    )


def _transfer_with_retries(source: _Source, part: Path, progress: TransferProgress, *, is_trusted: bool) -> None:
    failures = 0
    while True:
        before = _length(part)
        try:
            _transfer(source, part, progress, is_trusted=is_trusted)
            return
        except _TransferBroken as error:
            failures = 1 if _length(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise MachineError(f"cannot fetch {source.url}", why=str(error), hint=RESUME_HINT) from error
            time.sleep(min(2**failures, 10) * 0.5)


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
        return
    raise UsageError(f"{url}: weights are only fetched over https")


def _transfer(source: _Source, part: Path, progress: TransferProgress, *, is_trusted: bool) -> None:
    """Fetch what `part` lacks. Raises _TransferBroken where another attempt may succeed, else MachineError."""
    import requests

    url = source.url
    noted_url, version = _noted_version(part)
    start = _length(part)
    if noted_url != url or not (version or is_trusted):
        start = 0  # without version and digest nothing would show that the rest belongs to another file
    headers = {"Accept-Encoding": "identity"}  # ranges count the bytes of the file, not of a compressed transfer
    if start:
        headers |= {"Range": f"bytes={start}-", **({"If-Range": version} if version else {})}
    try:
        with open_url(url, headers, source.check_redirect) as response:
            _receive(source, response, part, start, version, progress)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _TransferBroken(explain_failure(error)) from error
    except requests.RequestException as error:
        raise MachineError(f"cannot fetch {url}", why=explain_failure(error), hint=RESUME_HINT) from error


def _receive(
    source: _Source,
    response: requests.Response,
    part: Path,
    start: int,
    version: str,
    progress: TransferProgress,
) -> None:
    """Append the response to `part`, which has `start` bytes of `version`, or write it anew."""
    url = source.url
    if response.status_code == _RANGE_NOT_SATISFIABLE:
        if _total(response) == start:
            return  # it was complete, only not renamed
        _start_over(part)
    _require_success(url, response)
    resumed = response.status_code == _PARTIAL
    if resumed and version and _version(response) not in (None, version):
        _start_over(part)  # a server that does not know If-Range
    received = start if resumed else 0
    total = _total(response) or source.size
    source.check_length(total or 0)
    require_space([Need(part.parent, (total or 0) - received, url)], "a download", reserve=RESERVE_BYTES)
    if not resumed:
        part.unlink(missing_ok=True)
        write_text(_version_note(part), f"{url}\n{_version(response) or ''}")
    with part.open("ab" if resumed else "wb") as stream:
        for block in response.iter_content(_BLOCK):
            stream.write(block)
            received += len(block)
            source.check_length(received)
            progress(received, total)
        stream.flush()
        os.fsync(stream.fileno())
    if total is not None and received != total:
        raise _TransferBroken(f"the connection broke after {received} of {total} bytes")


def _start_over(part: Path) -> None:
    part.unlink()
    raise _TransferBroken("the file on the server changed; starting over")


def _require_success(url: str, response: requests.Response) -> None:
    answer = f"the server answered {response.status_code} {response.reason}"
    if response.status_code >= 500 or response.status_code in _RETRY_STATUSES:
        raise _TransferBroken(answer)
    if response.status_code >= 400:
        raise MachineError(f"cannot fetch {url}", why=answer)


def _version_note(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _noted_version(part: Path) -> tuple[str, str]:
    """Return the URL that `part` is the beginning of, and the server's version of it, empty where unknown."""
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
    return int(length) if length.isdigit() and response.status_code == _OK else None


def explain_failure(error: Exception) -> str:
    """Return why a request failed, without the names of the library's objects that its text begins with."""
    reason = getattr(error.args[0] if error.args else None, "reason", None) or error
    text = next(iter(str(reason).splitlines()), "")
    return (re.sub(r"^<?HTTPS?Connection(Pool)?\b.*?(\)|>): ", "", text) or type(error).__name__)[:300]
