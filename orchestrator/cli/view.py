"""`orch view`: a local page over the images of runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from orchestrator.cli.common import JsonOption, print_json, say, show_line
from orchestrator.cli.comparison import SourcesArgument
from orchestrator.cli.evaluation import AlignOption, AnnotationsOption, IouOption, check_iou


def view(
    files: SourcesArgument,
    annotations: AnnotationsOption = None,
    iou: IouOption = None,
    align: AlignOption = False,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of an instance that is shown.")] = 0.3,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder of the images, if the runs' own is not available.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: any that is free.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    json: JsonOption = False,
) -> None:
    """Look at the images of runs in a browser, also of runs that are not complete; until Ctrl-C.

    The page is served on this machine only, at an address with a secret in it; it fetches nothing from elsewhere.
    """
    kind = check_iou(iou)
    from orchestrator.reports import Viewer, ViewOptions, ViewServer

    options = ViewOptions(annotations, kind, align, min_score, image_root)
    with suppress(KeyboardInterrupt), Viewer(files, options) as viewer, ViewServer(viewer, port) as server:
        if json:
            print_json({"url": server.url})
        else:
            show_line(server.url)
            say("Ctrl-C ends it")
        with _open_in_browser(server.url, wanted=not no_browser and not json):
            server.serve_forever()


@contextmanager
def _open_in_browser(url: str, *, wanted: bool) -> Iterator[None]:
    """Open the page, where this is a person's desktop.

    The browser gets a file that only this user can read: other users see the arguments of its process, and could open
    an address that stood there.
    """
    has_screen = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if not wanted or not has_screen or not sys.stderr.isatty():
        yield
        return
    import webbrowser

    with TemporaryDirectory(prefix="orch-view-") as folder:
        page = Path(folder) / "open.html"
        page.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={url}"><a href="{url}">orch view</a>'
        )
        webbrowser.open(page.as_uri())
        yield
