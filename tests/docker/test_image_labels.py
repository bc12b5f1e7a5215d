"""An image for GPUs is labelled with what its binaries run on, and from then on the labels decide.

The framework inside is a shared object made by hand; the image, the program that reads it and the labels are real.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from orchestrator.catalog.loader import StackEntry
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.built import apply_gpu_code
from orchestrator.runtimes.docker.runtime import DockerRuntime
from orchestrator.system.container_engine import connect
from tests.fatbins import NATIVE, PTX, elf, fatbin
from tests.unit.stack_samples import MINIMAL, stack_entry

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("orch_home")]
DOCKERFILE = """ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ENV PYTHONPATH=/opt/orch/runner:/opt/orch/stack/site
COPY runner /opt/orch/runner
COPY stack /opt/orch/stack
ENTRYPOINT []
"""
CUDA = {**MINIMAL["variants"]["cpu"], "device": "cuda", "cuda": "10.2", "native_capabilities": ["8.0"]}


def stack(folder: Path) -> StackEntry:
    # A name of its own: other tests may be building the same at the same engine.
    name = f"labels-{secrets.token_hex(4)}"
    entry = stack_entry(folder, stack=name, variants={"cuda": CUDA, "cpu": MINIMAL["variants"]["cpu"]})
    (folder / "tiny.Dockerfile").write_text(DOCKERFILE)
    library = folder / "site" / "torch" / "lib" / "libtorch_cuda.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(elf({".nv_fatbin": fatbin((NATIVE, 70), (NATIVE, 75), (PTX, 75))}))
    (folder / "site" / "torch" / "__init__.py").touch()
    (folder / "site" / "torch" / "version.py").write_text("cuda = '10.2'\n")
    return entry


def test_an_image_for_gpus_says_what_it_runs_on(tmp_path: Path) -> None:
    entry, runtime, engine = stack(tmp_path / "stack"), DockerRuntime(), connect()
    said: list[str] = []
    prepared = runtime.prepare(entry, "cuda", BuildOptions(), said.append)
    try:
        image = engine.client.images.get(prepared.location)
        assert image.id == prepared.digest
        labels = {name: value for name, value in image.labels.items() if name.startswith("org.orch.")}
        assert {name: labels[f"org.orch.{name}"] for name in ("stack", "frameworks", "cuda", "native", "ptx")} == {
            "stack": entry.name, "frameworks": "torch=unknown", "cuda": "10.2", "native": "7.0 7.5", "ptx": "7.5",
        }  # fmt: skip
        built = apply_gpu_code(entry).spec.variants["cuda"]
        assert (built.native_capabilities, built.ptx_capabilities) == (("7.0", "7.5"), ("7.5",))
        again = runtime.prepare(entry, "cuda", BuildOptions(), said.append)
        assert (again.digest, again.fresh) == (prepared.digest, False)
        # The image before its labels is not left behind without a name.
        own = {"dangling": True, "label": f"org.orch.stack={entry.name}"}
        assert engine.client.images.list(filters=own) == []
    finally:
        engine.client.images.remove(prepared.location)


def test_an_image_whose_code_cannot_be_read_is_built_all_the_same(tmp_path: Path) -> None:
    entry, engine = stack(tmp_path / "stack"), connect()
    (tmp_path / "stack" / "tiny.Dockerfile").write_text(DOCKERFILE.replace("/opt/orch/runner:", ""))
    said: list[str] = []
    prepared = DockerRuntime().prepare(entry, "cuda", BuildOptions(), said.append)
    try:
        assert said[-1].startswith("cannot read what its GPU code runs on; the lists in stack.yaml are used")
        assert "org.orch.native" not in engine.client.images.get(prepared.location).labels
        assert apply_gpu_code(entry) is entry
    finally:
        engine.client.images.remove(prepared.location)
