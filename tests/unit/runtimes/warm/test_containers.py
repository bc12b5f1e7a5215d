"""Warm workers without Compose: what the engine is asked for, which containers are whose, what is listed."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from orchestrator.catalog.loader import ModelEntry, load_catalog
from orchestrator.cli import main
from orchestrator.errors import MachineError
from orchestrator.runtimes.base import Prepared, WorkerSpec
from orchestrator.runtimes.docker.gpu_access import GpuSettings
from orchestrator.runtimes.docker.runtime import container_settings
from orchestrator.runtimes.guest_contract import CONTRACT
from orchestrator.runtimes.warm import containers, listing
from orchestrator.runtimes.warm.containers import WarmSpec, fetch_weights, stop_workers, warm_settings
from orchestrator.runtimes.warm.heartbeat import parse_heartbeat
from orchestrator.runtimes.warm.listing import WarmWorkerStatus, describe_worker, list_workers, read_heartbeats
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder
from orchestrator.system.display import SilentDisplay
from tests.unit.stack_samples import MINIMAL, stack_entry

SPOOL = VariantSpool(Path("/s"), "tiny", "cpu")
SPEC = WarmSpec(number=2, spool=SPOOL, weights=Path("/h/weights/tiny"), cache=Path("/c"))
Beat = Callable[..., dict[str, Any]]
SPOOL_DIGEST = "8e295f"
ONE_SHOT = WorkerSpec(
    run="run1", name="w0", job=Path("/j"), data=Path("/d"), roots=[], weights=Path("/w"), out=Path("/o"),
    cache=Path("/c"), log=Path("/l"), threads=1,
)  # fmt: skip


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(stack_entry(tmp_path / "stack"), "cpu", "docker", "0123456789ab", "orch/tiny:cpu-0", "sha256:77")


def test_a_warm_worker_is_as_isolated_as_a_one_shot_worker(prepared: Prepared) -> None:
    one_shot = container_settings(prepared, ONE_SHOT, (), (1000, 1001), GpuSettings())
    warm = warm_settings(prepared, SPEC, (), (1000, 1001), GpuSettings())
    own = {"command", "name", "labels", "environment", "mounts", "log_config"}
    assert {name: warm[name] for name in one_shot.keys() - own} == {
        name: one_shot[name] for name in one_shot.keys() - own
    }
    assert warm.keys() - one_shot.keys() == {"restart_policy", "healthcheck"}
    assert warm["mounts"] == [
        {"Type": "bind", "Source": "/s/tiny-cpu", "Target": "/spool", "ReadOnly": False},
        {"Type": "bind", "Source": "/h/weights/tiny", "Target": "/weights", "ReadOnly": True},
        {"Type": "bind", "Source": "/c", "Target": "/cache", "ReadOnly": False},
    ]


def test_a_warm_worker_is_told_the_same_as_by_compose() -> None:
    stack = load_catalog().stacks["amrcnn"]
    prepared = Prepared(stack, "cpu", "docker", "0", "orch/amrcnn:cpu-0")
    spec = WarmSpec(
        1, VariantSpool(Path("/s"), "amrcnn", "cpu"), Path("/w"), Path("/c"), Path("/my data"), "cpu", 60, 4000, 2
    )
    settings = warm_settings(prepared, spec, (), (1000, 1000), GpuSettings())
    service = yaml.safe_load((Path(__file__).parents[4] / "compose.yaml").read_text())["services"]["amrcnn"]
    chosen = {
        "ORCH_DATA_HOST": "/my data",
        "ORCH_IDLE_SECONDS": "60",
        "ORCH_MEMORY_MB": "4000",
        "ORCH_THREADS": "2",
    }
    assert settings["environment"] == {**service["environment"], **chosen}
    assert settings["command"] == service["command"]
    assert settings["healthcheck"]["test"] == service["healthcheck"]["test"]
    assert settings["restart_policy"] == {"Name": service["restart"]}
    labels = {**service["labels"], "org.orch.user": "1000"}
    assert labels.items() <= settings["labels"].items()
    assert {"Type": "bind", "Source": "/my data", "Target": "/data", "ReadOnly": True} in settings["mounts"]


def test_another_setting_is_another_worker_to_start(prepared: Prepared) -> None:
    plain = warm_settings(prepared, SPEC, (), (1000, 1000), GpuSettings())
    assert warm_settings(prepared, SPEC, (), (1000, 1000), GpuSettings()) == plain
    changed = [
        warm_settings(prepared, WarmSpec(**{**vars(SPEC), "idle_seconds": 5}), (), (1000, 1000), GpuSettings()),
        warm_settings(Prepared(**{**vars(prepared), "digest": "sha256:78"}), SPEC, (), (1000, 1000), GpuSettings()),
    ]
    assert all(one["labels"]["org.orch.up"] != plain["labels"]["org.orch.up"] for one in changed)
    assert {one["name"] for one in [*changed, plain]} == {f"orch-tiny-cpu-{SPOOL_DIGEST}-2"}


def test_another_spool_is_another_worker(prepared: Prepared) -> None:
    other = warm_settings(
        prepared,
        WarmSpec(**{**vars(SPEC), "spool": VariantSpool(Path("/t"), "tiny", "cpu")}),
        (),
        (1000, 1000),
        GpuSettings(),
    )
    assert other["name"] != warm_settings(prepared, SPEC, (), (1000, 1000), GpuSettings())["name"]


def test_weights_that_are_had_by_hand_are_said_for_a_stack_and_an_error_for_a_model(
    tmp_path: Path, orch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {**MINIMAL["models"]["tiny-model"], "weights": {"w": {"file": "f", "manual": "ask", "licence": "MIT"}}}
    stack = stack_entry(tmp_path / "stack", models={"tiny-model": model})
    said: list[str] = []
    display = SilentDisplay()
    monkeypatch.setattr(display, "say", said.append)
    fetch_weights(stack, [], display, offline=False)
    assert said == ["tiny-model: the weights of tiny-model are missing; orch weights add tiny-model PATH"]
    with pytest.raises(MachineError):
        fetch_weights(stack, [ModelEntry("tiny-model", stack.spec.models["tiny-model"], stack)], display, offline=False)


class Container:
    """A container as the engine's client shows it."""

    def __init__(self, name: str, spool: Path, status: str = "running", **labels: str) -> None:
        self.id = self.name = name
        self.status = status
        named = {key.replace("_", "."): value for key, value in labels.items()}
        self.labels = {"org.orch.stack": "tiny", "org.orch.variant": "cpu", **named}
        mount = {"Type": "bind", "Destination": "/spool", "Source": str(spool / f"{self.labels['org.orch.stack']}-cpu")}
        self.attrs = {"Config": {"Hostname": f"host-of-{name}"}, "Mounts": [mount], "State": {"ExitCode": 5}}
        self.calls: list[str] = []

    def stop(self, timeout: int) -> None:
        self.calls.append(f"stop {timeout}")

    def remove(self, force: bool) -> None:
        self.calls.append("remove")


