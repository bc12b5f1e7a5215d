"""Sessions from Python with a container: none outlives the program that connected."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.runtimes.warm.containers import list_containers

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("orch_home")]
PROGRAM = """
import os, tempfile, orchestrator
tempfile.tempdir = {folder!r}
session = orchestrator.connect("garments-tiny", device="cpu", runtime="docker", quiet=True)
os.kill(os.getpid(), 9)
"""


def test_no_container_outlives_the_program(tmp_path: Path) -> None:
    def workers() -> list[str]:
        return [one.name for one in list_containers() if str(tmp_path) in str(one.attrs["Mounts"])]

    killed = subprocess.run([sys.executable, "-c", PROGRAM.format(folder=str(tmp_path))], timeout=300, check=False)
    assert killed.returncode == -9
    deadline = time.monotonic() + 60
    while (workers() or any(tmp_path.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert workers() == []
    assert not any(tmp_path.iterdir())
