"""The apptainer runtime's command lines, compared whole, and what becomes of them with a stand-in for the command."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
import textwrap
from pathlib import Path, PurePosixPath

import pytest

from orchestrator.errors import BuildError, MachineError, UsageError
from orchestrator.paths import build_logs_folder, images_folder
from orchestrator.runtimes import apptainer
from orchestrator.runtimes.apptainer import ApptainerRuntime, build_command, exec_command, find_command, sif_path
from orchestrator.runtimes.base import BuildOptions, Exit, Prepared, WorkerSpec
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.guest_contract import GuestPaths
from tests.unit.runtimes.test_docker import SPEC
from tests.unit.stack_samples import stack_entry

VARIABLES = [
    "OMP_NUM_THREADS=3", "OPENBLAS_NUM_THREADS=3", "MKL_NUM_THREADS=3", "NUMEXPR_NUM_THREADS=3",
    "OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=0",
    "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "PYTHONNOUSERSITE=1",
    "HOME=/tmp/home", "XDG_CACHE_HOME=/cache/xdg", "MPLCONFIGDIR=/cache/matplotlib",
    "NUMBA_CACHE_DIR=/cache/numba", "TORCH_HOME=/cache/torch",
    "CUDA_CACHE_PATH=/cache/cuda", "CUDA_CACHE_MAXSIZE=4294967296",
    "USER=orch", "LOGNAME=orch",
]  # fmt: skip
BINDS = [
    "--bind", "/r/jobs/w0:/job:ro", "--bind", "/h/weights:/weights:ro", "--bind", "/r/shards:/out:rw",
    "--bind", "/h/cache:/cache:rw", "--bind", "/p a:/data/0:ro", "--bind", "/q:/data/1:ro", "--bind", "/t:/tmp:rw",
]  # fmt: skip


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(stack_entry(tmp_path / "stack"), "cpu", "apptainer", "0123456789ab", "/images/tiny.sif")


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is remembered of the machine from one test to the next, and no GPU is the caller's."""
    for remembered in (apptainer.find_command, apptainer.can_isolate_network):
        remembered.cache_clear()
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ORCH_BASE_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCH_IMAGES", str(tmp_path / "images"))


def command(prepared: Prepared, spec: WorkerSpec = SPEC, *, network: bool = False, root: bool = False) -> list[str]:
    return exec_command("apptainer", prepared, spec, Path("/t"), network=network, root=root)


def test_a_worker_is_contained(prepared: Prepared) -> None:
    assert command(prepared) == [
        "apptainer", "exec", "--containall", "--no-home", "--cleanenv", "--pwd", "/tmp", "--net", "--network", "none",
        *BINDS, "/images/tiny.sif", "env", *VARIABLES, "python", "-m", "orch_runner", "/job/job.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("device", "caller", "shown"),
    [
        ("cuda", None, []),
        ("cuda", "3", ["CUDA_VISIBLE_DEVICES=3", "CUDA_DEVICE_ORDER=PCI_BUS_ID"]),
        ("cuda", "GPU-a", ["CUDA_VISIBLE_DEVICES=GPU-a"]),
        ("cuda:2", "3", ["CUDA_VISIBLE_DEVICES=2", "CUDA_DEVICE_ORDER=PCI_BUS_ID"]),
        ("cuda:GPU-b", "3", ["CUDA_VISIBLE_DEVICES=GPU-b"]),
    ],
)  # fmt: skip
def test_a_worker_sees_its_gpu(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, device: str, caller: str | None, shown: list[str]
) -> None:
    if caller is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", caller)
    spec = WorkerSpec(**{**SPEC.__dict__, "device": device})
    assert command(prepared, spec) == [
        "apptainer", "exec", "--containall", "--no-home", "--cleanenv", "--pwd", "/tmp", "--net", "--network", "none",
        "--nv", *BINDS, "/images/tiny.sif", "env", *VARIABLES, *shown, "python", "-m", "orch_runner", "/job/job.json",
    ]  # fmt: skip


def test_root_gives_up_its_privileges_and_the_network_stays_where_it_must(prepared: Prepared) -> None:
    assert command(prepared, network=True, root=True)[:12] == [
        "apptainer", "exec", "--containall", "--no-home", "--cleanenv", "--pwd", "/tmp", "--no-privs",
        "--security", "uid:65534", "--security", "gid:65534",
    ]  # fmt: skip
    assert "--net" not in command(prepared, network=True)


@pytest.mark.parametrize("folder", ["/a:b", "/a,b"])
def test_a_folder_whose_name_apptainer_would_take_apart_is_refused(prepared: Prepared, folder: str) -> None:
    with pytest.raises(UsageError, match="Apptainer cannot mount"):
        command(prepared, WorkerSpec(**{**SPEC.__dict__, "roots": [Path(folder)]}))


def test_the_guest_sees_the_names_of_all_images(prepared: Prepared) -> None:
    assert ApptainerRuntime().guest_paths(prepared, SPEC) == GuestPaths(
        *(PurePosixPath(path) for path in ("/data", "/weights", "/out", "/cache", "/job/queue", "/opt/orch/stack"))
    )


def test_a_sif_file_is_made_from_an_archive() -> None:
    assert build_command("apptainer", Path("/i/a.tar.gz"), Path("/i/a.sif")) == [
        "apptainer", "build", "--force", "/i/a.sif", "docker-archive:///i/a.tar.gz"
    ]  # fmt: skip


# --- with a stand-in for the command

