"""Serve the page of `orch view` on loopback: a secret in the path, no outside requests, nothing named by a request."""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from socketserver import TCPServer
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

from orchestrator.errors import OrchError, UsageError
from orchestrator.reports.html.gallery import Material
from orchestrator.reports.view.images import STATES, Filter, ImageIndex
from orchestrator.reports.view.snapshot import Snapshot, ViewOptions, open_snapshot

ADDRESS = "127.0.0.1"
_HOSTS = ("127.0.0.1", "localhost")  # any other name in a request is a foreign page's that was bound to this address
SIDES = (400, 1600)  # pixels of the longer side of a picture: on a card, and enlarged
MOST_IMAGES = 60  # in one answer
_STATIC = {
    "": ("view", "static/view.html", "text/html"),
    "view.css": ("view", "static/view.css", "text/css"),
    "view.js": ("view", "static/view.js", "text/javascript"),
    "report.css": ("html", "templates/report.css", "text/css"),
    "panels.js": ("html", "templates/panels.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NO_STORE = "no-store"
_KEEP_A_WHILE = "private, max-age=600"


class Viewer:
    """The runs that are shown, reopened on demand. A context manager: its end stops what it started."""

    def __init__(self, paths: Sequence[Path], options: ViewOptions) -> None:
        """Open the runs. Raises what `open_snapshot` raises."""
        self._paths, self._options = list(paths), options
        self._scratch = TemporaryDirectory(prefix="orch-view-")
        self._lock = threading.RLock()
        self._opened = 0
        try:
            self._snapshot, self.index = self._open()
        except BaseException:
            self._scratch.cleanup()
            raise

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *error: object) -> None:
        self.index.disagreement.stop()
        self._scratch.cleanup()

    def _open(self) -> tuple[Snapshot, ImageIndex]:
        snapshot = open_snapshot(self._paths, self._options, Path(self._scratch.name))
        self._opened += 1
        index = ImageIndex(snapshot, self._opened)
        index.disagreement.start()
        return snapshot, index

    def reopen(self) -> dict[str, Any]:
        """Open the runs as they are now, and describe them; those of before stay where that fails."""
        with self._lock:
            before = self.index
            self._snapshot, self.index = self._open()
            before.disagreement.stop()
            return self.describe()

    def describe(self) -> dict[str, Any]:
        """Return what the page needs to know of the runs."""
        with self._lock:
            material: Material = self._snapshot.material
            runs = [
                {"label": run.label, "images": run.images, "failed": run.failed, "total": run.total}
                for run in self._snapshot.progress
            ]
            return {
                "runs": [run.label for run in material.runs],
                "progress": runs,
                "notes": list(self._snapshot.notes),
                "truth": material.truth is not None,
                "categories": self.index.list_categories(),
                "minScore": material.limits.min_score,
                "images": len(self.index),
                "compared": self.index.disagreement.is_defined,
            }

    def list_images(self, wanted: Filter, start: int, count: int, side: int) -> dict[str, Any]:
        """Return `count` of the images that pass the filter, and how many do."""
        with self._lock:
            found = self.index.find(wanted)
            part = found[start : start + count].tolist()
            images = [self.index.describe(image, side) for image in part]
            return {"found": len(found), "start": start, "images": images, "known": self.index.disagreement.known}


class ViewServer(ThreadingHTTPServer):
    """Answers requests that have the secret in their path; `url` is the page."""

    daemon_threads = True

    def __init__(self, viewer: Viewer, port: int) -> None:
        """Listen on loopback; port 0: any that is free. Raises UsageError where the port is taken."""
        self.viewer = viewer
        self.secret = secrets.token_urlsafe(18)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(f"cannot listen on {ADDRESS}:{port}", why=why, hint="leave out --port") from error
        self.url = f"http://{ADDRESS}:{self.server_address[1]}/{self.secret}/"

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, as HTTPServer does."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: `_Handler` answers with its errors, and the rest are pages closed before their answer."""


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "orch", ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer({"api/runs": self._get_runs, "api/images": self._get_images})

    def do_POST(self) -> None:
        self._answer({"api/reload": self._reload})

    def _answer(self, routes: dict[str, Callable[[dict[str, str]], Any]]) -> None:
        try:
            path, query = self._check()
            if path in routes:
                self._send_json(HTTPStatus.OK, routes[path](query))
            elif self.command == "GET" and path in _STATIC:
                self._send_static(path)
            elif self.command == "GET" and path.startswith("picture/"):
                self._send_picture(path)
            else:
                raise _Refused(HTTPStatus.NOT_FOUND, "not found")
        except _Refused as refused:
            self._send(refused.status, "text/plain", refused.text.encode())
        except OrchError as error:
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, error.as_json())
        except ConnectionError:
            raise
        except Exception as error:
            message = f"this is a bug in orch: {type(error).__name__}: {error}"
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, OrchError(message).as_json())

    def _check(self) -> tuple[str, dict[str, str]]:
        """Return the path behind the secret, and the query. Raises _Refused for a wrong host or secret."""
        host = self.headers.get("Host", "").rpartition(":")
        if (host[0] or host[2]).lower() not in _HOSTS:
            raise _Refused(HTTPStatus.FORBIDDEN, "this address is for the page of orch view only")
        parts = urlsplit(self.path)
        secret, _, path = parts.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(secret.encode(errors="replace"), self.server.secret.encode()):
            raise _Refused(HTTPStatus.NOT_FOUND, "not found: use the whole address that orch view printed")
        query = parse_qs(parts.query, max_num_fields=20)
        return path, {name: values[-1] for name, values in query.items()}

    def _get_runs(self, query: dict[str, str]) -> dict[str, Any]:
        return self.server.viewer.describe()

    def _reload(self, query: dict[str, str]) -> dict[str, Any]:
        return self.server.viewer.reopen()

    def _get_images(self, query: dict[str, str]) -> dict[str, Any]:
        try:
            wanted = Filter(
                category=int(query["category"]) if "category" in query else None,
                score=float(query.get("score", 0)),
                state=STATES[STATES.index(query.get("state", "any"))],
                apart=float(query.get("apart", 0)),
                most_apart_first=query.get("order") == "apart",
                words=query.get("words", ""),
            )
            start, count = max(0, int(query.get("start", 0))), min(MOST_IMAGES, max(0, int(query.get("count", 24))))
            side = SIDES[SIDES.index(int(query.get("side", SIDES[0])))]
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"wrong value: {error}") from None
        return self.server.viewer.list_images(wanted, start, count, side)

    def _send_picture(self, path: str) -> None:
        try:
            opening, number, side = (int(part) for part in path.removeprefix("picture/").split("/"))
            index = self.server.viewer.index
            if opening != index.opening or side not in SIDES or not 0 <= number < len(index):
                raise ValueError(path)
        except ValueError:
            raise _Refused(HTTPStatus.NOT_FOUND, "not found") from None
        try:
            data, kind = index.make_picture(number, side)
        except (OSError, ValueError) as error:
            raise _Refused(HTTPStatus.NOT_FOUND, str(error)) from None
        self._send(HTTPStatus.OK, kind, data, _KEEP_A_WHILE)

    def _send_static(self, path: str) -> None:
        package, file, kind = _STATIC[path]
        data = (files(f"orchestrator.reports.{package}") / file).read_bytes()
        self._send(HTTPStatus.OK, f"{kind}; charset=utf-8", data)

    def _send_json(self, status: HTTPStatus, value: Any) -> None:
        text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
        self._send(status, "application/json", text.encode("ascii"))

    def _send(self, status: HTTPStatus, kind: str, data: bytes, caching: str = _NO_STORE) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": caching, **_HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        if status >= HTTPStatus.BAD_REQUEST:
            self.close_connection = True  # a body that came with the request is not read
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal shows the address, and a log would repeat the secret."""
