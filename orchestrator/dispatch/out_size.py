"""Watch the size of workers' out folders, so that none fills the disk of the run."""

from __future__ import annotations

from orchestrator.paths import GuestFolder
from orchestrator.runtimes import format_size
from orchestrator.system import GuestFileRefused, GuestTree


def find_excess(out: GuestFolder, limit: int) -> str | None:
    """Return why a worker may not go on: its out folder holds more than `limit` bytes, or too many files."""
    try:
        with GuestTree(out.root) as tree:
            size = tree.size(out.name)
    except GuestFileRefused as refusal:
        return f"its out folder is refused: {refusal.reason}"
    except OSError:
        return None
    if size <= limit:
        return None
    return f"its out folder holds more than {format_size(limit)}, --out-size raises the limit"
