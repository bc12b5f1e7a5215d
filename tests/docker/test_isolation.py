"""What a container may do, whose files it leaves, and what happens when it is taken away; on a real engine."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image

from orchestrator import Predictions
from orchestrator.catalog.loader import load_catalog
from orchestrator.errors import BuildError
from orchestrator.paths import RunPaths, worker_cache_folder
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes.base import BuildOptions, make_runtime
from orchestrator.runtimes.docker import runtime as docker_runtime
from orchestrator.runtimes.docker.build import LABEL
from orchestrator.runtimes.mounts import GUEST_SOURCES
from orchestrator.system.container_engine import connect
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.run import run_model
from tests.conformance.pictures import photograph
from tests.upstream import Upstream

pytestmark = pytest.mark.docker
STACKS = Path(__file__).parent.parent / "stacks"
STRANGER = 12345


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for this file."""
    return tmp_path_factory.mktemp("orch-home")


@pytest.fixture(autouse=True)
def _environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_HOME", str(home))
    base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE")
    if base:
        monkeypatch.setenv("ORCH_BASE_IMAGE", base)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of photographs that anybody may read."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(24):
        Image.fromarray(photograph(60 + number)).save(folder / f"{number:02}.png")
    return folder


def faulty(images: Path, out: Path, *settings: str, **options: Any) -> RunOptions:
    return RunOptions(images=[str(images)], out=out, runtime="docker", settings=settings, shard_size=4, **options)


def start(options: RunOptions) -> Any:
    return run_model(load_catalog([STACKS]).model("faulty"), options, SilentDisplay())


def containers() -> list[Any]:
    return list(connect().client.containers.list(all=True, filters={"label": f"{LABEL}.stack=faulty"}))


@pytest.fixture
def facts(home: Path, images: Path, tmp_path: Path) -> dict[str, Any]:
    """What a predictor in a container saw."""
    start(faulty(images, tmp_path / "out", "report=facts.json", threads=3))
    found: dict[str, Any] = json.loads((home / "worker-cache" / "faulty-cpu" / "facts.json").read_text())
    return found


def test_a_container_has_no_network_no_capabilities_and_writes_only_where_it_may(facts: dict[str, Any]) -> None:
    assert facts == {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "home": "/tmp/home",
        "capabilities": "0000000000000000",
        "no_new_privileges": "1",
        "interfaces": ["lo"],
        "root_writable": False,
        "data_writable": False,
        "job_writable": False,
        "tmp_writable": True,
        "omp_threads": "3",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="acting for another user takes root")
def test_files_belong_to_the_caller_whoever_that_is(
    images: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(docker_runtime, "calling_user", lambda: (STRANGER, STRANGER))
    # This process goes on as root, so the folders that the stranger would have made are handed over.
    monkeypatch.setattr(RunPaths, "shards", property(lambda paths: _owned(paths.root / "shards")))
    cache = worker_cache_folder("faulty", "cpu")
    cache.mkdir(parents=True)
    os.chown(cache, STRANGER, STRANGER)
    out = tmp_path / "out"
    start(faulty(images, out, "report=facts.json"))
    assert (cache / "facts.json").stat().st_uid == STRANGER
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (out / "shards").glob("*.npz")}
    assert owners == {(STRANGER, STRANGER)}


def _owned(folder: Path) -> Path:
    if folder.exists():
        os.chown(folder, STRANGER, STRANGER)
    return folder


def test_containers_are_removed_when_the_run_is_over(images: Path, tmp_path: Path) -> None:
    start(faulty(images, tmp_path / "out", workers=2))
    assert containers() == []


