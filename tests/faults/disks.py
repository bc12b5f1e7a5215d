"""A disk of a few megabytes for each case, which can be filled; needs root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

DISK_MB = 8


def mount_small_disk(folder: Path) -> None:
    """Mount a file system of its own at the folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "orch-faults", str(folder)], check=True)


def unmount_below(root: Path) -> None:
    """Unmount all that is mounted at or below a folder, whoever is using it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for point in sorted((line.split()[4] for line in lines), reverse=True):
        if Path(point).is_relative_to(root):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)


def fill(folder: Path, leave: int) -> None:
    """Fill the disk of a folder but for `leave` bytes."""
    state = os.statvfs(folder)
    with (folder / "filler").open("wb") as filler:
        left = max(0, state.f_bavail * state.f_frsize - leave)
        while left > 0:
            left -= filler.write(bytes(min(left, 1 << 20)))


def give_back(folder: Path) -> None:
    """Remove what fills the disk."""
    (folder / "filler").unlink(missing_ok=True)
