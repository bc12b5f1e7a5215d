"""What a warm worker may leave in its folder of the spool, and that the host believes and follows none of it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RuntimeUnsuitable
from orchestrator.inputs.collect import InputImage
from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import Exit
from orchestrator.runtimes.guest_contract import JobQueue, ShardOrder
from orchestrator.runtimes.warm import worker as warm_worker
from orchestrator.runtimes.warm.discover import Needs, discover_workers
from orchestrator.runtimes.warm.heartbeat import find_alive, list_worker_ids, parse_heartbeat, read_heartbeat
from orchestrator.runtimes.warm.runtime import WarmRuntime
from orchestrator.runtimes.warm.spool import VariantSpool
from orchestrator.runtimes.warm.worker import JobSpec, WarmWorker
from tests.unit.runtimes.warm.warm_samples import FakeWorker, heartbeat

SECRET = b"of the host alone\n"
NEEDS = Needs("faulty", "cpu", "cpu", "abc", {}, {})


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host; it must be as it was in the end."""
    folder = tmp_path / "outside"
    (folder / "out").mkdir(parents=True)
    (folder / "queue").mkdir()
    (folder / "out" / "00001.npz").write_bytes(SECRET)
    (folder / "secret").write_bytes(SECRET)
    (folder / "secret").chmod(0o600)
    before = _state(folder)
    yield folder
    assert _state(folder) == before


def _state(folder: Path) -> dict[str, tuple[int, ...]]:
    states = {str(path.relative_to(folder)): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {
        name: (one.st_ino, one.st_mode, one.st_uid, one.st_gid, one.st_size, one.st_mtime_ns)
        for name, one in states.items()
    }


class Run:
    """A run of the host's with one job in the worker's folder."""

    def __init__(self, worker: FakeWorker, root: Path) -> None:
        self.worker, self.root = worker, root
        (root / "shards").mkdir(parents=True)
        self.said: list[str] = []
        self.runtime = WarmRuntime.of_run(worker.spool, NEEDS, RunPaths(root), list, self.said.append)
        self.paths = self.runtime.paths
        self.folder = self.paths.job("w0")
        self.queue = JobQueue(self.paths.job_folder("w0"))
        self.queue.create()
        self.log = root / "w0.log"
        spec = JobSpec("w0", self.folder, "faulty-bright", [worker.id], self.log)
        self.warm = WarmWorker(worker.spool, spec)
        self.lines: list[bytes] = []
        self.thread = threading.Thread(target=lambda: self.lines.extend(self.warm.lines()), daemon=True)

    def start(self) -> None:
        """Follow the job, which the worker claims."""
        self.queue.put(ShardOrder(0, [InputImage(0, "a.png", "0/a.png", 1, 1, 1)]))
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.worker.claim(self.folder.name):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def wait(self) -> Exit:
        """Return how it ended; it must end soon."""
        self.thread.join(20)
        assert not self.thread.is_alive(), "the host hangs"
        ended = self.warm.wait()
        self.warm.close()
        return ended


@pytest.fixture
def run(worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(warm_worker, "HEARTBEAT_CHECK_SECONDS", 0.02)
    monkeypatch.setattr(warm_worker, "KILL_SECONDS", 0.1)
    return Run(worker, tmp_path / "run")


def swap(path: Path, target: Path) -> None:
    """Put a link where something is."""
    if os.path.lexists(path):
        path.rename(path.with_name(f"away-{path.name}"))
    path.symlink_to(target)


def test_a_job_folder_that_became_a_link_gets_nothing(run: Run, outside: Path) -> None:
    run.start()
    swap(run.folder, outside)
    run.queue.put(ShardOrder(1, []))
    run.queue.keep_alive()
    run.queue.end()
    assert run.wait() == Exit(137, detail="the warm worker replaced the folder of its job")
    assert not os.path.lexists(run.folder)


@pytest.mark.parametrize("name", ["jobs", "tickets", "claimed", "workers"])
def test_a_folder_of_the_spool_that_became_a_link_leads_nowhere(
    run: Run, outside: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.runtimes.warm.heartbeat.GONE_SECONDS", 0.3)
    run.start()
    swap(run.worker.spool.root / name, outside)
    run.queue.put(ShardOrder(1, []))
    time.sleep(0.5)
    run.warm.kill()
    assert run.wait().code == 137


@pytest.mark.parametrize("name", ["kill", "stop", "exit.json", "events.jsonl", "worker.log", "waiting"])
@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "sparse"])
def test_an_odd_file_of_a_job_is_neither_followed_nor_waited_for(run: Run, outside: Path, name: str, kind: str) -> None:
    path = run.folder / name
    if kind == "link":
        path.symlink_to(outside / "secret")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif name not in ("events.jsonl", "worker.log"):
        with path.open("wb") as stream:
            os.truncate(stream.fileno(), 1 << 42)
    run.start()
    run.warm.terminate()
    time.sleep(0.1)
    run.warm.kill()
    assert run.wait().code == 137
    assert not run.log.exists() or SECRET not in run.log.read_bytes()
    assert not os.path.lexists(run.folder)


def test_a_log_and_events_without_end_are_cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_worker, "EVENTS_LIMIT", 5 << 20)
    monkeypatch.setattr(warm_worker, "LOG_LIMIT", 1000)
    for name in ("worker.log", "events.jsonl"):
        with (run.folder / name).open("wb") as stream:
            os.truncate(stream.fileno(), 1 << 42)
    run.start()
    assert run.wait() == Exit(137, detail="it wrote more than 5 MB of events")
    assert run.log.stat().st_size == 1000


