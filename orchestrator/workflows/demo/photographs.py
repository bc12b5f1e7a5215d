"""Photographs and printed pages for the demo, taken from the package scikit-image."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.errors import MachineError
from orchestrator.paths import home
from orchestrator.runtimes import LOCKED, WHEELS, find_uv

LOCK = Path(__file__).parent / "pictures.lock"
PICTURES = ("page.png", "text.png", "coffee.png", "rocket.jpg")
"""Two pictures of printed text, and two photographs without any."""


def fetch_photographs(folder: Path) -> Path:
    """Copy the pictures into `folder` and return it. Raises MachineError when the package cannot be downloaded."""
    if all((folder / name).is_file() for name in PICTURES):
        return folder
    cached = home() / "demo-pictures"
    if not all((cached / name).is_file() for name in PICTURES):
        _fetch(cached)
    folder.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        shutil.copyfile(cached / name, folder / name)
    return folder


def _fetch(cached: Path) -> None:
    uv = find_uv()
    installer = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    with tempfile.TemporaryDirectory(prefix="orch-demo-") as scratch:
        # No `pip check`: the package is unpacked for its pictures and never imported.
        command = [*installer, *LOCKED, *WHEELS, "--target", scratch, "-r", str(LOCK)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        data = Path(scratch) / "skimage" / "data"
        if done.returncode != 0 or not all((data / name).is_file() for name in PICTURES):
            raise MachineError(
                "cannot download the photographs of the demo",
                why="\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
                or "the package does not contain them",
                hint="check the network: they are part of the package scikit-image",
            )
        cached.mkdir(parents=True, exist_ok=True)
        for name in PICTURES:
            shutil.copyfile(data / name, cached / name)
