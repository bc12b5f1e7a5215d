"""All three ways a GPU gets into a container, on real engines with fake wirings: no GPU and no NVIDIA software is here.

What is real: the engines, what they report of themselves, the way chosen by that, the containers. What is made up: a
hook that does nothing, a runtime called nvidia that is runc, a CDI specification whose GPU is a variable and /dev/null.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.errors import MachineError
from orchestrator.runtimes.base import Prepared, WorkerSpec
from orchestrator.runtimes.docker.gpu_access import HOOK, GpuAccess, detect_gpu_access, gpu_settings
from orchestrator.runtimes.docker.runtime import DockerWorker, container_settings
from orchestrator.system.container_engine import Engine
from tests.docker.private_engine import private_engine, why_not

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    # The SDK keeps a connection for each stream of a container, and lets go of it some time later.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
IMAGE = "orch-test-shell:1"
UUID = "GPU-8a9f1c2e-0000-0000-0000-000000000001"
NAMES = ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "FAKE_GPU")
LOOK = "; ".join([*(f'echo "{name}=${name}"' for name in NAMES), "[ -e /dev/nvidia-fake ] && echo device", "exit 0"])


@pytest.fixture(scope="module")
def image() -> bytes:
    """This machine's shell and the libraries it needs, as the file system of an image: nothing has to be built."""
    linked = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", dereference=True) as archive:
        for file in ("/bin/sh", *re.findall(r"/\S+", linked)):
            archive.add(file)
    return content.getvalue()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for an engine; short, because a socket's path may not be long."""
    place = tmp_path_factory.mktemp("e")
    yield place
    shutil.rmtree(place, ignore_errors=True)


def shown(engine: Engine, image: bytes, folder: Path, device: str) -> dict[str, str]:
    """What a worker's container, with all its real settings, sees: those variables that are set, and the device."""
    if not engine.client.images.list(name=IMAGE):
        name, _, tag = IMAGE.partition(":")
        engine.client.api.import_image_from_data(image, repository=name, tag=tag)
    for name in ("job", "data", "weights", "out", "cache"):
        (folder / name).mkdir(exist_ok=True)
    spec = WorkerSpec("run1", "w0", folder / "job", folder / "data", [], folder / "weights", folder / "out",
                      folder / "cache", folder / "w0.log", 1, device)  # fmt: skip
    prepared = Prepared(load_catalog().stack("facere"), "cuda", "docker", "0", IMAGE)
    gpu = gpu_settings(detect_gpu_access(engine), device)
    settings = container_settings(prepared, spec, engine.security, (os.getuid(), os.getgid()), gpu)
    worker = DockerWorker(engine, spec, {**settings, "command": ["/bin/sh", "-c", LOOK]})
    try:
        lines = [line.decode().partition("=") for line in worker.lines()]
        assert worker.wait().code == 0, spec.log.read_text()
    finally:
        worker.close()
    return {name: value for name, equals, value in lines if value or not equals}


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_by_gpus_and_by_the_nvidia_runtime(image: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine that has both; what this process sees of the hook decides."""
    hook, log = script(folder / "bin" / HOOK, "exit 0"), folder / "called"
    runtime = script(folder / "nvidia", f'echo called >>{log}\nexec {shutil.which("runc")} "$@"')
    settings = {"runtimes": {"nvidia": {"path": str(runtime)}}}
    with private_engine(folder, settings, (hook.parent,)) as engine:
        assert detect_gpu_access(engine) == GpuAccess(hook=False, runtime=True)
        assert shown(engine, image, folder, "cpu") == {"NVIDIA_VISIBLE_DEVICES": "void"}
        assert not log.exists()
        assert shown(engine, image, folder, f"cuda:{UUID}") == {"NVIDIA_VISIBLE_DEVICES": UUID}
        assert log.exists()
        log.unlink()
        monkeypatch.setenv("PATH", str(hook.parent), prepend=":")
        assert detect_gpu_access(engine).method() == "--gpus"
        assert shown(engine, image, folder, f"cuda:{UUID}") == {"NVIDIA_VISIBLE_DEVICES": UUID}
        assert shown(engine, image, folder, "cpu") == {"NVIDIA_VISIBLE_DEVICES": "void"}
        assert not log.exists()


def test_an_engine_with_no_way_is_refused_before_it_is_asked(folder: Path) -> None:
    with private_engine(folder) as engine:
        with pytest.raises(MachineError, match="the engine gives its containers no GPU") as caught:
            gpu_settings(detect_gpu_access(engine), f"cuda:{UUID}")
        assert caught.value.exit_code == 4
        assert "no runtime called nvidia" in str(caught.value.why)


CDI_ENGINE = os.environ.get("ORCH_TEST_CDI_ENGINE")
SPECIFICATION = {
    "cdiVersion": "0.6.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {
            "name": name,
            "containerEdits": {
                "env": [f"FAKE_GPU={name}"],
                "deviceNodes": [{"path": "/dev/nvidia-fake", "hostPath": "/dev/null"}],
            },
        }
        for name in ("0", UUID, "all")
    ],
}


@pytest.mark.skipif(CDI_ENGINE is None, reason="ORCH_TEST_CDI_ENGINE names no engine that knows CDI")
def test_by_cdi_where_the_engine_knows_devices(image: bytes, folder: Path) -> None:
    specifications = folder / "cdi"
    specifications.mkdir()
    (specifications / "nvidia.json").write_text(json.dumps(SPECIFICATION))
    settings = {"features": {"cdi": True}, "cdi-spec-dirs": [str(specifications)]}
    programs = Path(str(CDI_ENGINE))
    with private_engine(folder, settings, (programs / "usr/sbin", programs / "usr/bin")) as engine:
        assert detect_gpu_access(engine).cdi == ("0", UUID, "all")
        void = {"NVIDIA_VISIBLE_DEVICES": "void"}
        assert shown(engine, image, folder, f"cuda:{UUID}") == {**void, "FAKE_GPU": UUID, "device": ""}
        other = "GPU-of-no-specification"
        narrowed = {**void, "FAKE_GPU": "all", "CUDA_VISIBLE_DEVICES": other, "device": ""}
        assert shown(engine, image, folder, f"cuda:{other}") == narrowed
        assert shown(engine, image, folder, "cpu") == void
