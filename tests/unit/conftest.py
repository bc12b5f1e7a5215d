"""Fixtures of the unit tests: every test has a cache and a configuration folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

MakePhoto = Callable[..., Path]


@pytest.fixture(autouse=True)
def _isolated(orch_home: Path) -> None:
    """Nothing of the caller's own orch is read or written."""


@pytest.fixture
def photo() -> MakePhoto:
    """Writes a small gradient as an image file: photo(path, size=(8, 6), mode="RGB"); gives the path."""

    def make(path: Path, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), "PNG")
        Image.linear_gradient("L").resize(size).convert(mode).save(path, kind)
        return path

    return make
