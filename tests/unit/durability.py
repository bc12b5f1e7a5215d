"""Record when files and folders reach the disk, and when names are replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


def record_syncs(monkeypatch: pytest.MonkeyPatch, target: Path) -> list[str]:
    """Return a list that grows by "file N bytes", "folder" and "renamed" as `target` is written.

    Syncs of other files are not recorded.
    """
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        state = os.fstat(descriptor)
        if not stat.S_ISDIR(state.st_mode):
            steps.append(f"file {state.st_size} bytes")
        elif os.path.samestat(state, target.parent.stat()):
            steps.append("folder")
        fsync(descriptor)

    def record_replace(source: Path, destination: Path) -> None:
        replace(source, destination)
        if Path(destination) == target:
            steps.append("renamed")

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    return steps


def durable_steps(target: Path) -> list[str]:
    """What a durable write records: the whole file, then its name, then the folder."""
    return [f"file {target.stat().st_size} bytes", "renamed", "folder"]
