"""`orch new stack`: a skeleton that runs as it is, to be changed piece by piece."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.resources import RUNNER

TEMPLATE = Path(__file__).parent / "templates" / "stack"


def create_stack(name: str, parent: Path) -> Path:
    """Write the skeleton of stack `name` into a new folder of `parent`. Raises UsageError."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise UsageError(f"{name!r} cannot be a stack's name", why="lower-case letters, digits and - only")
    folder = parent / name
    if folder.exists():
        raise UsageError(f"{folder} exists already", hint="choose another name, or another --into")
    folder.mkdir(parents=True)
    for template in sorted(TEMPLATE.iterdir()):
        if template.is_file():
            text = template.read_text(encoding="utf-8").replace("@NAME@", name)
            (folder / template.name.removesuffix(".template").replace("NAME", name)).write_text(text, encoding="utf-8")
    shutil.copyfile(RUNNER / "base.lock", folder / "cpu.lock")
    shutil.copyfile(RUNNER / "requirements.in", folder / "requirements.in")
    return folder