@pytest.mark.parametrize(
    "end",
    [b"", b"{", b"[]", b"7", b"null", b"\xff", b"[" * 100_000]
    + [json.dumps(one).encode() for one in ({}, {"code": "x"}, {"code": None}, {"code": True}, {"code": 10**100})],
)
def test_what_is_no_end_does_not_end_a_job(run: Run, end: bytes) -> None:
    run.start()
    (run.folder / "exit.json").write_bytes(end)
    time.sleep(0.1)
    assert run.thread.is_alive()
    (run.folder / "exit.json").write_text(json.dumps({"code": 3, "detail": "red\x1b[31m\r\n::error x"}))
    assert run.wait() == Exit(3, detail="red?[31m??::error x")


def test_the_reaper_takes_the_link_and_leaves_what_it_leads_to(run: Run, outside: Path) -> None:
    key = RunPaths(run.root).key
    (run.worker.jobs / f"{key}-x").symlink_to(outside)
    (run.worker.jobs / "others-y").symlink_to(outside)
    other = run.worker.jobs / "another-run"
    other.mkdir()
    run.warm.kill()
    assert run.runtime.reap("", run.paths.jobs) == 2
    assert sorted(path.name for path in run.worker.jobs.iterdir()) == ["another-run", "others-y"]


def test_staging_after_a_resume_leaves_originals_alone(run: Run, outside: Path) -> None:
    (run.worker.spool.root / run.runtime._staged).mkdir()
    (run.worker.spool.root / run.runtime._staged / "0").symlink_to(outside)
    run.runtime.close()
    assert not os.path.lexists(run.worker.spool.root / run.runtime._staged)


ODD: list[Callable[[dict[str, Any]], object]] = [
    lambda beat: beat.update(format="orch-worker/3"),
    lambda beat: beat.update(id="box-2"),
    lambda beat: beat.update(id=["box-1"]),
    lambda beat: beat.update(stack=None),
    lambda beat: beat.update(host="a\x1b[2Jb"),
    lambda beat: beat.update(uid="0"),
    lambda beat: beat.update(gid=-1),
    lambda beat: beat.update(beat=True),
    lambda beat: beat.update(beat=1 << 70),
    lambda beat: beat.update(rss_mb=float("nan")),
    lambda beat: beat.update(weights=[1]),
    lambda beat: beat.update(weights={"a": [1]}),
    lambda beat: beat.update(weights={str(number): [1, 2] for number in range(10_000)}),
    lambda beat: beat.update(paths=7),
    lambda beat: beat.update(paths={"spool": "/spool"}),
    lambda beat: beat.update(models={"name": "x"}),
    lambda beat: beat.update(models=[7]),
    lambda beat: beat.update(models=[{"nome": "x"}]),
    lambda beat: beat.update(digests={"a": 1}),
    lambda beat: beat.update(data_host="x" * 3000),
    lambda beat: beat.pop("threads"),
    lambda beat: beat.update(problem="x" * (2 << 20)),
]


