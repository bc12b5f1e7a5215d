"""Engines that do not see this machine's folders, or let nobody in, are found before anything is built or started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.runtimes.docker import folder_probe
from orchestrator.runtimes.docker.folder_probe import require_visible
from orchestrator.system.container_engine import connect

pytestmark = pytest.mark.docker


def test_a_folder_of_this_machine_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_probe, "_is_local", lambda engine: False)
    require_visible(connect(), [tmp_path, tmp_path / "not" / "there"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="mounts need root")
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_only_this_process_sees_is_found(tmp_path: Path, exists: bool) -> None:
    code = """
import sys
from pathlib import Path
from orchestrator.errors import MachineError
from orchestrator.runtimes.docker import folder_probe
from orchestrator.system.container_engine import connect
folder_probe._is_local = lambda engine: False
try:
    folder_probe.require_visible(connect(), [Path(sys.argv[1])])
except MachineError as error:
    print(error.exit_code, error.message, error.why, error.hint, sep="|")
"""
    hidden = tmp_path / "hidden" if exists else tmp_path / "hidden" / "below"
    (tmp_path / "hidden").mkdir()
    script = f'mount -t tmpfs none {tmp_path}/hidden && mkdir -p {hidden} && exec {sys.executable} -c "$0" {hidden}'
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, code], capture_output=True, text=True, timeout=120, check=True
    )
    code_, message, why, hint = done.stdout.strip().split("|")
    assert (code_, hint) == ("4", folder_probe.HINT)
    assert message.endswith(f"does not see {hidden}")
    assert "bind source path does not exist" in why or "is not in a container" in why