STAND_IN = """\
#!{python}
import json, os, sys
here = os.path.dirname(os.path.abspath(sys.argv[0]))
with open(os.path.join(here, "calls"), "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "--version":
    print({version!r})
elif sys.argv[1] == "build":
    open(sys.argv[3], "w").write("sif of " + sys.argv[4]) if not {failing!r} else sys.exit("no space")
elif "--net" in sys.argv and {networked!r}:
    sys.exit(255)
elif sys.argv[-1] != "true":
    print("ran", flush=True)
"""


def stand_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "apptainer", version: str = "apptainer version 1.3.4",
    *, failing: bool = False, networked: bool = False,
) -> Path:  # fmt: skip
    """A command of that name on the PATH; gives the file with its calls."""
    folder.mkdir(exist_ok=True)
    text = STAND_IN.format(python=sys.executable, version=version, failing=failing, networked=networked)
    (folder / name).write_text(textwrap.dedent(text))
    (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "calls"


def calls(file: Path) -> list[list[str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("apptainer", "apptainer version 1.3.4", None),
        ("singularity", "singularity-ce version 4.1.2-1.el9", None),
        ("singularity", "singularity version 3.8.7", None),
        ("singularity", "singularity version 3.7.4", "is too old (it is singularity version 3.7.4; 3.8 is the oldest"),
        ("podman", "", "cannot find Apptainer (neither apptainer nor singularity is on the PATH)"),
    ],
)  # fmt: skip
def test_which_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, reason: str | None
) -> None:
    stand_in(tmp_path / "bin", monkeypatch, name, version)
    found = ApptainerRuntime().unavailable_reason()
    assert found is None if reason is None else reason in str(found)
    if reason is None:
        assert find_command().command == str(tmp_path / "bin" / name)


def test_a_sif_file_is_made_once_and_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand_in(tmp_path / "bin", monkeypatch)
    stack = stack_entry(tmp_path / "stack")
    inputs = build_inputs(stack, "cpu", BuildOptions())
    images_folder().mkdir()
    archive = images_folder() / f"tiny-cpu-{inputs.identity}.tar.gz"
    archive.touch()
    said: list[str] = []
    first = ApptainerRuntime().prepare(stack, "cpu", BuildOptions(), said.append)
    again = ApptainerRuntime().prepare(stack, "cpu", BuildOptions(), said.append)
    assert (first.fresh, again.fresh, first.runtime, first.identity) == (True, False, "apptainer", inputs.identity)
    assert first.location == str(sif_path(inputs)) == str(images_folder() / f"tiny-cpu-{inputs.identity}.sif")
    assert Path(first.location).read_text() == f"sif of docker-archive://{archive}"
    assert [call[0] for call in calls(made)] == ["--version", "build", "exec"]
    assert said == [f"making {first.location} from {archive}"]
    assert {path.suffix for path in images_folder().iterdir()} == {".sif", ".gz", ".lock"}


def test_a_sif_file_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "bin", monkeypatch, failing=True)
    stack = stack_entry(tmp_path / "stack")
    images_folder().mkdir()
    (images_folder() / f"tiny-cpu-{build_inputs(stack, 'cpu', BuildOptions()).identity}.tar.gz").touch()
    with pytest.raises(BuildError, match=r"cannot make .* \(exit 1\)") as caught:
        ApptainerRuntime().prepare(stack, "cpu", BuildOptions(), lambda line: None)
    assert caught.value.why == "no space"
    assert "no space" in next(build_logs_folder().glob("*-sif.log")).read_text()
    assert {path.suffix for path in images_folder().iterdir()} == {".gz", ".lock"}


def test_without_an_archive_and_an_engine_it_is_said_where_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect() -> None:
        raise MachineError("no container engine answers")

    stand_in(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(apptainer, "connect", connect)
    with pytest.raises(MachineError, match="no archive of the image tiny-cpu-") as caught:
        ApptainerRuntime().prepare(stack_entry(tmp_path / "stack"), "cpu", BuildOptions(), lambda line: None)
    assert "orch build tiny --variant cpu --archive; then copy the file" in str(caught.value.hint)


@pytest.mark.parametrize("networked", [False, True])
def test_a_worker_has_a_folder_of_its_own_while_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: Prepared, networked: bool
) -> None:
    made = stand_in(tmp_path / "bin", monkeypatch, networked=networked)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("APPTAINER_BIND", "/etc")
    job = tmp_path / "jobs" / "w0"
    job.mkdir(parents=True)
    spec = WorkerSpec(**{**SPEC.__dict__, "job": job, "log": tmp_path / "w0.log"})
    worker = ApptainerRuntime().start(prepared, spec)
    (scratch,) = tmp_path.glob("orch-run1-w0-abc01-*")
    assert (scratch / "home").is_dir(), "what HOME says"
    owner = ApptainerRuntime().worker_owner() or (os.getuid(), os.getgid())
    for folder in (scratch, scratch / "home"):
        assert (folder.stat().st_uid, folder.stat().st_gid) == owner
    assert list(worker.lines()) == [b"ran"]
    assert worker.wait() == Exit(0)
    worker.close()
    assert not scratch.exists()
    own = exec_command("", prepared, spec, scratch, network=networked, root=os.getuid() == 0)
    assert calls(made)[-1] == own[1:]
    assert "APPTAINER_BIND" not in apptainer.caller_environment(), "a caller's binds are none of a worker's"
    assert ApptainerRuntime().reap("run1", tmp_path / "jobs") == 0