@pytest.mark.parametrize("spoil", ODD)
def test_an_odd_heartbeat_is_no_heartbeat(worker: FakeWorker, spoil: Callable[[dict[str, Any]], object]) -> None:
    spoil(worker.document)
    (worker.workers / f"{worker.id}.json").write_text(json.dumps(worker.document))
    (worker.workers / "box-1.json").write_text(json.dumps(worker.document))
    with worker.spool.open() as tree:
        assert read_heartbeat(tree, "box-1") is None
    workers, _ = discover_workers(worker.spool, NEEDS, list, patience=0.1)
    assert workers == []


def test_a_problem_is_shown_without_what_a_terminal_would_obey() -> None:
    assert parse_heartbeat(heartbeat(problem="a\x1b]0;x\x07\r\nb")).problem == "a?]0;x???b"


@pytest.mark.parametrize("kind", ["link", "fifo", "hard link", "folder"])
def test_a_heartbeat_a_list_of_files_or_a_lock_of_another_kind_is_none(
    worker: FakeWorker, outside: Path, kind: str, tmp_path: Path
) -> None:
    beat = tmp_path / "beat.json"
    beat.write_text(json.dumps(worker.document))
    for suffix in ("json", "files.json", "lock"):
        path = worker.workers / f"{worker.id}.{suffix}"
        path.unlink()
        if kind == "link":
            path.symlink_to(beat)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.hardlink_to(beat)
    with worker.spool.open() as tree:
        assert find_alive(tree, ["box-1"], 0.1) == set()
    assert discover_workers(worker.spool, NEEDS, list, patience=0.1)[0] == []


def test_thousands_of_heartbeats_and_odd_names_are_bounded(worker: FakeWorker) -> None:
    for number in range(2000):
        (worker.workers / f"x{number}.json").touch()
    (worker.workers / "a\nb.json").touch()
    (worker.workers / ("y" * 240 + ".json")).touch()
    with worker.spool.open() as tree:
        ids = list_worker_ids(tree)
    assert len(ids) == 256
    assert not {"a\nb", "y" * 240} & set(ids)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "orch-worker/1"}, "box-1: it is of another orch (orch-worker/1, not orch-worker/2): "),
        ({"contract": "orch-job/0"}, "box-1: it reads jobs of version orch-job/0, not "),
    ],
)
def test_a_worker_of_another_version_is_refused_with_the_next_step(
    worker: FakeWorker, changes: dict[str, Any], reason: str
) -> None:
    worker.document.update(changes)
    worker.beat()
    workers, (why,) = discover_workers(worker.spool, NEEDS, list)
    assert workers == []
    assert why.startswith(reason)
    assert why.endswith("build and start it again")


def test_workers_of_the_layout_without_folders_of_variants_are_named(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    tmp_path.chmod(0o700)
    workers, (why,) = discover_workers(VariantSpool(tmp_path, "faulty", "cpu"), NEEDS, list)
    assert workers == []
    assert "of an earlier orch" in why
    assert "orch down --all" in why


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands folders over")
def test_a_folder_that_is_handed_over_is_never_the_hosts(run: Run, outside: Path) -> None:
    """The worker swaps new job folders for links to a folder of the host, as fast as it can."""
    os.chown(run.worker.spool.root, 65534, 65534)
    over = threading.Event()

    def race() -> None:
        while not over.is_set():
            for path in run.worker.jobs.glob(f"{RunPaths(run.root).key}-r*"):
                try:
                    if not path.is_symlink():
                        os.rename(path, run.worker.jobs / f".away-{path.name}")
                        path.symlink_to(outside)
                except OSError:
                    continue

    racer = threading.Thread(target=race)
    racer.start()
    try:
        for number in range(200):
            with suppress(RuntimeUnsuitable):
                JobQueue(run.paths.job_folder(f"r{number}")).create()
    finally:
        over.set()
        racer.join()
    run.warm.close()
