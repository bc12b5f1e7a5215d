"""What the docker runtime asks of an engine, compared whole; no engine is needed."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from orchestrator import __version__
from orchestrator.errors import BaseImageError, BuildError, MachineError
from orchestrator.paths import build_logs_folder
from orchestrator.runtimes.base import BuildOptions, Exit, Prepared, WorkerSpec
from orchestrator.runtimes.build_inputs import BuildInputs, build_inputs
from orchestrator.runtimes.docker import build as docker_build
from orchestrator.runtimes.docker import runtime as docker_runtime
from orchestrator.runtimes.docker.build import build_arguments, ensure_image
from orchestrator.runtimes.docker.gpu_access import GpuSettings
from orchestrator.runtimes.docker.runtime import (
    DockerRuntime,
    DockerWorker,
    container_settings,
    mounts,
    start_container,
)
from orchestrator.runtimes.guest_contract import GuestPaths
from orchestrator.runtimes.limits import Limits
from orchestrator.system.container_engine import Engine
from tests.unit.stack_samples import stack_entry

ENVIRONMENT = {
    "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "NUMEXPR_NUM_THREADS": "3",
    "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0",
    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1",
    "HOME": "/tmp/home", "XDG_CACHE_HOME": "/cache/xdg", "MPLCONFIGDIR": "/cache/matplotlib",
    "NUMBA_CACHE_DIR": "/cache/numba", "TORCH_HOME": "/cache/torch",
    "CUDA_CACHE_PATH": "/cache/cuda", "CUDA_CACHE_MAXSIZE": "4294967296",
    "USER": "orch", "LOGNAME": "orch",
}  # fmt: skip


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(stack_entry(tmp_path / "stack"), "cpu", "docker", "0123456789ab", "orch/tiny:cpu-0", "sha256:77")


SPEC = WorkerSpec(
    run="run1", name="w0-abc01", job=Path("/r/jobs/w0"), data=Path("/r/jobs/data"), roots=[Path("/p a"), Path("/q")],
    weights=Path("/h/weights"), out=Path("/r/shards"), cache=Path("/h/cache"), log=Path("/r/w0.log"), threads=3,
)  # fmt: skip
MOUNTS = [
    {"Type": "bind", "Source": "/r/jobs/w0", "Target": "/job", "ReadOnly": True},
    {"Type": "bind", "Source": "/h/weights", "Target": "/weights", "ReadOnly": True},
    {"Type": "bind", "Source": "/r/shards", "Target": "/out", "ReadOnly": False},
    {"Type": "bind", "Source": "/h/cache", "Target": "/cache", "ReadOnly": False},
    {"Type": "bind", "Source": "/p a", "Target": "/data/0", "ReadOnly": True},
    {"Type": "bind", "Source": "/q", "Target": "/data/1", "ReadOnly": True},
]


def test_a_container_is_hardened(prepared: Prepared) -> None:
    assert container_settings(prepared, SPEC, ("seccomp", "apparmor"), (1000, 1001), GpuSettings()) == {
        "image": "sha256:77",
        "command": ["python", "-m", "orch_runner", "/job/job.json"],
        "name": "orch-run1-w0-abc01",
        "labels": {"org.orch.run": "run1", "org.orch.worker": "w0-abc01", "org.orch.stack": "tiny"},
        "user": "1000:1001",
        "environment": ENVIRONMENT,
        "mounts": MOUNTS,
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,size=2g,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 2048,
        "shm_size": "1g",
        "ulimits": [
            {"Name": "nofile", "Soft": 16384, "Hard": 16384},
            {"Name": "fsize", "Soft": 8 << 30, "Hard": 8 << 30},
        ],
        "init": True,
        "detach": True,
        "stop_signal": "SIGTERM",
        "log_config": {"Type": "json-file", "Config": {"max-size": "4096m", "max-file": "1"}},
        "device_requests": [],
    }


@pytest.mark.parametrize(
    ("security", "user", "options"),
    [
        ((), "1000:1001", ["no-new-privileges"]),
        (("rootless",), "0:0", ["no-new-privileges"]),
        (("selinux",), "1000:1001", ["no-new-privileges", "label=disable"]),
        (("seccomp", "selinux", "rootless"), "0:0", ["no-new-privileges", "label=disable"]),
    ],
)
def test_the_engines_security_changes_user_and_labels_alone(
    prepared: Prepared, security: tuple[str, ...], user: str, options: list[str]
) -> None:
    plain = container_settings(prepared, SPEC, (), (1000, 1001), GpuSettings())
    settings = container_settings(prepared, SPEC, security, (1000, 1001), GpuSettings())
    assert settings == {**plain, "user": user, "security_opt": options}


def test_inputs_that_are_all_missing_need_no_mount() -> None:
    spec = WorkerSpec(**{**vars(SPEC), "roots": []})
    assert mounts(spec) == MOUNTS[:4]


def test_mounts_are_absolute_whatever_the_user_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("job", "data", "weights", "out", "cache")
    spec = WorkerSpec(**{**vars(SPEC), **{name: Path("rel", name) for name in names}, "roots": [Path("photos")]})
    folders = ["rel/job", "rel/weights", "rel/out", "rel/cache", "photos"]
    assert [mount["Source"] for mount in mounts(spec)] == [str(tmp_path / folder) for folder in folders]


def test_the_guest_sees_the_same_paths_in_every_image(prepared: Prepared) -> None:
    assert DockerRuntime().guest_paths(prepared, SPEC) == GuestPaths(
        *(PurePosixPath(path) for path in ("/data", "/weights", "/out", "/cache", "/job/queue", "/opt/orch/stack"))
    )


def test_the_build_command(tmp_path: Path) -> None:
    inputs = build_inputs(stack_entry(tmp_path), "cpu", BuildOptions(base_image="b", build_args={"JOBS": "2"}))
    tag = f"orch/tiny:cpu-{inputs.identity}"
    assert inputs.image_tag == tag
    expected = [
        "docker", "build", "--tag", tag, "--build-arg", "BASE_IMAGE=b", "--build-arg", "JOBS=2",
        "--label", "org.orch.stack=tiny", "--label", "org.orch.variant=cpu",
        "--label", f"org.orch.identity={inputs.identity}",
        "--label", f"org.orch.content={inputs.content}", "--label", f"org.orch.version={__version__}", "/context",
    ]  # fmt: skip
    assert build_arguments(["docker", "build"], inputs, BuildOptions(), Path("/context")) == expected
    again = build_arguments(["docker", "build"], inputs, BuildOptions(rebuild=True), Path("/context"))
    assert again == [*expected[:-1], "--no-cache", "/context"]


class Images:
    """An engine's images: `found` is what it answers, one after another."""

    def __init__(self, *found: str | None) -> None:
        self._found = list(found)

    def get(self, tag: str) -> Any:
        found = self._found.pop(0)
        if found is None:
            raise docker.errors.ImageNotFound(tag)
        return SimpleNamespace(id=found, labels={})


