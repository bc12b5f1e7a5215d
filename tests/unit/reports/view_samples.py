"""Runs for `orch view`: finished and unfinished directories with images, and a server over them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode, urlsplit

from PIL import Image

from orchestrator.paths import RunPaths
from orchestrator.reports.view.server import Viewer, ViewServer
from orchestrator.reports.view.snapshot import ViewOptions
from tests.unit.predictions.predictions_samples import FILES, META, Arrays, save, write_shards


def make_run(folder: Path, arrays: Arrays, *, finished: bool = True) -> Path:
    """Make a run directory of `arrays`' images; the third of the samples' images is no image."""
    paths = RunPaths(folder / "run")
    paths.root.mkdir(parents=True)
    files = arrays["image_file"].tolist()
    for number, (file, size) in enumerate(zip(files, arrays["image_size"].tolist(), strict=True)):
        image = folder / "photos" / file
        image.parent.mkdir(parents=True, exist_ok=True)
        if file == FILES[2]:
            image.write_text("no image")
        else:
            Image.new("RGB", size[::-1], (number * 60 % 256, 80, 120)).save(image)
    lines = (
        {"index": number, "file": file, "path": f"0/{file}", "image_id": number + 1, "size": 1, "mtime_ns": 1}
        for number, file in enumerate(files)
    )
    paths.inputs.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    recorded = {"roots": [str(folder / "photos")], "resolved": META, "request": {"exif": "apply"}}
    paths.run_json.write_text(json.dumps(recorded))
    write_shards(arrays, [0, 2, 3, 4], paths.shards)
    if finished:
        save(arrays, paths.predictions)
    return paths.root


class Client:
    """Asks a server, by default as the page would."""

    def __init__(self, server: ViewServer) -> None:
        self.server, self.url = server, server.url

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body; a path without a slash in front is below the secret."""
        connection = HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=30)
        whole = path if path.startswith("/") else urlsplit(self.url).path + path
        connection.request(method, whole, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.headers), body

    def read(self, path: str, method: str = "GET", **query: Any) -> Any:
        """Return the JSON that an address answers with."""
        status, _, body = self.ask(f"{path}?{urlencode(query)}", method)
        assert status == 200, body
        return json.loads(body)

    def names(self, **query: Any) -> list[str]:
        """Return the names of the images that pass a filter."""
        return [image["file"] for image in self.read("api/images", **query)["images"]]


@contextmanager
def serve(*runs: Path, **options: Any) -> Iterator[Client]:
    """Serve runs on a free port while the block runs."""
    with Viewer(runs, replace(ViewOptions(), **options)) as viewer, ViewServer(viewer, 0) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield Client(server)
        finally:
            server.shutdown()
            thread.join()
