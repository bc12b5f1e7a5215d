"""Whom workers run as, what they may use, and what is copied for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import MachineError, UsageError
from orchestrator.inputs.collect import InputImage
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes.docker import runtime as docker_runtime
from orchestrator.runtimes.docker.runtime import DockerRuntime, isolation
from orchestrator.runtimes.docker.user import NOBODY, container_user, folder_owner, worker_user
from orchestrator.runtimes.limits import Limits, format_size, parse_size, parse_user
from orchestrator.runtimes.process import limited
from orchestrator.runtimes.readable import ReadableImages, can_enter, can_read, readable_weights
from orchestrator.runtimes.registry import get_runtime
from orchestrator.runtimes.worker_cache import ensure_worker_cache
from orchestrator.system.container_engine import Engine

USER = (NOBODY, NOBODY)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders to other users")


def engine_of(monkeypatch: pytest.MonkeyPatch, *security: str, memory: int = 10 << 30, caller: int = 0) -> None:
    info = {"SecurityOptions": [f"name={name}" for name in security], "MemTotal": memory}
    monkeypatch.setattr(docker_runtime, "connect", lambda: Engine(None, "unix:///x", "28", info))
    monkeypatch.setattr(docker_runtime, "calling_user", lambda: (caller, caller))


def test_no_worker_runs_as_root_except_inside_a_rootless_engine() -> None:
    assert worker_user((0, 0)) == USER
    assert worker_user((1000, 100)) == (1000, 100)
    assert worker_user((0, 0), (7, 8)) == (7, 8)
    assert container_user(USER, ()) == "65534:65534"
    assert container_user((1000, 100), ("rootless",)) == "0:0"
    assert folder_owner(USER, (0, 0), ()) == USER
    assert folder_owner((1000, 100), (1000, 100), ()) is None
    assert folder_owner((1000, 100), (1000, 100), ("rootless",)) is None


def test_the_docker_runtime_decides_user_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    engine_of(monkeypatch)
    runtime = DockerRuntime()
    assert runtime.worker_owner() == USER
    assert runtime.limits_in_force(3) == Limits(USER, (9 << 30) // 3, 2048, 8 << 30, 16 << 30)
    asked = Limits((7, 8), 1 << 30, 10, 2 << 20, 3 << 20)
    runtime.set_limits(asked)
    assert (runtime.worker_owner(), runtime.limits_in_force(3)) == ((7, 8), asked)
    settings = isolation((), (7, 8), asked)
    assert (settings["user"], settings["mem_limit"], settings["memswap_limit"]) == ("7:8", 1 << 30, 1 << 30)
    assert settings["pids_limit"] == 10
    assert settings["ulimits"][1] == {"Name": "fsize", "Soft": 2 << 20, "Hard": 2 << 20}


@pytest.mark.parametrize(("security", "caller", "why"), [(("rootless",), 1000, "rootless"), ((), 1000, "only root")])
def test_a_user_that_workers_cannot_run_as_is_refused(
    security: tuple[str, ...], caller: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_of(monkeypatch, *security, caller=caller)
    with pytest.raises(UsageError, match="--user 7:8 cannot be used") as caught:
        DockerRuntime().set_limits(Limits(user=(7, 8)))
    assert why in str(caught.value.why)
    DockerRuntime().set_limits(Limits(user=(caller, caller)))


@pytest.mark.parametrize("limits", [Limits(user=(7, 8)), Limits(memory=1 << 30), Limits(processes=9)])
@pytest.mark.parametrize("runtime", ["venv", "apptainer"])
def test_processes_cannot_be_limited_like_containers(runtime: str, limits: Limits) -> None:
    with pytest.raises(UsageError, match=rf"^{limits.given()[0]} cannot be used with the runtime {runtime}"):
        get_runtime(runtime).set_limits(limits)
    get_runtime(runtime).set_limits(Limits(file_size=1 << 20, out_size=1 << 20))


def test_sizes_and_users_are_parsed_with_bounds() -> None:
    assert [parse_size(text) for text in ("8G", "1.5 GiB", "500m", "2097152")] == [8 << 30, 3 << 29, 500 << 20, 2 << 20]
    assert [format_size(size) for size in (3 << 29, 300 << 20)] == ["1.5 GiB", "300 MiB"]
    assert (parse_user("7"), parse_user("7:8")) == ((7, 7), (7, 8))
    for wrong in ("", "G", "-1G", "1e9", "8GG", "1K", "9" * 400 + "G"):
        with pytest.raises(ValueError, match="must be"):
            parse_size(wrong)
    for wrong in ("", "me", "7:", "0", "0:7", "7:0", "4294967295"):
        with pytest.raises(ValueError, match=r"must be|no worker|ids end"):
            parse_user(wrong)
    options = RunOptions(images=["x"], user="7:8", memory="8G", processes=9)  # type: ignore[arg-type]
    assert options.limits == Limits((7, 8), 8 << 30, 9)
    with pytest.raises(ValidationError, match="no worker runs as root"):
        RunOptions(images=["x"], user="0:0")  # type: ignore[arg-type]


def test_a_process_is_started_with_a_limit_of_its_files(tmp_path: Path) -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_FSIZE))"
    done = subprocess.run(limited(["python3", "-c", code], 3 << 20), capture_output=True, text=True, check=True)
    assert done.stdout == f"({3 << 20}, {3 << 20})\n"
    assert limited(["x"], None) == ["x"]


def state(mode: int, uid: int = 0, gid: int = 0) -> Any:
    return SimpleNamespace(st_mode=mode, st_uid=uid, st_gid=gid)


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "readable"),
    [
        (0o100644, 0, 0, True), (0o100600, 0, 0, False), (0o100640, 0, 0, False), (0o100640, 0, NOBODY, True),
        (0o100600, NOBODY, 0, True), (0o100044, NOBODY, 0, False), (0o100604, 0, NOBODY, False),
        (0o040755, 0, 0, True), (0o040744, 0, 0, False), (0o040711, 0, 0, False),
    ],
)  # fmt: skip
def test_readability_follows_from_the_mode_bits(mode: int, uid: int, gid: int, readable: bool) -> None:
    assert can_read(state(mode, uid, gid), *USER) is readable
    assert can_read(state(mode, uid, gid), 0, 0)


def test_a_folder_is_entered_without_being_listed() -> None:
    assert can_enter(state(0o040711), *USER)
    assert not can_enter(state(0o040700), *USER)


def images(root: Path, *names: str) -> list[InputImage]:
    return [
        InputImage(index, name, f"0/{name}", index, (root / name).stat().st_size, 0, None, None)
        for index, name in enumerate(names)
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "closed" / "below").mkdir(parents=True)
    for name in ("open.png", "secret.png", "closed/below/a.png"):
        (folder / name).write_text(name)
        (folder / name).chmod(0o644)
    (folder / "secret.png").chmod(0o600)
    for name in ("", "closed/below"):
        (folder / name).chmod(0o755)
    (folder / "closed").chmod(0o700)
    return folder


def test_only_unreadable_images_are_copied_and_only_until_their_shard_is_finished(root: Path, tmp_path: Path) -> None:
    shard, finished, said = images(root, "open.png", "secret.png", "closed/below/a.png"), set[int](), list[str]()
    folder = tmp_path / "run" / "readable"
    seen = ReadableImages([root], lambda number: shard, USER, folder, finished.__contains__, said.append)
    assert seen.roots == [root, folder / "images"]
    paths = [image.path for image in seen.images_of(4)]
    assert paths == ["0/open.png", "1/00004/00000001.png", "1/00004/00000002.png"]
    copies = [folder / "images" / path.removeprefix("1/") for path in paths[1:]]
    assert [copy.read_text() for copy in copies] == ["secret.png", "closed/below/a.png"]
    assert [copy.stat().st_mode & 0o777 for copy in (folder, folder / "images", *copies)] == [
        0o700,
        0o755,
        0o644,
        0o644,
    ]
    finished.add(4)
    seen.images_of(5)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["00005"]
    assert said == [f"workers run as uid {NOBODY}, who cannot read secret.png and maybe others: using copies"]


def test_the_folder_of_copies_can_be_entered_whatever_the_umask_is(root: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        ReadableImages([root], lambda number: [], USER, tmp_path / "r", lambda number: False, print)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "r", tmp_path / "r" / "images")] == [0o700, 0o755]


def test_a_caller_whose_workers_are_the_caller_copies_nothing(root: Path, tmp_path: Path) -> None:
    shard = images(root, "secret.png")
    seen = ReadableImages([root], lambda number: shard, None, tmp_path / "x", lambda number: False, print)
    assert (seen.roots, seen.images_of(0)) == ([root], shard)
    assert not (tmp_path / "x").exists()


def test_a_disk_without_room_for_copies_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = images(root, "secret.png")
    seen = ReadableImages([root], lambda number: shard, USER, tmp_path / "x", lambda number: False, lambda line: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(MachineError, match="not enough disk space for copies") as caught:
        seen.images_of(0)
    assert "chmod -R o+rX" in str(caught.value.hint)


def test_weights_are_copied_where_the_worker_cannot_read_them(root: Path, tmp_path: Path) -> None:
    said = list[str]()
    assert readable_weights(root, None, tmp_path / "r", said.append) == root
    copy = readable_weights(root, USER, tmp_path / "r", said.append)
    assert copy == tmp_path / "r" / "weights"
    assert sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()) == [
        "closed/below/a.png", "open.png", "secret.png"
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o005 for path in copy.rglob("*.png")} == {0o004}
    assert said == [f"workers run as uid {NOBODY}, who cannot read {root}: using a copy"]
    (root / "closed").chmod(0o755)
    (root / "secret.png").chmod(0o644)
    assert readable_weights(root, USER, tmp_path / "other", said.append) == root


@needs_root
def test_a_cache_belongs_to_its_workers_and_one_of_others_is_refused(tmp_path: Path) -> None:
    ensure_worker_cache(tmp_path / "c" / "mine", USER)
    ensure_worker_cache(tmp_path / "c" / "mine", USER)
    found = (tmp_path / "c" / "mine").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (*USER, 0o700)
    (tmp_path / "c" / "link").symlink_to(tmp_path / "c" / "mine")
    (tmp_path / "c" / "roots").mkdir()
    for name in ("link", "roots"):
        with pytest.raises(MachineError, match="workers cannot use the cache"):
            ensure_worker_cache(tmp_path / "c" / name, USER)
    assert (tmp_path / "c" / "roots").stat().st_uid == 0