def engine_with(monkeypatch: pytest.MonkeyPatch, *there: Container) -> None:
    def listed(stacks: Any = ()) -> list[Container]:
        return [one for one in there if not stacks or one.labels["org.orch.stack"] in stacks]

    monkeypatch.setattr(containers, "list_containers", listed)
    monkeypatch.setattr(listing, "list_containers", listed)


def test_down_ends_what_up_started_on_this_spool_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = Container("mine", tmp_path), Container("other", tmp_path, org_orch_stack="other")
    elsewhere = Container("elsewhere", tmp_path / "another-spool")
    composed = Container("composed", tmp_path, com_docker_compose_project="p")
    engine_with(monkeypatch, mine, other, elsewhere, composed)
    said: list[str] = []
    assert stop_workers(["tiny"], tmp_path, said.append) == ["mine"]
    assert said == ["composed belongs to Compose; to stop it: docker compose -p p --profile all down"]
    assert mine.calls == ["stop 30", "remove"]
    assert (other.calls, elsewhere.calls, composed.calls) == ([], [], [])
    assert stop_workers([], tmp_path, said.append) == ["mine", "other"]


@pytest.mark.parametrize(
    ("stacks", "cleaned"), [([], {"tiny-cpu", "other-cpu"}), (["tiny"], {"tiny-cpu"}), (["third"], set())]
)
def test_down_cleans_up_after_workers_of_its_stacks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stacks: list[str], cleaned: set[str]
) -> None:
    found: set[str] = set()
    engine_with(monkeypatch)
    monkeypatch.setattr(containers, "remove_dead_workers", lambda tree: found.add(tree.root.name))
    for stack in ("tiny", "other"):
        make_variant_folder(VariantSpool(tmp_path, stack, "cpu"), (os.geteuid(), os.getegid()), is_default=False)
    assert stop_workers(stacks, tmp_path, print) == []
    assert found == cleaned


