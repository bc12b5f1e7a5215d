"""Bringing a job's results from the spool into the run directory, whole at every moment."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.system.files import replace_file

_PART = re.compile(r"(\d{5})\.part\.npz")
Given = Mapping[str, tuple[int, int]]
"""Parts that a job was given: name, and (size, mtime in ns) that tell whether the job wrote it anew."""


def give_parts(shards: Path, out: Path) -> Given:
    """Make the job's out folder, with the parts that earlier workers left."""
    out.mkdir(parents=True, exist_ok=True)
    given: dict[str, tuple[int, int]] = {}
    for part in shards.glob("*.part.npz"):
        target = out / part.name
        shutil.copy2(part, target)
        given[part.name] = _stamp(target)
    return given


def bring_back(out: Path, shards: Path, given: Given, number: int | None = None) -> None:
    """Move a finished shard with its pictures, or with no number all there is, parts too. Raises OSError."""
    if number is not None:
        _bring_shard(out, shards, number)
        return
    for file in sorted(out.glob("*.npz")):
        if _PART.fullmatch(file.name) is None and not file.name.startswith("."):
            _bring_shard(out, shards, int(file.stem))
    for file in sorted(out.glob("*.part.npz")):
        match = _PART.fullmatch(file.name)
        if match is None or _stamp(file) == given.get(file.name) or (shards / f"{match[1]}.npz").exists():
            continue
        _bring_pictures(out, shards, int(match[1]))
        move(file, shards / file.name)


def _bring_shard(out: Path, shards: Path, number: int) -> None:
    """The pictures first: a shard that is there has all of them."""
    _bring_pictures(out, shards, number)
    move(out / f"{number:05d}.npz", shards / f"{number:05d}.npz")
    (shards / f"{number:05d}.part.npz").unlink(missing_ok=True)


def _bring_pictures(out: Path, shards: Path, number: int) -> None:
    folder = out / "masks" / f"{number:05d}"
    if folder.is_dir():
        target = shards / "masks" / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for picture in folder.glob("[!.]*.png"):
            move(picture, target / picture.name)


def move(source: Path, target: Path) -> None:
    """Rename; on another file system copy aside, fsync, rename. The file belongs to the caller then. Raises OSError."""
    try:
        if os.geteuid() == 0 and source.stat().st_uid != 0:
            os.chown(source, 0, os.getegid())
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as whole, replace_file(target) as stream:
            shutil.copyfileobj(whole, stream, 1 << 20)
        with suppress(OSError):
            source.unlink()


def _stamp(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns
