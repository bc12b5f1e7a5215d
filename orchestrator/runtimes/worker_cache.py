"""The cache folder of workers: what they keep between runs, in a folder that their user owns."""

from __future__ import annotations

import stat
import time
from pathlib import Path

from orchestrator.errors import MachineError
from orchestrator.system import GuestTree

_PATIENCE_SECONDS = 1.0
"""Time for another orch, which is just making the folder, to give it away."""


def ensure_worker_cache(folder: Path, owner: tuple[int, int] | None) -> None:
    """Make a cache folder unless it exists. Raises MachineError where one exists that `owner` does not own.

    None: the caller's. A folder of another owner is never given away: what is in it may be links to anything.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if owner is None:
        folder.mkdir(exist_ok=True)
        return
    with GuestTree(folder.parent) as tree:
        try:
            tree.make_folder(folder.name, owner)
            return
        except FileExistsError:
            pass
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        state = folder.lstat()
        if stat.S_ISDIR(state.st_mode) and state.st_uid == owner[0]:
            return
        if time.monotonic() > until:
            why = f"it belongs to uid {state.st_uid}, workers run as {owner[0]}"
            raise MachineError(f"workers cannot use the cache {folder}", why=why, hint=f"rm -r {folder}")
        time.sleep(0.05)
