"""Warm workers started for real: by the Compose plugin, and by `orch up` through the engine's API."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from orchestrator import Predictions
from orchestrator.catalog.loader import load_catalog
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.docker.user import NOBODY
from orchestrator.workflows.demo.scenes import write_scenes

pytestmark = pytest.mark.docker
ROOT = Path(__file__).resolve().parent.parent.parent
MODEL, STACK = "garments-tiny", "garments"
FEW, MANY = 6, 200
USER = NOBODY if os.getuid() == 0 else os.getuid()
LIMIT_SECONDS = 300


@cache
def docker() -> str:
    """The docker command that has the Compose plugin; skips where there is none, except where one is required."""
    places = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin"]
    for command in dict.fromkeys(filter(None, (shutil.which("docker", path=place) for place in places))):
        if subprocess.run([command, "compose", "version"], capture_output=True, check=False).returncode == 0:
            return command
    problem = "no docker command here has the Compose plugin (bash .ci/engine.sh compose unpacks one)"
    if os.environ.get("ORCH_REQUIRE_COMPOSE"):
        pytest.fail(f"ORCH_REQUIRE_COMPOSE is set, but {problem}", pytrace=False)
    pytest.skip(problem)


class Place:
    """A cache, a spool, a folder of images, and a Compose project of their own."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.data, self.spool = root, root / "home", root / "data", root / "spool"
        self.project = f"orch-test-{uuid4().hex[:8]}"
        base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE")
        mine = {name: value for name, value in os.environ.items() if not name.startswith("ORCH_")}
        self.environment = {**mine, "ORCH_HOME": str(self.home), **({"ORCH_BASE_IMAGE": base} if base else {})}

    def orch(self, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """The command line, in a process of its own."""
        command = [sys.executable, "-m", "orchestrator", *(str(one) for one in arguments)]
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def compose(
        self, *arguments: str, gpu: bool = False, expect: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Compose on the repository's own files, with this place's .env."""
        files = [ROOT / "compose.yaml", *([ROOT / "compose.gpu.yaml"] if gpu else [])]
        named = [part for file in files for part in ("-f", str(file))]
        command = [docker(), "compose", "-p", self.project, *named, "--env-file", str(self.root / ".env"), *arguments]
        done = subprocess.run(
            command,
            env={**self.environment, "ORCH_SPOOL": str(self.spool), **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def config(self, *arguments: str, gpu: bool = False) -> dict[str, Any]:
        """The services as Compose understands them; not a word of warning."""
        done = self.compose(*arguments, "config", "--format", "json", gpu=gpu)
        assert done.stderr == ""
        document: dict[str, dict[str, Any]] = json.loads(done.stdout)
        return document["services"]

    def run_warm(self, images: Path, out: Path, *arguments: object) -> Predictions:
        """`orch run --warm` on this place's spool."""
        self.orch("run", "--warm", "--spool", self.spool, "-m", MODEL, "-i", images, "-o", out, *arguments)
        return Predictions.load(out / "predictions.npz")

    def containers(self) -> list[str]:
        """The ids of this project's running containers."""
        return self.compose("ps", "-q").stdout.split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With its .env, six pictures, and two hundred names for them."""
    docker()
    made = Place(tmp_path_factory.mktemp("place"))
    write_scenes(made.data / "few", range(FEW))
    (made.data / "many").mkdir()
    for number in range(MANY):
        (made.data / "many" / f"{number:03}.png").hardlink_to(made.data / "few" / f"scene-{number % FEW:05}.png")
    made.orch("compose", "--env", "--data", made.data, "--out", made.root / ".env")
    yield made
    made.compose("--profile", "all", "down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def serving(place: Place) -> Place:
    """The plain command: the demo's worker, built and healthy."""
    place.compose("up", "-d", "--build", "--wait")
    return place


PROFILES: list[tuple[str, ...]] = [(), ("--profile", "all"), *(("--profile", name) for name in load_catalog().stacks)]


@pytest.mark.parametrize("profiles", PROFILES, ids=lambda profiles: " ".join(profiles[1:]) or "plain")
def test_the_files_are_clean_and_no_service_has_rights_it_does_not_need(
    place: Place, profiles: tuple[str, ...]
) -> None:
    services = place.config(*profiles)
    wanted = load_catalog().stacks if profiles[1:] == ("all",) else {STACK, *profiles[1:]}
    assert set(services) == set(wanted)
    for service in services.values():
        assert service["user"] == f"{USER}:{USER if USER == NOBODY else os.getgid()}"
        assert service["cap_drop"] == ["ALL"]
        assert service["network_mode"] == "none"
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges"]
        assert not {"cap_add", "privileged", "ports", "networks", "devices", "deploy"} & service.keys()


def test_the_gpu_file_adds_a_gpu_and_its_variant(place: Place) -> None:
    plain, services = place.config("--profile", "all"), place.config("--profile", "all", gpu=True)
    changed = {name for name in services if services[name] != plain[name]}
    assert changed == {"amrcnn", "facere", "fformer", "imdlbenco"}
    for name in changed:
        devices = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert [(one["driver"], one["count"], one["capabilities"]) for one in devices] == [("nvidia", 1, ["gpu"])]
        caches = [mount["source"] for mount in services[name]["volumes"] if mount["target"] == "/cache"]
        assert caches == [f"{name}-{services[name]['environment']['ORCH_VARIANT']}-cache"]
        same = ("user", "cap_drop", "network_mode", "read_only", "security_opt", "healthcheck", "tmpfs")
        assert {key: services[name][key] for key in same} == {key: plain[name][key] for key in same}


def test_a_folder_that_is_missing_is_named_and_not_made(place: Place) -> None:
    missing = place.root / "no-such-folder"
    done = place.compose("up", "-d", "--build", expect=1, ORCH_DATA=str(missing))
    assert f"bind source path does not exist: {missing}" in done.stderr
    assert not missing.exists()


def test_the_image_holds_what_orch_itself_builds_from(serving: Place) -> None:
    inputs = build_inputs(load_catalog().stacks[STACK], "cpu", BuildOptions())
    wanted = {"requirements.lock": inputs.lock, **inputs.files}
    (shown,) = (serving.spool / f"{STACK}-cpu" / "workers").glob("*.files.json")
    there = json.loads(shown.read_text())["files"]
    assert {name: there.get(name) for name in wanted} == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in wanted.items()
    }
    assert {name for name in there if name.endswith((".onnx", "stack.yaml")) or "convert" in name} == set()


def test_a_workers_log_says_what_it_does_and_orch_ps_shows_it(serving: Place) -> None:
    log = serving.compose("logs", "--no-log-prefix").stdout
    assert "garments, cpu, cpu" in log
    (mine,) = [one for one in listed(serving) if one["spool"] == str(serving.spool)]
    assert (mine["stack"], mine["variant"], mine["device"], mine["state"]) == (STACK, "cpu", "cpu", "idle")
    assert mine["name"] == f"{serving.project}-{STACK}-1"


def listed(place: Place) -> list[dict[str, Any]]:
    """What `orch ps` says of workers."""
    workers: list[dict[str, Any]] = json.loads(place.orch("ps", "--json", "--spool", place.spool).stdout)["workers"]
    return workers


def equal(first: Predictions, second: Predictions) -> bool:
    names = ("image_file", "image_size", "status", "error", "offsets", "boxes", "classes", "scores", "masks")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def test_a_warm_run_equals_a_cold_one(serving: Place) -> None:
    few = serving.data / "few"
    warm = serving.run_warm(few, serving.root / "warm")
    serving.orch("run", "--no-warm", "--runtime", "docker", "-m", MODEL, "-i", few, "-o", serving.root / "cold")
    cold = Predictions.load(serving.root / "cold" / "predictions.npz")
    assert (len(warm), warm.validate()) == (FEW, [])
    assert len(warm.boxes) > FEW
    assert equal(warm, cold)


def kill(place: Place) -> None:
    """SIGKILL for the worker itself, as an engine's user cannot: whom an engine kills stays down."""
    (container,) = place.containers()
    shown = [docker(), "inspect", "-f", "{{.State.Pid}}", container]
    init = subprocess.run(shown, check=True, capture_output=True, text=True).stdout.strip()
    (worker,) = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)


