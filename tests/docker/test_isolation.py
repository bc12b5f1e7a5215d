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
from orchestrator.hardware.gpu_code import LABEL
from orchestrator.paths import RunPaths, weights_folder, worker_cache_folder
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.docker.user import NOBODY
from orchestrator.runtimes.mounts import GUEST_SOURCES
from orchestrator.runtimes.registry import get_runtime
from orchestrator.system.container_engine import connect
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.run import run_model
from tests.conformance.pictures import photograph
from tests.upstream import Upstream

pytestmark = pytest.mark.docker
STACKS = Path(__file__).parent.parent / "stacks"
STRANGER = 12345
IS_ROOT = os.geteuid() == 0
WORKER = (NOBODY, NOBODY) if IS_ROOT else (os.getuid(), os.getgid())
"""Whom workers run as, unless asked otherwise."""


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


def start(options: RunOptions, model: str = "faulty", display: Any = None) -> Any:
    return run_model(load_catalog([STACKS]).model(model), options, display or SilentDisplay())


class Lines(SilentDisplay):
    """Keeps the lines that a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def containers() -> list[Any]:
    return list(connect().client.containers.list(all=True, filters={"label": f"{LABEL}.stack=faulty"}))


@pytest.fixture
def facts(home: Path, images: Path, tmp_path: Path) -> dict[str, Any]:
    """What a predictor in a container saw."""
    start(faulty(images, tmp_path / "out", "report=facts.json", threads=3))
    cache = worker_cache_folder("faulty", "cpu", WORKER if IS_ROOT else None)
    found: dict[str, Any] = json.loads((cache / "facts.json").read_text())
    return found


def test_a_container_has_no_network_no_capabilities_and_writes_only_where_it_may(facts: dict[str, Any]) -> None:
    assert facts == {
        "uid": WORKER[0],
        "gid": WORKER[1],
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


@pytest.mark.skipif(not IS_ROOT, reason="acting for another user takes root")
def test_workers_run_as_the_user_asked_for_and_the_runs_files_are_the_callers(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    start(faulty(images, out, "report=facts.json", user=f"{STRANGER}:{STRANGER + 1}"))
    cache = worker_cache_folder("faulty", "cpu", (STRANGER, STRANGER + 1))
    facts = json.loads((cache / "facts.json").read_text())
    assert (facts["uid"], facts["gid"]) == (STRANGER, STRANGER + 1)
    state = (cache / "facts.json").stat()
    assert (state.st_uid, state.st_gid) == (STRANGER, STRANGER + 1)
    assert {path.lstat().st_uid for path in out.rglob("*")} == {0}


@pytest.mark.skipif(not IS_ROOT, reason="only root's workers could leave programs of root")
def test_no_program_of_root_is_left(images: Path, home: Path, tmp_path: Path) -> None:
    """A set-uid program that a worker leaves must not give anybody root's rights."""
    outcome = start(faulty(images, tmp_path / "out", "misdeed=plant"))
    assert outcome.failed == 0
    left = [path for folder in (tmp_path / "out", home) for path in folder.rglob("planted")]
    assert left, "nothing was planted"
    assert [path for path in left if path.lstat().st_uid == 0] == []
    programs = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.lstat().st_mode & 0o6111]
    assert programs == []


@pytest.mark.skipif(not IS_ROOT, reason="only root reads what its workers cannot")
def test_what_workers_of_root_cannot_read_is_copied_for_the_time_of_the_run(images: Path, tmp_path: Path) -> None:
    (images / "00.png").chmod(0o600)
    closed = images / "closed" / "open"
    closed.mkdir(parents=True)
    shutil.copyfile(images / "01.png", closed / "a.png")
    (images / "closed").chmod(0o700)
    weights = weights_folder("faulty", "faulty-by-hand")
    weights.mkdir(parents=True)
    (weights / "level.json").write_text("120")
    (weights / "level.json").chmod(0o600)
    said, before = Lines(), os.umask(0o077)
    try:
        options = faulty(images, tmp_path / "out", weights_folder=weights)
        outcome = start(options, "faulty-by-hand", said)
    finally:
        os.umask(before)
    assert (outcome.failed, outcome.summary["predicted"]) == (0, 25)
    about = [line for line in said.lines if line.startswith(f"workers run as uid {NOBODY}, who cannot read")]
    assert len(about) == 2
    assert not (tmp_path / "out" / "jobs").exists()


