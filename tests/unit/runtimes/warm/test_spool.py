"""Whose spool is used, by real users: the caller's own, a group's that it is in, and no other."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.catalog.bundled import RUNNER
from orchestrator.catalog.loader import load_catalog
from orchestrator.runtimes.warm.compose_env import environment, write_environment
from orchestrator.runtimes.warm.discover import WarmContainer, discover_spools
from orchestrator.runtimes.warm.heartbeat import list_worker_ids, remove_dead_workers
from orchestrator.runtimes.warm.runtime import ABANDONED_SECONDS, _is_abandoned
from orchestrator.runtimes.warm.spool import UnusableSpool, VariantSpool, close_to_others, make_variant_folder
from orchestrator.system.guest_tree import GuestTree
from tests.unit.runtimes.warm.warm_samples import FakeWorker

ALICE, BOB, LAB = 4242, 4343, 4444
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes users of this machine")
TRY = """
import os, sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from orch_runner.serving.spool import WorkerIdentity, WorkerSpool
from orchestrator.errors import RuntimeUnsuitable
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder
os.umask(0o022)
uid, gid, *groups = json.loads(sys.argv[1])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
spool = VariantSpool(Path(sys.argv[2]), "tiny", "cpu")
try:
{code}
except (RuntimeUnsuitable, OSError) as error:
    print(getattr(error, "why", None) or error)
else:
    print("done")
