"""Measure memory: the limit of this machine or control group, kills at the limit, a process's size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping, Optional

_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GROUP_KILLS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
SHARE_OF_MACHINE = 0.8


def read_limit_mb(environment: Mapping[str, str]) -> int:
    """Return the MiB for all models: $ORCH_MEMORY_MB, the control group's limit or 80% of the machine."""
    setting = environment.get("ORCH_MEMORY_MB", "")
    if setting.isdigit() and int(setting):
        return int(setting)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    for name in _GROUP_LIMITS:
        text = _read_text(name).strip()
        if text.isdigit() and int(text) >> 20 < machine:
            return int(text) >> 20
    return int(SHARE_OF_MACHINE * machine)


def count_oom_kills() -> int:
    """Return how many processes of the control group the kernel has killed for lack of memory."""
    for name in _GROUP_KILLS:
        for line in _read_text(name).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def resident_mb(pid: int) -> Optional[int]:
    """Return the MiB of a process that are in RAM; None where that is unknown."""
    try:
        return int(_read_text(f"/proc/{pid}/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (IndexError, ValueError):
        return None


def _read_text(name: str) -> str:
    try:
        return Path(name).read_text()
    except OSError:
        return ""
