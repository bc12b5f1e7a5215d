"""Equal requests at once, by two users on one engine: no run ends another one's workers."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import orchestrator
from orchestrator.system.container_engine import connect
from tests.conformance.pictures import photograph

pytestmark = pytest.mark.docker
STACKS = Path(__file__).parent.parent / "stacks"
OTHER_USER = 4242
RUNS = 10


def socket_group() -> int | None:
    """The group that may use the engine, if another user can run orch here at all."""
    socket = Path(connect().url.removeprefix("unix://"))
    needed = (Path(sys.executable).resolve(), Path(orchestrator.__file__).resolve())
    reachable = all(above.stat().st_mode & stat.S_IXOTH for path in needed for above in path.parents)
    state = socket.stat()
    return state.st_gid if os.geteuid() == 0 and reachable and state.st_mode & stat.S_IWGRP else None


def start(folder: Path, name: str, user: int, group: int | None) -> subprocess.Popen[str]:
    """Start one run; all ask for the same."""
    command = [sys.executable, "-m", "orchestrator", "run", "-m", "faulty", "-i", str(folder / "in"), "--workers", "2"]
    home = folder / str(user)
    base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE") or ""
    folders = {"HOME": str(home), "ORCH_HOME": str(home / "cache"), "ORCH_STACKS": str(folder / "stacks")}
    return subprocess.Popen(
        [*command, "--runtime", "docker", "--shard-size", "1", "-o", str(home / name), "--json"],
        env={**os.environ, "ORCH_BASE_IMAGE": base, **folders},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=None if group is None else user,
        group=None if group is None else user,
        extra_groups=None if group is None else [group],
    )


def test_ten_equal_requests_of_two_users_all_complete(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, group = Path(os.path.realpath(tmp_path_factory.mktemp("equal"))), socket_group()
    for above in (folder, *folder.parents[:2]):
        above.chmod(above.stat().st_mode | 0o711)
    (folder / "in").mkdir()
    for number in range(6):
        Image.fromarray(photograph(80 + number, 60)).save(folder / "in" / f"{number}.png")
    shutil.copytree(STACKS / "faulty", folder / "stacks" / "faulty")
    me = os.getuid()
    users = {me: None} if group is None else {me: None, OTHER_USER: group}
    for user, its_group in users.items():
        (folder / str(user)).mkdir()
        os.chown(folder / str(user), user, user)
        built = start(folder, "built", user, its_group)  # before, so that all workers are up at the same time
        said = built.communicate(timeout=300)
        assert built.returncode == 0, said
    owners = list(users.items()) * RUNS
    runs = [start(folder, f"out{number}", *owners[number]) for number in range(RUNS)]
    ended = [(run.communicate(timeout=300), run.returncode) for run in runs]
    assert [code for _, code in ended] == [0] * RUNS, "\n".join(error for (_, error), code in ended if code)
    assert all('"lost_workers": 0' in out for (out, _), _ in ended)