def restart(place: Place) -> None:
    (container,) = place.containers()
    subprocess.run([docker(), "restart", "--time", "0", container], check=True, capture_output=True)


def down_and_up(place: Place) -> None:
    place.compose("down", "--timeout", "5")
    place.compose("up", "-d")


@pytest.mark.parametrize("fault", [kill, restart, down_and_up])
def test_whatever_happens_to_the_worker_each_image_is_predicted_once(
    serving: Place, fault: Callable[[Place], None], tmp_path: Path
) -> None:
    if fault is kill and os.getuid() != 0:
        pytest.skip("a process in a container is somebody else's")
    out, happened = tmp_path / "out", list[int]()

    def strike() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            done = len(list((out / "shards").glob("*.npz")))
            if done >= 3:
                happened.append(done)
                fault(serving)
                return
            time.sleep(0.02)

    striker = threading.Thread(target=strike)
    striker.start()
    try:
        predictions = serving.run_warm(serving.data / "many", out, "--shard-size", 5)
    finally:
        striker.join()
    assert happened, "nothing happened to the worker"
    assert happened[0] < MANY // 5, "the run was over before anything happened"
    assert Counter(predictions.image_file) == Counter(f"{number:03}.png" for number in range(MANY))
    assert not predictions.status.any()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["lost_workers"] >= 1
    assert predictions.validate() == []