@pytest.fixture
def killer(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Takes the first container away once it works, in the way named, while the run goes on in this process."""
    done: list[str] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            running = [one for one in containers() if one.status == "running"]
            if running and b"shard_done" in running[0].logs(stdout=True, stderr=False):
                getattr(running[0], request.param[0])(**request.param[1])
                done.append(running[0].name)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield done
    thread.join()


@pytest.mark.parametrize("killer", [("kill", {}), ("remove", {"force": True}), ("stop", {"timeout": 5})], indirect=True)
def test_a_container_taken_away_is_replaced(killer: list[str], images: Path, tmp_path: Path) -> None:
    outcome = start(faulty(images, tmp_path / "out", "sleep=0.1", workers=2))
    assert killer, "nothing was taken away"
    assert outcome.summary["lost_workers"] == 1
    predictions = Predictions.load(outcome.paths.predictions)
    assert predictions.validate() == []
    assert (len(predictions), outcome.failed) == (24, 0)


def test_containers_an_orch_that_was_killed_left_behind_are_reaped(images: Path, tmp_path: Path) -> None:
    """Only this run's: its identity is in a label."""
    engine = connect()
    start(faulty(images, tmp_path / "first"))
    image = engine.client.images.list("orch/faulty")[0]
    plan = json.loads((tmp_path / "first" / "run.json").read_text())["plan"]
    labels = {f"{LABEL}.run": plan[:12], f"{LABEL}.stack": "faulty"}
    engine.client.containers.run(image, ["sleep", "600"], detach=True, labels=labels, network_mode="none")
    other = engine.client.containers.run(
        image, ["sleep", "600"], detach=True, labels={**labels, f"{LABEL}.run": "another"}, network_mode="none"
    )
    try:
        start(faulty(images, tmp_path / "second"))
        assert [one.id for one in containers()] == [other.id]
    finally:
        other.remove(force=True)
        for one in containers():
            one.remove(force=True)


def test_nothing_is_rebuilt_when_nothing_changed_and_an_edited_predictor_is(tmp_path: Path) -> None:
    shutil.copytree(STACKS / "faulty", tmp_path / "faulty")
    runtime, lines = make_runtime("docker"), list[str]()

    def build() -> Any:
        return runtime.prepare(load_catalog([tmp_path]).stacks["faulty"], "cpu", BuildOptions(), lines.append)

    first, second = build(), build()
    assert (second.fresh, second.digest) == (False, first.digest)
    predictor = tmp_path / "faulty" / "predictor.py"
    predictor.write_text(f"{predictor.read_text()}\n# edited: {uuid4()}\n")
    third = build()
    assert third.fresh
    assert third.location != first.location
    connect().client.images.remove(third.location)
    assert any("CACHED" in line for line in lines), "the layer with the packages was built again"


def test_upstream_code_is_in_the_image_where_the_predictor_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream(tmp_path / "upstream")
    upstream.stand_in(monkeypatch, tmp_path / "home")
    shutil.copytree(STACKS / "faulty", tmp_path / "faulty")
    with (tmp_path / "faulty" / "faulty.Dockerfile").open("a") as dockerfile:
        dockerfile.write("COPY sources /opt/orch/sources\n")
    with (tmp_path / "faulty" / "stack.yaml").open("a") as spec:
        source = {"url": upstream.url, "commit": upstream.commit, "folders": ["net"]}
        spec.write(f"sources: {json.dumps({'up': source})}\n")
    stack, runtime = load_catalog([tmp_path]).stacks["faulty"], make_runtime("docker")
    built = runtime.prepare(stack, "cpu", BuildOptions(), lambda line: None)
    seen = GUEST_SOURCES / "up" / "net" / "model.py"
    command = ["cat", str(seen)]
    assert connect().client.containers.run(built.location, command, remove=True, network_mode="none") == b"one"
    connect().client.images.remove(built.location)


def test_a_build_that_fails_shows_the_logs_tail(tmp_path: Path) -> None:
    shutil.copytree(STACKS / "faulty", tmp_path / "faulty")
    with (tmp_path / "faulty" / "faulty.Dockerfile").open("a") as dockerfile:
        dockerfile.write("RUN echo the reason it failed && false\n")
    stack = load_catalog([tmp_path]).stacks["faulty"]
    with pytest.raises(BuildError) as caught:
        make_runtime("docker").prepare(stack, "cpu", BuildOptions(), lambda line: None)
    assert caught.value.why is not None
    assert "the reason it failed" in caught.value.why
    assert caught.value.log is not None
    assert "the reason it failed" in Path(caught.value.log).read_text()
