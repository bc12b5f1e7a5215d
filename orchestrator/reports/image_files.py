"""Where the image files of runs are: as a run recorded them, or below a folder that the user names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.evaluation import OpenedRun
from orchestrator.inputs import read_inputs
from orchestrator.paths import RunPaths
from orchestrator.predictions import is_plain_path

Finder = Callable[[str], Path]


def require_image_root(root: Path | None) -> None:
    """Raise UsageError where --image-root is no folder."""
    if root is not None and not root.is_dir():
        why = "it is a file" if root.exists() else "it does not exist"
        raise UsageError(f"--image-root {root} is not a folder", why=why, hint="name the folder of the images")


def make_finder(run: OpenedRun, root: Path | None) -> Finder | None:
    """Return a function from an image's name to its file, under `root` or as the run recorded it; None if unknown.

    The function raises KeyError or ValueError where the name cannot be an image of the run.
    """
    if root is not None:
        return lambda file: _find_below(root, file)
    if run.paths is None or not run.run or not run.paths.inputs.is_file():
        return None
    try:
        return _make_input_locator(run.paths, run.run)
    except (KeyError, TypeError, ValueError):
        return None


def _find_below(root: Path, file: str) -> Path:
    if not is_plain_path(file):
        raise ValueError("its name is not a relative path")
    return root / file


def _make_input_locator(paths: RunPaths, recorded: dict[str, Any]) -> Finder:
    roots = [Path(root) for root in recorded["roots"]]
    files = {image.file: image.path for image in read_inputs(paths.inputs)}

    def locate(file: str) -> Path:
        number, _, rest = files[file].partition("/")
        return roots[int(number)] / rest

    return locate
