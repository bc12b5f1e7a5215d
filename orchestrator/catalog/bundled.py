"""Folders of the files that come with orch (stacks, Dockerfiles, the runner), in the wheel or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_ROOT = _PACKAGE / "_bundled" if (_PACKAGE / "_bundled").is_dir() else _PACKAGE.parent

STACKS = _ROOT / "images"
DOCKERFILES = _ROOT / "Dockerfiles"
TAXONOMIES = _ROOT / "images" / "taxonomies"
RUNNER = _ROOT / "images" / "runner"
