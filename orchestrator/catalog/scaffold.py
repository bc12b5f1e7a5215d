"""`orch new stack`: write a skeleton that runs, to be changed piece by piece."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from orchestrator.catalog.bundled import RUNNER, STACKS
from orchestrator.errors import UsageError
from orchestrator.system import replace_path

TEMPLATE = Path(__file__).parent.parent / "templates" / "stack"
LONGEST_NAME = 40  # the model is called NAME-example


def create_stack(name: str, parent: Path) -> Path:
    """Write the skeleton of stack `name` into a new folder of `parent`. Raises UsageError."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST_NAME:
        why = f"at most {LONGEST_NAME} lower-case letters and digits, with single - between them"
        raise UsageError(f"{name!r} is not a valid stack name", why=why)
    if (STACKS / name).exists():
        raise UsageError(f"orch already has a built-in stack {name}", hint="choose another name")
    folder = parent / name
    if folder.exists():
        raise UsageError(f"{folder} already exists", hint="choose another name, or another --into")
    try:
        with replace_path(folder) as aside:
            _write_skeleton(name, aside)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{parent} is not a folder", why=error.strerror) from None
    return folder


def _write_skeleton(name: str, folder: Path) -> None:
    folder.mkdir()
    for template in sorted(TEMPLATE.iterdir()):
        if template.is_file():
            text = template.read_text(encoding="utf-8").replace("@NAME@", name)
            (folder / template.name.removesuffix(".template").replace("NAME", name)).write_text(text, encoding="utf-8")
    shutil.copyfile(RUNNER / "base.lock", folder / "cpu.lock")
    shutil.copyfile(RUNNER / "requirements.in", folder / "requirements.in")