@pytest.fixture
def beat() -> Iterator[Beat]:
    """Writes heartbeats, and holds the locks of workers that are up."""
    locks: list[IO[str]] = []

    def write(spool: Path, worker: str, *, up: bool = True, **changes: Any) -> dict[str, Any]:
        document = {
            "format": "orch-worker/2", "contract": CONTRACT, "id": worker, "stack": "tiny", "variant": "cpu",
            "device": "cpu",
            "host": worker, "pid": 1, "uid": 1000, "gid": 1000, "threads": 2, "started": 0.0, "beat": 1,
            "time": time.time(), "state": "busy", "problem": None, "rss_mb": 310.5, "memory_limit_mb": 1000,
            "waiting": 2, "jobs": 1, "models": [{"name": "tiny-model", "gpu_mb": None}], "images": 40,
            "images_per_s": 2.5, "data_host": None, "data_inode": None, "weights": {}, "digests": {},
            "paths": dict.fromkeys(("spool", "data", "weights", "cache", "opt"), "/x"), "runner": "1",
            **changes,
        }  # fmt: skip
        spool.mkdir(mode=0o700, exist_ok=True)
        workers = spool / "tiny-cpu" / "workers"
        workers.mkdir(parents=True, exist_ok=True)
        (workers / f"{worker}.json").write_text(json.dumps(document))
        if up:
            locks.append((workers / f"{worker}.lock").open("w"))
            fcntl.flock(locks[-1], fcntl.LOCK_EX)
        return document

    yield write
    for lock in locks:
        lock.close()


def test_containers_are_shown_with_their_heartbeats_and_workers_without_container_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beat: Beat
) -> None:
    spool = tmp_path / "spool"
    beat(spool, "host-of-busy")
    beat(spool, "venv-worker", state="idle", models=[])
    (spool / "tiny-cpu" / "workers" / "host-of-busy.files.json").write_text('{"files": {}, "sources": {}}')
    (spool / "tiny-cpu" / "workers" / "torn.json").write_text("{")
    engine_with(
        monkeypatch, Container("busy", spool), Container("new", spool), Container("broken", spool, "restarting")
    )
    shown = list_workers([spool])
    assert [(one.name, one.state, one.problem) for one in shown] == [
        ("broken", "restarting", "exit 5"),
        ("busy", "busy", None),
        ("new", "starting", None),
        ("venv-worker", "idle", None),
    ]
    assert shown[1] == WarmWorkerStatus(
        name="busy", stack="tiny", variant="cpu", state="busy", spool=str(spool), device="cpu", models=("tiny-model",),
        memory_mb=310.5, queue=2, jobs=1, images=40, images_per_s=2.5,
    )  # fmt: skip


def test_workers_are_listed_where_no_engine_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beat: Beat
) -> None:
    def nothing(stacks: Any = ()) -> list[Any]:
        raise MachineError("no container engine answers")

    monkeypatch.setattr(listing, "list_containers", nothing)
    beat(tmp_path, "far")
    assert [one.name for one in list_workers([tmp_path, tmp_path / "no-such-spool"])] == ["far"]


def test_a_heartbeat_that_does_not_go_on_is_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beat: Beat
) -> None:
    """Clocks may differ by years, and locks not be seen: what counts is that it changes."""
    beat(tmp_path, "dead", up=False)
    beat(tmp_path, "slow-clock", up=False, time=12.0)

    beats = count(2)

    def meanwhile(seconds: float) -> None:
        beat(tmp_path, "slow-clock", up=False, time=13.0, beat=next(beats))
        threading.Event().wait(0.01)

    monkeypatch.setattr("orchestrator.runtimes.warm.heartbeat.time.sleep", meanwhile)
    monkeypatch.setattr(listing, "WATCH_SECONDS", 1.0)
    assert [one.id for one in read_heartbeats(tmp_path)] == ["slow-clock"]


def test_gpu_memory_is_shown_where_it_is_known(tmp_path: Path, beat: Beat) -> None:
    models = [{"name": "a", "gpu_mb": 900}, {"name": "b", "gpu_mb": None}]
    shown = describe_worker(parse_heartbeat(beat(tmp_path, "w", models=models)), "w", tmp_path)
    assert (shown.models, shown.gpu_mb) == (("a", "b"), 900)


def test_the_commands_print_for_people_and_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], orch_home: Path, beat: Beat
) -> None:
    container = Container("one", tmp_path)
    engine_with(monkeypatch, container)
    beat(tmp_path, "host-of-one", problem="it is for a GPU, and there is none here", state="unfit")
    assert main(["ps", "--spool", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    header, row = printed.out.splitlines()
    shown = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert shown == {
        "stack": "tiny", "variant": "cpu", "state": "unfit", "models": "tiny-model", "device": "cpu",
        "memory": "310 MB", "queue": "2", "images": "40", "images/s": "2.5", "spool": str(tmp_path), "worker": "one",
    }  # fmt: skip
    assert printed.err == "one: it is for a GPU, and there is none here\n"
    assert main(["ps", "--spool", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"][0]["images_per_s"] == 2.5
    assert main(["down", "--all", "--spool", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ended": ["one"]}


def test_down_wants_to_know_what_to_end(orch_home: Path) -> None:
    assert main(["down"]) == 2


def test_up_wants_a_folder_that_is_there(orch_home: Path, tmp_path: Path) -> None:
    assert main(["up", "garments", "--data", str(tmp_path / "nothing")]) == 2
    assert main(["up", "no-such-stack"]) == 2