def test_up_ps_logs_and_down(place: Place) -> None:
    """A spool of its own, so that no other worker is looked at."""
    spool = place.root / "another-spool"
    here = ("--spool", spool)
    first = json.loads(place.orch("up", MODEL, *here, "--data", place.data, "--idle", 60, "--json").stdout)
    (worker,) = first["workers"]
    assert (worker["stack"], worker["variant"], worker["spool"], worker["fresh"]) == (STACK, "cpu", str(spool), True)
    again = json.loads(place.orch("up", STACK, *here, "--data", place.data, "--idle", 60, "--json").stdout)
    assert again["workers"] == [{**worker, "fresh": False}]
    others = json.loads(place.orch("up", STACK, *here, "--data", place.data, "-w", 2, "--json").stdout)
    assert [one["fresh"] for one in others["workers"]] == [True, True]
    out = place.root / "up"
    place.orch("run", "--warm", *here, "-m", MODEL, "-i", place.data / "few", "-o", out)
    assert len(Predictions.load(out / "predictions.npz")) == FEW
    shown = json.loads(place.orch("ps", *here, "--json").stdout)["workers"]
    mine = [one for one in shown if one["spool"] == str(spool)]
    assert sorted(one["name"] for one in mine) == sorted(one["container"] for one in others["workers"])
    assert [MODEL] in [one["models"] for one in mine]
    assert MODEL in place.orch("logs", STACK).stdout
    ended = json.loads(place.orch("down", STACK, *here, "--json").stdout)["ended"]
    assert sorted(ended) == sorted(one["name"] for one in mine)
    left = json.loads(place.orch("ps", *here, "--json").stdout)["workers"]
    assert not [one for one in left if one["spool"] == str(spool)]


@pytest.mark.nightly  # it waits for as long as a run does, a minute and a half
def test_a_run_that_did_not_insist_on_a_worker_ends_without_it(place: Place) -> None:
    """The worker goes away for good in the middle: the run is resumed cold, what the worker did is kept."""
    here, out = ("--spool", place.root / "leaving"), place.root / "left"
    place.orch("up", STACK, *here, "--data", place.data)
    asked = ("run", *here, "-m", MODEL, "-i", place.data / "many", "-o", out, "--shard-size", 5)
    command = [sys.executable, "-m", "orchestrator", *map(str, asked)]
    running = subprocess.Popen(command, env=place.environment, cwd=place.root, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list((out / "shards").glob("[!.]*.npz"))) < 3:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.01)
    place.orch("down", STACK, *here)
    said = running.communicate(timeout=LIMIT_SECONDS)[1]
    assert running.returncode == 0, said
    assert "continuing without a warm worker" in said
    predictions = Predictions.load(out / "predictions.npz")
    assert len(predictions) == MANY
    assert predictions.validate() == []
    assert not predictions.status.any()
