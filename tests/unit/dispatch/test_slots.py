"""Slots and leases: no two runs on one GPU, and none held by a run that died."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.dispatch import gpu_leases as leases
from orchestrator.dispatch.gpu_leases import Lease, LeaseHolder, lease_file
from orchestrator.dispatch.slots import (
    LeasedSlots,
    OwnedSlots,
    assign_devices,
    count_fitting_workers,
    describe_busy_gpus,
)
from orchestrator.errors import MachineError
from orchestrator.hardware import Gpu
from orchestrator.hardware.machine import GpuProcess
from orchestrator.system.display import SilentDisplay

GPUS = ("cuda:GPU-a", "cuda:GPU-b")
pytestmark = pytest.mark.usefixtures("orch_home")


OPEN: list[Lease | LeasedSlots] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    for one in OPEN:
        one.release() if isinstance(one, Lease) else one.close()
    OPEN.clear()


def lease(gpu: str, what: str) -> Lease | LeaseHolder:
    found = leases.lease_gpu(gpu, what)
    if isinstance(found, Lease):
        OPEN.append(found)
    return found


class Said(SilentDisplay):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def slots(workers: int = 2, display: Said | None = None, **options: object) -> LeasedSlots:
    made = LeasedSlots(workers, GPUS, "tiny into /out", display or Said(), **options)  # type: ignore[arg-type]
    OPEN.append(made)
    return made


def test_a_lease_keeps_others_out_until_it_is_released_and_says_whose_it_is() -> None:
    mine = lease("GPU-a", "tiny into /out")
    assert isinstance(mine, Lease)
    held = lease("GPU-a", "other")
    assert isinstance(held, LeaseHolder)
    assert (held.pid, held.what) == (os.getpid(), "tiny into /out")
    assert f"tiny into /out, process {os.getpid()}, since 20" in held.describe()
    mine.release()
    mine.release()
    assert isinstance(lease("GPU-a", "other"), Lease)


def test_a_killed_process_leaves_no_lease() -> None:
    code = "from orchestrator.dispatch.gpu_leases import lease_gpu\n"
    code += "held = lease_gpu('GPU-a', 'x'); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = lease("GPU-a", "y")
        process.kill()
    assert isinstance(found, LeaseHolder)
    assert found.pid == process.pid
    assert isinstance(lease("GPU-a", "y"), Lease)


def test_a_lock_file_that_is_deleted_or_says_nothing_does_no_harm() -> None:
    first = lease("MIG-GPU-1/7/0", "x")
    assert isinstance(first, Lease)
    path = lease_file("MIG-GPU-1/7/0")
    path.write_text("{")
    assert lease("MIG-GPU-1/7/0", "y") == LeaseHolder()
    assert LeaseHolder().describe() == "another orch"
    path.unlink()
    assert isinstance(lease("MIG-GPU-1/7/0", "y"), Lease)


def test_gpus_are_taken_one_after_another_and_given_back_with_their_last_worker() -> None:
    mine, others = slots(4), slots(4)
    assert mine.reserve(1) == [0]
    assert others.reserve(4) == [1, 3], "both slots of the other GPU"
    assert [mine.device_of(slot) for slot in range(4)] == [*GPUS, *GPUS]
    others.release(1)
    assert mine.reserve(4) == [2]
    others.release(3)
    assert mine.reserve(4) == [1, 3], "a GPU that gets free is taken as well"
    mine.close()
    assert others.reserve(9) == [0, 1, 2, 3]


def test_a_retired_place_is_never_taken_again_and_its_gpu_is_free_for_others() -> None:
    mine = slots(2)
    assert mine.reserve(2) == [0, 1]
    mine.retire(0)
    assert (mine.reserve(2), mine.has_usable()) == ([], True)
    assert isinstance(lease("GPU-a", "other"), Lease)
    mine.retire(1)
    assert not mine.has_usable()


def test_where_all_are_taken_a_run_waits_and_says_once_who_has_them() -> None:
    others, said = slots(2), Said()
    others.reserve(2)
    mine = slots(2, said)
    assert (mine.reserve(2), mine.reserve(2)) == ([], [])
    (line,) = said.lines
    assert line.startswith("waiting for a GPU: cuda:GPU-a is used by tiny into /out, process ")
    assert "; cuda:GPU-b is used by" in line
    others.close()
    assert mine.reserve(2) == [0, 1]
    assert said.lines[1].startswith("got a GPU after")


def held_by_another_process(monkeypatch: pytest.MonkeyPatch, *gpus: str) -> None:
    for gpu in gpus:
        held = lease(gpu, "tiny into /other")
        assert isinstance(held, Lease)
    now = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: now + 1)


def test_without_waiting_it_fails_and_only_when_it_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    held_by_another_process(monkeypatch, "GPU-a")
    mine = slots(2, wait=False)
    assert mine.reserve(2) == [1]
    assert mine.reserve(2) == []
    with pytest.raises(MachineError, match="all GPUs are in use") as caught:
        slots(1, wait=False).reserve(1)
    assert "cuda:GPU-a is used by tiny into /other" in str(caught.value.why)


def test_models_of_one_command_wait_for_each_other_even_without_waiting_for_others() -> None:
    slots(2).reserve(2)
    assert slots(2, wait=False).reserve(2) == []


def test_a_run_keeps_to_its_share_of_the_gpus() -> None:
    share = 1
    mine = slots(2, most_gpus=lambda gpus: share)
    assert mine.reserve(2) == [0]
    share = 2
    assert mine.reserve(2) == [1]


def test_own_places_are_free_again_unless_they_are_retired() -> None:
    mine = OwnedSlots(3)
    assert (mine.reserve(2), mine.reserve(2), mine.reserve(2)) == ([0, 1], [2], [])
    mine.release(1)
    mine.retire(2)
    mine.release(2)
    assert (mine.reserve(5), mine.has_usable(), mine.device_of(0)) == ([1], True, "cpu")


@pytest.mark.parametrize(
    ("workers", "per_gpu", "expected"),
    [
        (None, None, (GPUS, 2)),
        (1, None, (GPUS, 1)),
        (5, None, (GPUS, 5)),
        (None, 2, ((*GPUS, *GPUS), 4)),
        (None, "auto", (("cuda:GPU-a", "cuda:GPU-b", "cuda:GPU-a", "cuda:GPU-a"), 4)),
    ],
)
def test_workers_go_round_the_gpus(workers: int | None, per_gpu: object, expected: object) -> None:
    free = {"cuda:GPU-a": 7000, "cuda:GPU-b": 2100}
    assert assign_devices(GPUS, workers, per_gpu, free, 2000) == expected  # type: ignore[arg-type]


def test_gpus_that_other_programs_use_are_named() -> None:
    idle = Gpu(0, "GPU-a", "A100", 40960, "8.0", "550")
    busy = Gpu(1, "GPU-b", "A100", 40960, "8.0", "550", 9000, processes=tuple(GpuProcess(pid) for pid in (7, 8, 9, 10)))
    elsewhere = Gpu(2, "GPU-c", "A100", 40960, "8.0", "550", processes=(GpuProcess(11),))
    assert describe_busy_gpus(GPUS, [idle, busy, elsewhere]) == [
        "note: cuda:GPU-b is in use by process 7, process 8, process 9 and others; 9000 of 40960 MiB are free"
    ]


def test_the_cpu_has_one_worker_unless_told() -> None:
    assert assign_devices(("cpu",), None, "auto", {}, None) == (("cpu",), 1)
    assert assign_devices(("cpu",), 3, None, {}, None) == (("cpu",), 3)


def test_as_many_workers_as_fit_but_one_at_least() -> None:
    assert [count_fitting_workers(*one) for one in ((9000, 4000), (100, 4000), (80000, 10), (9000, None))] == [
        2,
        1,
        8,
        1,
    ]


def test_leases_are_in_one_folder_for_all_users_and_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "mine"))
    monkeypatch.delenv("ORCH_LEASES")
    assert lease_file("MIG-a/1/0") == Path("/tmp/orch-gpu-leases/MIG-a_1_0.lock")


def test_a_folder_of_leases_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        monkeypatch.setenv("ORCH_LEASES", str(tmp_path / name))
        with pytest.raises(MachineError, match="cannot lease the GPU GPU-a") as caught:
            leases.lease_gpu("GPU-a", "a run")
        assert "ORCH_LEASES=FOLDER" in str(caught.value.hint)


LEASE_AS = """
import os, sys
from orchestrator.dispatch.gpu_leases import Lease, lease_gpu
uid, gpu = int(sys.argv[1]), sys.argv[2]
lease_gpu("GPU-warm-up", "imports")
os.setgroups([]); os.setgid(uid); os.setuid(uid)
result = lease_gpu(gpu, f"a run of {uid}")
print("leased" if isinstance(result, Lease) else result.describe(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="acting for other users takes root")
def test_two_users_never_lease_one_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("leases")
    for above in (folder, *folder.parents[:2]):
        above.chmod(above.stat().st_mode | 0o711)
    monkeypatch.setenv("ORCH_LEASES", str(folder / "shared"))

    def start(user: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LEASE_AS, str(user), "GPU-a"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    for first, second in ((4242, 4343), (4343, 4242), (0, 4242), (4343, 0)):
        one = start(first)
        assert one.stdout is not None
        assert one.stdout.readline() == "leased\n"
        other = start(second)
        assert other.stdout is not None
        assert other.stdout.readline().startswith(f"a run of {first}, process {one.pid}, since ")
        for process in (one, other):
            process.communicate()
