"""Engines that do not see this machine's folders, or let nobody in, are found before anything is built or started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import MachineError
from orchestrator.runtimes.docker import folder_probe
from orchestrator.runtimes.docker.folder_probe import require_access, require_visible
from orchestrator.runtimes.docker.runtime import isolation, start_container
from orchestrator.system.container_engine import connect
from tests.docker.private_engine import private_engine, why_not

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
import tempfile
from collections.abc import Iterator
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


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's own: an engine's mapped root is nobody in particular."""
    with tempfile.TemporaryDirectory(prefix="orch-mapped-") as folder:
        Path(folder).chmod(0o755)
        try:
            yield Path(folder)
        finally:  # an engine that did not start leaves a mount in its data root
            targets = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            for target in reversed([one for one in targets if one.startswith(f"{folder}/")]):
                subprocess.run(["umount", target], check=True)


@pytest.mark.skipif(why_not() is not None or not shutil.which("useradd"), reason=str(why_not() or "no useradd"))
def test_mapped_users_that_are_not_let_in_are_found(open_folder: Path) -> None:
    """The engine has userns-remap, for which it makes the user dockremap; the image is loaded from the first engine."""
    image = os.environ.get("ORCH_TEST_BASE_IMAGE") or "python:3.11-slim"
    (open_folder / "engine").mkdir()
    with private_engine(open_folder / "engine", {"userns-remap": "default"}) as engine:
        assert "userns" in engine.security
        engine.client.images.load(b"".join(connect().client.images.get(image).save(named=image)))
        mounts = []
        for name, read_only in (("job", True), ("out", False)):
            (open_folder / name).mkdir(mode=0o700)
            mounts.append(
                {"Type": "bind", "Source": str(open_folder / name), "Target": f"/{name}", "ReadOnly": read_only}
            )
        settings = {"image": image, "name": "orch-worker", "mounts": mounts, "device_requests": [], "detach": True}
        settings |= isolation(engine.security, (65534, 65534))
        with pytest.raises(MachineError) as caught:
            require_access(engine, settings, start_container)
        assert caught.value.why == "PermissionError: [Errno 13] Permission denied: '/job'"
        for name in ("job", "out"):
            (open_folder / name).chmod(0o777)
        require_access(engine, settings, start_container)
        assert list((open_folder / "out").iterdir()) == []
        assert engine.client.containers.list(all=True) == []
