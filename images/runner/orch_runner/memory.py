"""How much memory this machine or control group has, and whether the kernel killed something for want of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping, Optional

_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GROUP_KILLS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
SHARE_OF_MACHINE = 0.8


def limit_mb(environment: Mapping[str, str]) -> int:
    """What all models together may take: $ORCH_MEMORY_MB, the control group's limit, or most of the machine."""
    asked = environment.get("ORCH_MEMORY_MB", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    for name in _GROUP_LIMITS:
        text = _text(name).strip()
        if text.isdigit() and int(text) >> 20 < machine:
            return int(text) >> 20
    return int(SHARE_OF_MACHINE * machine)


def kills() -> int:
    """How many processes of the control group the kernel has killed for want of memory."""
    for name in _GROUP_KILLS:
        for line in _text(name).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def resident_mb(pid: int) -> Optional[int]:
    """Memory of a process that is in RAM; None where it cannot be known."""
    try:
        return int(_text(f"/proc/{pid}/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (IndexError, ValueError):
        return None


def _text(name: str) -> str:
    try:
        return Path(name).read_text()
    except OSError:
        return ""
