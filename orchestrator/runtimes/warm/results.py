"""Move a job's results from the spool into the run directory, where they are complete at every moment."""

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
PartStamps = Mapping[str, tuple[int, int]]
"""The parts that a job began with: by name, (size, mtime in ns), which tell whether the job wrote it again."""


def copy_parts_to_job(shards: Path, out: Path) -> PartStamps:
    """Make the job's out folder with the parts that earlier workers left, and return their stamps."""
    out.mkdir(parents=True, exist_ok=True)
    stamps: dict[str, tuple[int, int]] = {}
    for part in shards.glob("*.part.npz"):
        target = out / part.name
        shutil.copy2(part, target)
        stamps[part.name] = _stamp(target)
    return stamps


def move_results(out: Path, shards: Path, stamps: PartStamps, number: int | None = None) -> None:
    """Move a finished shard and its pictures; without `number`, all results, parts too. Raises OSError."""
    if number is not None:
        _move_shard(out, shards, number)
        return
    for file in sorted(out.glob("*.npz")):
        if _PART.fullmatch(file.name) is None and not file.name.startswith("."):
            _move_shard(out, shards, int(file.stem))
    for file in sorted(out.glob("*.part.npz")):
        match = _PART.fullmatch(file.name)
        if match is None or _stamp(file) == stamps.get(file.name) or (shards / f"{match[1]}.npz").exists():
            continue
        _move_pictures(out, shards, int(match[1]))
        move_file(file, shards / file.name)


def _move_shard(out: Path, shards: Path, number: int) -> None:
    """Move the pictures first, so that a shard in the run directory has all of them."""
    _move_pictures(out, shards, number)
    move_file(out / f"{number:05d}.npz", shards / f"{number:05d}.npz")
    (shards / f"{number:05d}.part.npz").unlink(missing_ok=True)


def _move_pictures(out: Path, shards: Path, number: int) -> None:
    folder = out / "masks" / f"{number:05d}"
    if folder.is_dir():
        target = shards / "masks" / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for picture in folder.glob("[!.]*.png"):
            move_file(picture, target / picture.name)


def move_file(source: Path, target: Path) -> None:
    """Rename a file, or copy it to another file system; the caller then owns it. Raises OSError."""
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
