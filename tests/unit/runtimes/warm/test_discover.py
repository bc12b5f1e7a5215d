"""Which warm workers are found, and which fit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.warm import discover as find
from orchestrator.runtimes.warm.discover import (
    Needs,
    WarmContainer,
    discover_spools,
    discover_workers,
    locate_data_folder,
    needs_of,
    unfit_reason,
)
from orchestrator.runtimes.warm.heartbeat import find_alive, list_worker_ids, parse_heartbeat
from tests.unit.runtimes.warm.warm_samples import FakeWorker, heartbeat

NEEDS = Needs(
    "faulty", "cpu", "cpu", "abc", {"stack/predictor.py": "1", "requirements.lock": "2"}, {"upstream": "c0ffee"}
)
SAME = {"files": {"stack/predictor.py": "1", "requirements.lock": "2", "stack/more.txt": "3"}, "sources": {}}


def no_containers() -> list[WarmContainer]:
    return []


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[FakeWorker]:
    made = FakeWorker(tmp_path / "spool", NEEDS.files)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("changes", "made_of", "reason"),
    [
        ({}, SAME, None),
        ({}, {**SAME, "sources": {"upstream": "c0ffee"}}, None),
        ({"variant": "cu121"}, SAME, "it is for faulty, cu121"),
        ({"device": "cuda"}, SAME, "its device is cuda, not cpu"),
        ({"problem": "no GPU"}, SAME, "no GPU"),
        ({"uid": 4321}, SAME, "it runs as uid 4321, you are uid 1000: neither can write the other's files"),
        ({}, {}, "it was built from another requirements.lock and 1 more files: build and start it again"),
        ({}, {**SAME, "sources": {"upstream": "dead"}}, "it has another commit of upstream: build and start it again"),
    ],
)
def test_a_worker_fits_or_there_is_a_reason(
    changes: dict[str, Any], made_of: dict[str, Any], reason: str | None
) -> None:
    beat = parse_heartbeat(heartbeat(**{"uid": 1000, **changes}))
    assert unfit_reason(beat, made_of, NEEDS, caller=1000) == reason


def test_root_may_use_anybodys_worker_and_an_image_of_other_arguments_does_not_fit() -> None:
    beat = parse_heartbeat(heartbeat(uid=1000))
    assert unfit_reason(beat, SAME, NEEDS, identity="abc", caller=0) is None
    reason = unfit_reason(beat, SAME, NEEDS, identity="def", caller=0)
    assert reason is not None
    assert "other arguments" in reason


def test_needs_are_the_digests_of_what_an_image_is_built_from() -> None:
    stack = load_catalog().model("garments-tiny").stack
    needs = needs_of(build_inputs(stack, "cpu", BuildOptions()), "cpu")
    assert {"requirements.lock", "stack/predictor.py", "runner/orch_runner/serve.py"} <= set(needs.files)
    assert all(len(digest) == 64 for digest in needs.files.values())


def test_a_live_worker_is_taken_at_once_and_a_dead_one_is_not(worker: FakeWorker) -> None:
    worker.lock()
    found, reasons = discover_workers(worker.spool, NEEDS, no_containers, patience=60)
    assert ([one.heartbeat.id for one in found], reasons) == (["box-1"], [])
    worker.close()
    found, reasons = discover_workers(worker.spool, NEEDS, no_containers, patience=0.1)
    assert (found, reasons) == ([], ["box-1: it is no longer up"])


def test_a_worker_whose_lock_cannot_be_seen_is_watched(worker: FakeWorker) -> None:
    beating = threading.Event()

    def beat() -> None:
        while not beating.wait(0.05):
            worker.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with worker.spool.open() as tree:
            assert find_alive(tree, ["box-1"], patience=60) == {"box-1"}
    finally:
        beating.set()
        thread.join()


def test_an_old_heartbeat_is_not_even_watched(worker: FakeWorker) -> None:
    file = worker.workers / "box-1.json"
    os.utime(file, (time.time() - 3600,) * 2)
    with worker.spool.open() as tree:
        assert find_alive(tree, ["box-1"], patience=3600) == set()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dead_workers_are_reasons_for_a_while_and_then_forgotten(worker: FakeWorker, device: str) -> None:
    """A worker of another device would be one more reason, whether it is up or not."""
    needs = Needs("faulty", "cpu", device, "", {}, {})
    worker.close()
    for age, is_reason, is_kept in ((0, True, True), (600, False, True), (2 * 3600, False, False)):
        os.utime(worker.workers / "box-1.json", (time.time() - age,) * 2)
        found, reasons = discover_workers(worker.spool, needs, list, patience=0)
        assert found == []
        assert bool(reasons) == is_reason
        assert (worker.workers / "box-1.json").exists() == is_kept
    assert not list(worker.workers.iterdir())
    assert not worker.claimed.exists()


def test_a_worker_that_stands_still_is_not_forgotten_while_it_holds_its_lock(worker: FakeWorker) -> None:
    worker.lock()
    os.utime(worker.workers / "box-1.json", (time.time() - 2 * 3600,) * 2)
    needs = Needs("faulty", "cpu", "cpu", "", {}, {})
    assert discover_workers(worker.spool, needs, list, patience=0) == ([], ["box-1: it is no longer up"])
    assert (worker.workers / "box-1.json").exists()


@pytest.mark.parametrize("offset", [-300.0, 300.0, 3600.0])
def test_a_clock_that_is_off_hides_no_worker(
    worker: FakeWorker, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool may be on a file server, or its worker on another machine."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    worker.lock()
    with worker.spool.open() as tree:
        assert find_alive(tree, ["box-1"], patience=0) == {"box-1"}
        assert not [name for name in tree.names() if name.startswith(".")], "what the time was read from is removed"


def test_what_is_no_heartbeat_is_passed_over(worker: FakeWorker) -> None:
    (worker.workers / "odd.json").write_text("[1")
    (worker.workers / "old.json").write_text('{"format": "orch-worker/0"}')
    with worker.spool.open() as tree:
        assert list_worker_ids(tree) == ["box-1", "odd", "old"]
    worker.lock()
    assert len(discover_workers(worker.spool, NEEDS, no_containers)[0]) == 1


def test_the_folder_of_images_is_believed_where_it_is_the_same_folder(tmp_path: Path) -> None:
    inode = tmp_path.stat().st_ino
    for host, number, expected in (
        (str(tmp_path), inode, tmp_path),
        (str(tmp_path), inode + 1, None),
        (str(tmp_path / "missing"), inode, None),
        ("photos", inode, None),
        (None, inode, None),
    ):
        assert locate_data_folder(parse_heartbeat(heartbeat(data_host=host, data_inode=number))) == expected


def test_the_engine_is_asked_where_the_worker_does_not_know(worker: FakeWorker) -> None:
    worker.lock()
    container = WarmContainer("box", None, worker.spool.spool, Path("/photos"))
    found, _ = discover_workers(worker.spool, NEEDS, lambda: [container])
    assert [one.data for one in found] == [Path("/photos")]
    found, reasons = discover_workers(worker.spool, NEEDS, lambda: [replace(container, identity="other")])
    assert found == []
    assert "other arguments" in reasons[0]


def test_a_container_is_read_from_what_the_engine_says() -> None:
    attrs = {
        "Config": {"Hostname": "box", "Labels": {"org.orch.stack": "tiny", "org.orch.variant": "cpu"}},
        "Mounts": [
            {"Destination": "/spool", "Source": "/host_mnt/home/me/spool/tiny-cpu"},
            {"Destination": "/data", "Source": "/photos"},
            {"Destination": "/cache", "Source": "/var/lib/docker/volumes/cache/_data"},
        ],
    }
    made = find._describe(attrs, {"org.orch.identity": "abc"})
    assert made == WarmContainer("box", "abc", Path("/home/me/spool"), Path("/photos"))


def test_spools_are_looked_for_near_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orch_home: Path) -> None:
    monkeypatch.delenv("ORCH_SPOOL", raising=False)
    monkeypatch.chdir(tmp_path)
    mounted, beside, own = tmp_path / "mounted", tmp_path / "spool", orch_home / "spool"
    for folder in (mounted, beside, own):
        folder.mkdir()
    containers = [WarmContainer("box", None, mounted, None), WarmContainer("other", None, beside, None)]
    assert list(discover_spools(None, lambda: containers)) == [own, mounted, beside]
    (tmp_path / "compose.yaml").touch()
    assert list(discover_spools(None, lambda: containers)) == [beside, own, mounted]
    monkeypatch.setenv("ORCH_SPOOL", str(tmp_path / "chosen"))
    assert list(discover_spools(None, no_containers)) == [tmp_path / "chosen"]
    assert list(discover_spools(Path("asked"), no_containers)) == [tmp_path / "asked"]