@pytest.mark.parametrize(
    ("misdeed", "limit", "named"),
    [
        ("fill-memory", {"memory": "300M"}, "out of memory: its limit is 300 MiB, --memory raises it"),
        ("write-large-file", {"file_size": "64M"}, "--file-size raises it"),
        ("start-threads", {"processes": 100}, "--processes raises it"),
        ("fill-out", {"out_size": "50M"}, "its out folder holds more than 50 MiB, --out-size raises the limit"),
        ("fill-shared-memory", {}, "/dev/shm is full, which holds 1G in each container"),
    ],
)
def test_an_error_names_the_limit_that_was_hit(
    misdeed: str, limit: dict[str, Any], named: str, images: Path, tmp_path: Path
) -> None:
    for image in sorted(images.iterdir())[1:]:
        image.unlink()
    outcome = start(faulty(images, tmp_path / "out", f"misdeed={misdeed}", **limit))
    assert outcome.failed == 1
    assert named in outcome.summary["failures"][0]["error"]


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
    """Only those of this run directory, whose key is in a label; an equal run elsewhere keeps its workers."""
    engine = connect()
    start(faulty(images, tmp_path / "first"))
    image = engine.client.images.list("orch/faulty")[0]
    labels = {f"{LABEL}.run": RunPaths(tmp_path / "second").key, f"{LABEL}.stack": "faulty"}
    engine.client.containers.run(image, ["sleep", "600"], detach=True, labels=labels, network_mode="none")
    other = engine.client.containers.run(
        image, ["sleep", "600"], detach=True, network_mode="none",
        labels={**labels, f"{LABEL}.run": RunPaths(tmp_path / "first").key},
    )  # fmt: skip
    try:
        start(faulty(images, tmp_path / "second"))
        assert [one.id for one in containers()] == [other.id]
    finally:
        other.remove(force=True)
        for one in containers():
            one.remove(force=True)


def test_nothing_is_rebuilt_when_nothing_changed_and_an_edited_predictor_is(tmp_path: Path) -> None:
    shutil.copytree(STACKS / "faulty", tmp_path / "faulty")
    runtime, lines = get_runtime("docker"), list[str]()

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
    stack, runtime = load_catalog([tmp_path]).stacks["faulty"], get_runtime("docker")
    built = runtime.prepare(stack, "cpu", BuildOptions(), lambda line: None)
    seen = GUEST_SOURCES / "up" / "net" / "model.py"
    # By its exit status: an engine can lose the output of a container that ends at once.
    command = ["sh", "-c", f'test "$(cat {seen})" = one']
    connect().client.containers.run(built.location, command, remove=True, network_mode="none")
    connect().client.images.remove(built.location)


def test_a_build_that_fails_shows_the_logs_tail(tmp_path: Path) -> None:
    shutil.copytree(STACKS / "faulty", tmp_path / "faulty")
    with (tmp_path / "faulty" / "faulty.Dockerfile").open("a") as dockerfile:
        dockerfile.write("RUN echo the reason it failed && false\n")
    stack = load_catalog([tmp_path]).stacks["faulty"]
    with pytest.raises(BuildError) as caught:
        get_runtime("docker").prepare(stack, "cpu", BuildOptions(), lambda line: None)
    assert caught.value.why is not None
    assert "the reason it failed" in caught.value.why
    assert caught.value.log is not None
    assert "the reason it failed" in Path(caught.value.log).read_text()