class Client:
    """An engine's client: its images, and the names they were given."""

    def __init__(self, *found: str | None) -> None:
        self.images, self.tags, self.api = Images(*found), list[tuple[str, str]](), self

    def tag(self, image: str, name: str, tag: str, force: bool) -> None:
        assert force
        self.tags.append((image, f"{name}:{tag}"))


def engine(*found: str | None) -> Engine:
    return Engine(Client(*found), "unix:///x", "28", {})


@pytest.fixture
def inputs(tmp_path: Path) -> BuildInputs:
    return build_inputs(stack_entry(tmp_path / "stack"), "cpu", BuildOptions())


def builder(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `script` be the command that builds; its last argument is the context."""
    command = folder / "builder"
    command.write_text(f"#!/bin/sh\nfor context; do :; done\n{script}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(docker_build, "build_command", lambda: [str(command)])


def test_an_image_the_engine_has_is_not_built(inputs: BuildInputs) -> None:
    assert ensure_image(engine("sha256:1"), inputs, BuildOptions(), print) == ("sha256:1", False, 0.0)


@pytest.mark.parametrize("there", [True, False])
def test_the_image_last_asked_for_is_found_without_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: BuildInputs, there: bool
) -> None:
    builder(tmp_path, monkeypatch, "exit 0")
    answering = engine("sha256:1") if there else engine(None, "sha256:1")
    ensure_image(answering, inputs, BuildOptions(), lambda line: None)
    assert answering.client.tags == [("sha256:1", "orch/tiny:cpu")]


def test_an_image_is_built_from_the_whole_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: BuildInputs
) -> None:
    builder(tmp_path, monkeypatch, 'ls "$context" "$context/stack"; echo "$DOCKER_BUILDKIT"')
    said: list[str] = []
    digest, fresh, seconds = ensure_image(engine(None, "sha256:2"), inputs, BuildOptions(), said.append)
    assert (digest, fresh, seconds > 0) == ("sha256:2", True, True)
    assert said[0] == f"building {inputs.image_tag}"
    assert {"Dockerfile", "requirements.lock", "runner", "stack", "predictor.py", "1"} <= set(said)
    assert "Dockerfile" in next(build_logs_folder().glob("orch-tiny-cpu-*.log")).read_text()


def test_rebuild_builds_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: BuildInputs) -> None:
    builder(tmp_path, monkeypatch, "exit 0")
    assert ensure_image(engine("sha256:2"), inputs, BuildOptions(rebuild=True), print)[:2] == ("sha256:2", True)


def test_a_build_that_fails_shows_its_end_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: BuildInputs
) -> None:
    builder(tmp_path, monkeypatch, 'seq 100; printf "bad \\377 byte\\n"; exit 3')
    with pytest.raises(BuildError, match=r"cannot build the image .* \(exit 3\)") as caught:
        ensure_image(engine(None), inputs, BuildOptions(), lambda line: None)
    why = str(caught.value.why).splitlines()
    assert why == ["99", "100", "bad \ufffd byte"]
    assert caught.value.log is not None
    assert Path(caught.value.log).read_text().count("\n") == 102
    assert caught.value.hint is None


def test_a_base_that_is_not_there_brings_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: BuildInputs
) -> None:
    builder(tmp_path, monkeypatch, "echo failed to resolve source metadata for x; exit 1")
    with pytest.raises(BaseImageError) as caught:
        ensure_image(engine(None), inputs, BuildOptions(), lambda line: None)
    assert caught.value.why == "failed to resolve source metadata for x"
    assert caught.value.hint == "another base image: --base-image IMAGE; or no image at all: --runtime venv"


def test_an_image_that_went_missing_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: BuildInputs
) -> None:
    builder(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(BuildError, match="the engine does not have it"):
        ensure_image(engine(None, None), inputs, BuildOptions(), lambda line: None)


def test_the_base_of_all_stacks_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_entry(tmp_path)
    monkeypatch.setattr(docker_runtime, "connect", lambda: engine("sha256:1"))
    plain = DockerRuntime().prepare(stack, "cpu", BuildOptions(), print)
    monkeypatch.setenv("ORCH_BASE_IMAGE", "mirror/python:3.11")
    other = DockerRuntime().prepare(stack, "cpu", BuildOptions(), print)
    assert other.identity == build_inputs(stack, "cpu", BuildOptions(base_image="mirror/python:3.11")).identity
    assert other.identity != plain.identity
    own = DockerRuntime().prepare(stack, "cpu", BuildOptions(base_image="python:3.11-slim"), print)
    assert own.identity == plain.identity


def test_without_an_engine_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> Engine:
        raise MachineError("no container engine answers", why="unix:///x: no such socket")

    monkeypatch.setattr(docker_runtime, "connect", connect)
    assert DockerRuntime().unavailable_reason() == "no container engine answers (unix:///x: no such socket)"
    monkeypatch.setattr(docker_runtime, "connect", engine)
    assert DockerRuntime().unavailable_reason() is None


def removable(removals: list[dict[str, Any]], start: Callable[[], None] = lambda: None) -> SimpleNamespace:
    """A container; how it is removed is noted in `removals`."""
    return SimpleNamespace(remove=lambda **options: removals.append(options), start=start)


def test_containers_are_removed_though_they_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    removals: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []

    def find(**options: Any) -> list[SimpleNamespace]:
        asked.append(options)
        return [removable(removals), removable(removals)]

    client = SimpleNamespace(containers=SimpleNamespace(list=find))
    monkeypatch.setattr(docker_runtime, "connect", lambda: Engine(client, "unix:///x", "28", {}))
    assert DockerRuntime().reap("run1", tmp_path) == 2
    assert asked == [{"all": True, "filters": {"label": "org.orch.run=run1"}, "ignore_removed": True}]
    assert removals == [{"force": True}] * 2


def test_a_container_that_does_not_start_is_removed(prepared: Prepared) -> None:
    def fail() -> None:
        raise docker.errors.APIError("no such device")

    removals: list[dict[str, Any]] = []
    containers = SimpleNamespace(create=lambda **settings: removable(removals, fail))
    settings = container_settings(prepared, SPEC, (), (1000, 1001), GpuSettings())
    with pytest.raises(MachineError, match="cannot start the container orch-run1-w0-abc01") as caught:
        start_container(Engine(SimpleNamespace(containers=containers), "unix:///x", "28", {}), settings)
    assert caught.value.why == "no such device"
    assert removals == [{"force": True}]


class EndedContainer:
    """A container that ended with this status; the engine does not answer for so many inspections before."""

    def __init__(self, code: int, out_of_memory: bool, unanswered: int) -> None:
        self.attrs = {"State": {"ExitCode": code, "OOMKilled": out_of_memory, "Error": ""}}
        self.status, self._unanswered = "exited", unanswered

    def logs(self, **_: Any) -> Iterator[bytes]:
        return iter(())

    def wait(self, timeout: float) -> None:
        if self._unanswered:
            raise OSError("connection refused")

    def reload(self) -> None:
        self._unanswered -= 1
        if self._unanswered >= 0:
            raise OSError("connection refused")


def end_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, out_of_memory: bool = False, unanswered: int = 0
) -> Exit:
    monkeypatch.setattr(docker_runtime, "_RETRY_SECONDS", 0.01)
    container = EndedContainer(code, out_of_memory, unanswered)
    monkeypatch.setattr(docker_runtime, "start_container", lambda engine, settings: container)
    spec = replace(SPEC, log=tmp_path / "w0.log", limits=Limits(memory=1 << 30))
    return DockerWorker(engine(), spec, {}).wait()


def test_full_memory_full_shared_memory_and_a_lost_engine_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = end_of(tmp_path, monkeypatch, 137, out_of_memory=True)
    assert memory.out_of_memory
    assert memory.describe() == "out of memory: its limit is 1.0 GiB, --memory raises it"
    assert "--memory" in str(memory.hint)
    shared = end_of(tmp_path, monkeypatch, 135)
    assert "bus error" in shared.describe()
    assert "/dev/shm is full, which holds 1G" in shared.describe()
    assert "--batch-size" in str(shared.hint)
    engine_lost = end_of(tmp_path, monkeypatch, 137, unanswered=3)
    assert engine_lost.describe() == "exit 137, its container engine was away while it ran"
    assert "journalctl" in str(engine_lost.hint)
    killed = end_of(tmp_path, monkeypatch, 137)
    assert (killed.describe(), killed.hint) == ("exit 137, killed", None)
