"""The harness of random faults, for as many as CI has time for; each night there are more."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.faults.setup import ROOT

FAULTS = int(os.environ.get("ORCH_FAULTS", "100"))


def test_no_fault_costs_an_image_or_changes_a_byte() -> None:
    shares = ["venv"] * 5 + ["warm"]
    runtimes = [part for runtime in shares for part in ("--runtime", runtime)]
    command = [sys.executable, "-m", "tests.faults", "--faults", str(FAULTS), *runtimes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
