"""A web server for downloads that misbehaves on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Files by path, and what to do wrong. `seen` is (path, Range header) of each request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.authorizations: list[str | None] = []
        """The Authorization header of each request."""
        self.seen: list[tuple[str, str | None]] = []
        self.errors: list[int] = []
        """Statuses to answer with first."""
        self.breaks: list[int] = []
        """After so many bytes of the body, break the connection: one for each request to come."""
        self.ranges = True
        self.knows_if_range = True
        self.tags_parts = True
        """Whether answers with a part of a file have an ETag."""
        self.length = True
        self.redirects: dict[str, str] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site, asked = self.site, self.headers.get("Range")
        site.authorizations.append(self.headers.get("Authorization"))
        site.seen.append((self.path, asked))
        path = self.path.partition("?")[0]
        self.close_connection = True
        if site.errors:
            self._head(site.errors.pop(0), {"Content-Length": "0"})
        elif path in site.redirects:
            self._head(302, {"Location": site.redirects[path], "Content-Length": "0"})
        elif path in site.files and self.headers.get("If-None-Match", "no") == site.etags.get(path):
            self._head(304, {"Content-Length": "0"})
        elif path not in site.files:
            self._head(404, {"Content-Length": "0"})
        else:
            self._file(site.files[path], site.etags.get(path), asked if site.ranges else None)

    def _file(self, content: bytes, etag: str | None, asked: str | None) -> None:
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        condition = self.headers.get("If-Range")
        if self.site.knows_if_range and condition is not None and condition != etag:
            start = 0
        if asked and start >= len(content):
            self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        headers = {"ETag": etag} if etag and (self.site.tags_parts or not start) else {}
        if self.site.length:
            headers["Content-Length"] = str(len(content) - start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, headers)
        body = content[start:]
        self.wfile.write(body[: self.site.breaks.pop(0)] if self.site.breaks else body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[Site]:
    """A site on a free port of this machine."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.site = Site(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield Handler.site
        finally:
            server.shutdown()
            thread.join()
