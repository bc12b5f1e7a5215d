"""Images and archives at http(s) addresses: fetched into the cache, and asked for anew by each run.

Redirects lead to public addresses only: what a server answers must not make orch read from the user's own network.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from orchestrator.errors import MachineError, UsageError
from orchestrator.paths import home
from orchestrator.system import explain_failure, fetch, open_url, read_json_object, sha256_of, write_json, write_text

MOST_BYTES = 50_000_000_000
_FORMAT = "orch-download/1"
_NOT_MODIFIED = 304
_PIPE = "find photos/ -name '*.jpg' | orch run MODEL -"


@dataclass(frozen=True)
class _Kept:
    """A file that was fetched before: where it is, and what its note says."""

    file: Path
    note: dict[str, Any]

    def headers(self) -> dict[str, str]:
        """Return the headers that ask whether the file has changed."""
        version = str(self.note.get("version", ""))
        if not version:
            return {}
        return {"If-None-Match": version} if version.startswith('"') else {"If-Modified-Since": version}


def save_names(names: Iterable[str]) -> Path:
    """Write names of images, one a line, into a list in the cache, whose name follows from its content.

    Names are relative to the working folder. Raises UsageError where there are none, MachineError.
    """
    lines = []
    for name in names:
        if "\0" in name:
            raise UsageError(
                "the standard input is not a list of names",
                why="it has a NUL byte: names are text, one a line",
                hint=_PIPE,
            )
        if name.strip():
            lines.append(os.path.abspath(expand_user(name.rstrip("\n"))))
    if not lines:
        raise UsageError("no names of images came from the standard input", hint=_PIPE)
    text = "".join(f"{line}\n" for line in lines)
    file = home() / "lists" / f"{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:16]}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except UnicodeEncodeError as error:
        hint = "rename the file, or name its folder: orch run MODEL FOLDER"
        raise UsageError("a name on the standard input is not UTF-8", why=str(error), hint=hint) from error
    except OSError as error:
        why, hint = error.strerror or str(error), "set $ORCH_HOME to a folder that can be written"
        raise MachineError(f"cannot store the names of images in {file}", why=why, hint=hint) from error
    return file


def is_url(source: str) -> bool:
    """Return whether a source is an http(s) address."""
    return source.lower().startswith(("http://", "https://"))


def expand_user(name: str) -> Path:
    """Return the path with a leading ~ replaced by the home folder it stands for, if any."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no user has that name; a file may
        return Path(name)


def recorded_url(url: str) -> str:
    """Return an address as it is recorded: a query, which may hold a secret, by its digest."""
    parts = urlsplit(url)
    query = f"sha256={hashlib.sha256(parts.query.encode()).hexdigest()[:16]}" if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def recorded_source(source: str) -> str:
    """Return a source as run.json records it: an address without its secrets, else the absolute path."""
    return recorded_url(source) if is_url(source) else os.path.abspath(expand_user(source))


def fetch_url(url: str, *, offline: bool = False) -> Path:
    """Return the cached file of an address, fetched where it is new or has changed.

    Its time of modification follows from its content. Raises UsageError, MachineError.
    """
    _require_plain(url)
    folder = home() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    file, note_file = folder / _name(url), folder.with_suffix(".json")
    kept = _read_kept(file, note_file)
    if offline:
        if kept is None:
            raise MachineError(f"{recorded_url(url)} is not in the cache", why="--offline was given")
        return file
    version = _ask(url, kept)
    if version is None:
        return file
    allow = _Redirects(url).check
    digest = fetch(url, file, sha256=None, size=None, progress=lambda *_: None, allow=allow, limit=MOST_BYTES)
    seconds = int(digest[:7], 16)  # as lists of images compare times: other content, another time
    os.utime(file, (seconds, seconds))
    write_json(note_file, {"format": _FORMAT, "url": recorded_url(url), "version": version, "sha256": digest})
    return file


def _require_plain(url: str) -> None:
    """Raise UsageError for an address with a password in it or without a host."""
    try:
        parts = urlsplit(url)
        host, secret = parts.hostname, parts.username or parts.password
    except ValueError as error:
        raise UsageError("not an address", why=str(error)) from None
    if secret:
        raise UsageError(f"the address of {host} has a password in it", hint="write it into ~/.netrc")
    if not host:
        raise UsageError(f"{recorded_url(url)} is no address of a file")


def _name(url: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return "".join(letter if letter.isprintable() and letter != "/" else "_" for letter in name)[-200:] or "image"


def _read_kept(file: Path, note_file: Path) -> _Kept | None:
    """Return what was fetched before; None where it is missing or is not what was noted."""
    try:
        note = read_json_object(note_file)
        if note.get("format") != _FORMAT or sha256_of(file) != note.get("sha256"):
            return None
    except (OSError, ValueError):
        return None
    return _Kept(file, note)


def _ask(url: str, kept: _Kept | None) -> str | None:
    """Return the server's version of the file, empty where it names none; None where the kept one is the same.

    Raises MachineError.
    """
    import requests

    headers = {"Accept-Encoding": "identity", **(kept.headers() if kept else {})}
    try:
        with open_url(url, headers, _Redirects(url).follow) as response:
            if response.status_code == _NOT_MODIFIED and kept is not None:
                return None
            if response.status_code >= 400:
                answer = f"the server answered {response.status_code} {response.reason}"
                raise MachineError(f"cannot fetch {recorded_url(url)}", why=answer, hint="check the address")
            etag = response.headers.get("ETag", "")
            return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    except requests.RequestException as error:
        hint = "--offline uses what is cached" if kept else "check the address, and the network: orch help environment"
        raise MachineError(f"cannot fetch {recorded_url(url)}", why=explain_failure(error), hint=hint) from error


class _Redirects:
    """The addresses that one request may lead to: that which the user named, and public ones."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).hostname

    def follow(self, response: Any, **_: Any) -> None:
        """Check where an answer leads, before it is followed."""
        if response.is_redirect:
            self.check(urljoin(response.url, response.headers["Location"]))

    def check(self, url: str) -> None:
        """Raise UsageError for an address of another host that is not public, or of no http(s) server."""
        parts = urlsplit(url)
        if parts.hostname == self._host:
            return
        if parts.scheme not in ("http", "https"):
            raise UsageError(f"a redirect leads to {parts.scheme}, not to http or https")
        try:
            found = socket.getaddrinfo(parts.hostname, None)
        except OSError:
            return  # a proxy may know it; without one, the request fails
        for address in {one[4][0] for one in found}:
            if not ipaddress.ip_address(str(address).partition("%")[0]).is_global:
                raise UsageError(
                    f"a redirect leads to {parts.hostname}",
                    why=f"its address {address} is not public",
                    hint="give that address itself if you trust it",
                )
