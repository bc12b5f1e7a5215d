"""Recognise WSL2 and Jetson, whose GPUs need their own rules, and read a Jetson's GPU."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.hardware.machine import Gpu, Machine, Platform

_BOARDS = {"Thor": "11.0", "Orin": "8.7", "Xavier": "7.2", "TX2": "6.2", "Nano": "5.3", "TX1": "5.3"}
"""A word of the board's name, and its GPU's compute capability; Orin Nano before Nano."""
TEGRA = frozenset(_BOARDS.values())
_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: ([0-9.]+)")


def read_platform(root: Path = Path("/")) -> Platform:
    """Return the kind of Linux this is."""
    if (root / "etc/nv_tegra_release").exists():
        return "jetson"
    kernel = _text(root / "proc/version").lower()
    return "wsl2" if "microsoft" in kernel and (root / "usr/lib/wsl").exists() else "linux"


def read_jetson(root: Path = Path("/")) -> Machine:
    """Read a Jetson from its device tree: its GPU shares the board's memory, and older ones have no NVML."""
    model = _text(root / "proc/device-tree/model").strip("\0\n ") or "NVIDIA Jetson"
    release = _RELEASE.match(_text(root / "etc/nv_tegra_release"))
    driver = f"{release[1]}.{release[2]}" if release else "unknown"
    total = re.search(r"MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"))
    memory = int(total[1]) // 1024 if total else 0
    capability = next((value for word, value in _BOARDS.items() if word in model), "")
    gpu = Gpu(0, "0", model, memory, capability, driver)
    return Machine((gpu,), driver, platform="jetson", model=model, source="device tree")


def is_in_container(root: Path = Path("/")) -> bool:
    return any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv", "run/systemd/container"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