"""
OPEN = "spool.open().close()"
MAKE = "make_variant_folder(spool, (os.getuid(), os.getgid()), is_default=False)"


def try_as(user: Sequence[int], code: str, spool: Path) -> str:
    """Run code as a user with its groups; return what it printed."""
    lines = "\n".join(f"    {line}" for line in code.splitlines())
    command = [sys.executable, "-c", TRY.replace("{code}", lines), json.dumps(user), str(spool), str(RUNNER)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def open_tmp(tmp_path: Path) -> Path:
    """A folder in which every user may make folders."""
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    made = tmp_path / "open"
    made.mkdir()
    made.chmod(0o1777)
    return made


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_spool_is_made_for_its_user_alone(tmp_path: Path) -> None:
    spool = VariantSpool(tmp_path / "a" / "spool", "tiny", "cpu")
    make_variant_folder(spool, (os.geteuid(), os.getegid()), is_default=False)
    make_variant_folder(spool, (os.geteuid(), os.getegid()), is_default=False)
    assert mode_of(spool.spool) == mode_of(spool.root) == 0o700
    assert sorted(path.name for path in spool.root.iterdir()) == ["claimed", "data", "jobs", "tickets", "workers"]
    spool.open().close()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o711, 0o2777])
def test_a_spool_that_others_can_enter_is_refused_with_the_next_step(tmp_path: Path, mode: int) -> None:
    spool = VariantSpool(tmp_path / "spool", "tiny", "cpu")
    make_variant_folder(spool, (os.geteuid(), os.getegid()), is_default=False)
    spool.spool.chmod(mode)
    with pytest.raises(UnusableSpool) as caught:
        spool.open()
    assert caught.value.why == f"others can enter it: its mode is {mode:04o}"
    assert caught.value.hint == f"chmod 700 {spool.spool}"
    close_to_others(spool.spool)
    spool.open().close()


def test_a_link_is_no_spool_and_no_folder_of_a_variant(tmp_path: Path, orch_home: Path) -> None:
    spool = VariantSpool(orch_home / "spool", "tiny", "cpu")
    make_variant_folder(VariantSpool(tmp_path / "elsewhere", "tiny", "cpu"), (0, 0), is_default=False)
    spool.spool.symlink_to(tmp_path / "elsewhere")
    for use in (spool.open, lambda: make_variant_folder(spool, (0, 0), is_default=True)):
        with pytest.raises(UnusableSpool) as caught:
            use()
        assert caught.value.why == "it is a link or no folder"
    assert list(discover_spools(None, list)) == []
    spool.spool.unlink()
    spool.spool.mkdir(mode=0o700)
    spool.root.symlink_to(tmp_path / "elsewhere" / "tiny-cpu")
    with pytest.raises(UnusableSpool, match="tiny-cpu"):
        spool.open()


@as_root
def test_nobody_but_its_user_uses_a_spool_not_even_root(open_tmp: Path) -> None:
    spool = open_tmp / "spool"
    assert try_as([ALICE, ALICE], MAKE, spool) == "done"
    assert try_as([ALICE, ALICE], OPEN, spool) == "done"
    assert "Permission denied" in try_as([BOB, BOB], OPEN, spool)
    whose = f"it belongs to uid {ALICE}, you are uid 0"
    for use in (OPEN, MAKE):
        assert try_as([0, 0], use, spool) == whose
    spool.chmod(0o755)
    assert try_as([BOB, BOB], OPEN, spool) == f"it belongs to uid {ALICE}, you are uid {BOB}"


@as_root
def test_spools_of_other_users_are_never_discovered(
    tmp_path: Path, orch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORCH_SPOOL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compose.yaml").touch()
    theirs = [tmp_path / "spool", orch_home / "spool", tmp_path / "mounted"]
    for folder in theirs:
        folder.mkdir()
        folder.chmod(0o777)
        os.chown(folder, ALICE, ALICE)
    mounted = WarmContainer("box", None, theirs[2], None)
    assert list(discover_spools(None, lambda: [mounted])) == []
    os.chown(theirs[2], 0, 0)
    assert list(discover_spools(None, lambda: [mounted])) == [theirs[2]]


@as_root
def test_roots_workers_get_their_folder_and_no_right_to_the_spool(tmp_path: Path) -> None:
    spool = VariantSpool(tmp_path / "spool", "tiny", "cpu")
    for user in ((ALICE, ALICE), (NOBODY, NOBODY)):  # root runs its workers as another user now
        make_variant_folder(spool, user, is_default=False)
        assert (spool.spool.stat().st_uid, mode_of(spool.spool)) == (0, 0o700)
        owners = {path.stat().st_uid for path in (spool.root, *spool.root.iterdir())}
        assert (owners, mode_of(spool.root)) == ({user[0]}, 0o700)
    spool.open().close()


@as_root
def test_a_group_shares_a_spool_and_others_cannot(open_tmp: Path) -> None:
    """Alice's worker and Bob's host; each can change and remove what the other made."""
    spool = open_tmp / "lab"
    spool.mkdir()
    os.chown(spool, ALICE, LAB)
    spool.chmod(0o2770)
    alice, bob = [ALICE, ALICE, LAB], [BOB, BOB, LAB]
    assert try_as(alice, MAKE, spool) == "done"
    job = (
        "with spool.open() as tree:\n"
        "    tree.make_folder('jobs/j'); tree.make_folder('jobs/j/out'); tree.write('tickets/j.json', b'{}')"
    )
    assert try_as(bob, job, spool) == "done"
    serve = (
        "worker = WorkerSpool(WorkerIdentity('a-1', 'tiny', 'cpu', 'cpu', 'a', {'spool': str(spool.root)}))\n"
        "worker.open()\n"
        "assert worker.claim('j')\n"
        "(spool.root / 'jobs/j/out/masks').mkdir()\n"
        "(spool.root / 'jobs/j/out/masks/0.png').write_bytes(b'x')\n"
        "worker.finish_job('j', 0)"
    )
    assert try_as(alice, serve, spool) == "done"
    end = (
        "with spool.open() as tree:\n"
        "    assert tree.read('jobs/j/exit.json')\n"
        "    tree.remove_folder('jobs/j')\n"
        "    assert not tree.has('jobs/j')"
    )
    assert try_as(bob, end, spool) == "done"
    assert "Permission denied" in try_as([BOB, BOB], OPEN, spool)
    spool.chmod(0o2770)
    os.chown(spool, BOB, LAB)
    assert try_as([BOB, BOB], OPEN, spool) == f"it belongs to the group {LAB}, you are not in it"
    os.chown(spool / "tiny-cpu", ALICE, ALICE)
    (spool / "tiny-cpu").chmod(0o2770)
    assert try_as([0, 0], OPEN, spool) == "it is not shared with the group of the spool"


@as_root
def test_the_environment_of_compose_takes_the_group_of_a_shared_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    os.chown(tmp_path / "lab", ALICE, LAB)
    (tmp_path / "lab").chmod(0o2770)
    (tmp_path / ".env").write_text(f"ORCH_SPOOL={tmp_path / 'lab'}\n")
    values = environment((BOB, BOB), (), tmp_path / "home", None)
    write_environment(tmp_path / ".env", values, load_catalog())
    text = (tmp_path / ".env").read_text()
    assert f"ORCH_UID={BOB}\nORCH_GID={LAB}\n" in text
    state = (tmp_path / "lab" / "garments-cpu" / "jobs").stat()
    assert (state.st_gid, stat.S_IMODE(state.st_mode)) == (LAB, 0o2770)


def test_files_of_dead_workers_are_removed_and_of_live_ones_kept(tmp_path: Path) -> None:
    dead, live = FakeWorker(tmp_path / "spool"), FakeWorker(tmp_path / "spool", id="box-2")
    live.lock()
    (dead.claimed / "job.json").touch()
    with dead.spool.open() as tree:
        assert remove_dead_workers(tree, 0.3) == ["box-1"]
        assert list_worker_ids(tree) == ["box-2"]
    assert sorted(path.name for path in dead.workers.iterdir()) == ["box-2.files.json", "box-2.json", "box-2.lock"]
    assert (dead.claimed / "job.json").exists()  # the next worker ends that job
    live.close()


@pytest.mark.parametrize(("age", "is_abandoned"), [(0, False), (ABANDONED_SECONDS + 60, True)])
def test_a_job_is_abandoned_by_the_clock_of_its_file_system(
    tmp_path: Path, age: float, is_abandoned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = tmp_path / "jobs" / "one" / "queue" / "alive"
    alive.parent.mkdir(parents=True)
    alive.touch()
    os.utime(alive, (time.time() - age,) * 2)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 100_000)  # another host's job must outlive that
    with GuestTree(tmp_path) as tree:
        assert _is_abandoned(tree, "jobs/one") == is_abandoned
