"""Compare what will be written to disks with their free space, before anything is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import MachineError

SKIP = "ORCH_SKIP_DISK_CHECK"
GB = 10**9
RESERVE = GB // 4  # bytes left free on every disk, for logs, locks and the machine itself
HINT = f"orch prune --dry-run shows what orch could remove; $ORCH_HOME moves its cache; {SKIP}=1 skips this check"


@dataclass(frozen=True)
class Need:
    """Bytes that something will write into a folder, which may not exist yet."""

    folder: Path
    bytes: int
    what: str


def require_space(needs: Sequence[Need], purpose: str, *, reserve: int = RESERVE) -> None:
    """Raise MachineError, with the numbers, where a disk has too little for all that goes to it.

    `reserve` bytes stay free on each disk.
    """
    if os.environ.get(SKIP):
        return
    disks: dict[int, tuple[Path, list[Need]]] = {}
    for need in needs:
        folder = _existing(need.folder)
        disks.setdefault(folder.stat().st_dev, (folder, []))[1].append(need)
    short = [line for folder, wanted in disks.values() if (line := _shortage(folder, wanted, reserve)) is not None]
    if short:
        raise MachineError(f"not enough disk space for {purpose}", why="\n".join(short), hint=HINT)


def _shortage(folder: Path, needs: Sequence[Need], reserve: int) -> str | None:
    """Return a sentence where the needs do not fit on the folder's disk together."""
    free = shutil.disk_usage(folder).free
    needed = sum(need.bytes for need in needs)
    if not needed or needed + reserve <= free:
        return None
    parts = ", ".join(f"{need.what} {need.bytes / GB:.1f} GB" for need in needs if need.bytes)
    total = f"{(needed + reserve) / GB:.1f} GB needed"
    return f"{folder}: {total} ({parts}, and {reserve / GB:.2f} GB to spare), {free / GB:.1f} GB free"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
