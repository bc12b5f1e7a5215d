"""Image archives on a real engine, and a run by Apptainer's command lines with a stand-in that hands them to Docker."""

from __future__ import annotations

import gzip
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator import Predictions
from orchestrator.catalog.loader import load_catalog
from orchestrator.errors import MachineError, UsageError
from orchestrator.paths import images_folder, worker_cache_folder
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes import apptainer
from orchestrator.runtimes.base import BuildOptions, Prepared
from orchestrator.runtimes.build_inputs import BuildInputs, image_inputs
from orchestrator.runtimes.registry import get_runtime
from orchestrator.system.container_engine import connect
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.run import run_model
from tests.conformance.pictures import photograph

pytestmark = pytest.mark.docker
STACKS = Path(__file__).parent.parent / "stacks"
OWN = {"IMAGE_OF": "test_image_archives"}
"""A build argument no other test gives, so that this file may remove the image."""


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "orch-home"))
    monkeypatch.delenv("ORCH_IMAGES", raising=False)
    base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE")
    if base:
        monkeypatch.setenv("ORCH_BASE_IMAGE", base)


def faulty() -> Any:
    return load_catalog([STACKS]).model("faulty")


@pytest.fixture
def inputs() -> BuildInputs:
    return image_inputs(faulty().stack, "cpu", BuildOptions(build_args=OWN))


@pytest.fixture
def prepared(inputs: BuildInputs) -> Iterator[Prepared]:
    """The stack's image, of this file alone; removed in the end."""
    yield get_runtime("docker").prepare(faulty().stack, "cpu", BuildOptions(build_args=OWN), lambda line: None)
    connect().client.images.remove(inputs.image_tag, force=True)


def test_an_image_comes_back_from_its_archive_without_being_built(prepared: Prepared, inputs: BuildInputs) -> None:
    options, said = BuildOptions(build_args=OWN, offline=True), list[str]()
    path = get_runtime("docker").archive(prepared, options, said.append, None)
    assert path == images_folder() / f"faulty-cpu-{inputs.identity}.tar.gz"
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert said == [f"writing {path}"]
    assert get_runtime("docker").archive(prepared, options, said.append, None) == path
    assert said == [f"writing {path}"], "an archive that is there is left alone"
    connect().client.images.remove(inputs.image_tag, force=True)
    again = get_runtime("docker").prepare(faulty().stack, "cpu", options, said.append)
    assert (again.digest, again.fresh) == (prepared.digest, False)
    assert said[1:] == [f"loading {path}"]
    assert get_runtime("docker").prepare(faulty().stack, "cpu", options, said.append).digest == prepared.digest
    assert said[2:] == []


def test_an_archive_goes_where_it_is_wanted_and_only_for_images(prepared: Prepared, tmp_path: Path) -> None:
    path = get_runtime("docker").archive(prepared, BuildOptions(build_args=OWN), lambda line: None, tmp_path / "share")
    assert [one.name for one in (tmp_path / "share").iterdir()] == [path.name]
    other = Prepared(prepared.stack, "cpu", "venv", prepared.identity, "/envs/e")
    with pytest.raises(UsageError, match="has no images to archive"):
        get_runtime("venv").archive(other, BuildOptions(), lambda line: None, None)


def test_an_archive_of_something_else_is_refused(prepared: Prepared, inputs: BuildInputs) -> None:
    path = get_runtime("docker").archive(prepared, BuildOptions(build_args=OWN), lambda line: None, None)
    other = image_inputs(faulty().stack, "cpu", BuildOptions(build_args={"IMAGE_OF": "nobody"}))
    forged = path.rename(images_folder() / f"faulty-cpu-{other.identity}.tar.gz")
    with pytest.raises(MachineError, match="does not hold the image orch/faulty:cpu-") as caught:
        get_runtime("docker").prepare(
            faulty().stack, "cpu", BuildOptions(build_args={"IMAGE_OF": "nobody"}), lambda line: None
        )
    assert caught.value.why == "it holds no image of that name"
    forged.write_bytes(gzip.compress(b"not an archive"))
    with pytest.raises(MachineError, match="cannot load the archive"):
        get_runtime("docker").prepare(
            faulty().stack, "cpu", BuildOptions(build_args={"IMAGE_OF": "nobody"}), lambda line: None
        )


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command `apptainer` is the stand-in."""
    command = tmp_path / "bin" / "apptainer"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("apptainer_stand_in.py")} "$@"\n')
    command.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    for remembered in (apptainer.find_command, apptainer.can_isolate_network):
        remembered.cache_clear()


@pytest.mark.usefixtures("stand_in")
def test_a_run_by_apptainers_command_lines_predicts_what_docker_does(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        Image.fromarray(photograph(60 + number)).save(images / f"{number:02}.png")
    (images / "broken.jpg").write_text("no picture")
    found: dict[str, Predictions] = {}
    for runtime in ("docker", "apptainer"):
        options = RunOptions(
            images=[str(images)], out=tmp_path / runtime, runtime=runtime, settings=["report=facts.json"],
            shard_size=4, workers=2, threads=3,
        )  # fmt: skip
        outcome = run_model(faulty(), options, SilentDisplay())
        assert (outcome.failed, outcome.summary["runtime"]) == (1, runtime)
        found[runtime] = Predictions.load(outcome.paths.predictions)
        owner = get_runtime(runtime).worker_owner()
        facts = worker_cache_folder("faulty", "cpu", owner) / "facts.json"
        assert '"home": "/tmp/home"' in facts.read_text()
        assert '"interfaces": ["lo"]' in facts.read_text()
        assert '"root_writable": false, "data_writable": false, "job_writable": false' in facts.read_text()
        assert facts.stat().st_uid == (os.getuid() if owner is None else owner[0])
        assert owner == ((65534, 65534) if os.getuid() == 0 else None)
        facts.unlink()
    for ours, theirs in zip(found["apptainer"], found["docker"], strict=True):
        assert str(ours) == str(theirs)
    (sif,) = images_folder().glob("*.sif")
    assert sif.with_suffix(".tar.gz").is_file(), "the archive it was made from stays"


@pytest.mark.usefixtures("stand_in")
def test_a_killed_worker_is_replaced_and_a_run_goes_on_with_what_was_done(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(8):
        Image.fromarray(photograph(60 + number)).save(images / f"{number:02}.png")
    options = RunOptions(
        images=[str(images)], out=tmp_path / "out", runtime="apptainer", settings=["die_once=03.png"], shard_size=4
    )
    outcome = run_model(faulty(), options, SilentDisplay())
    assert (outcome.failed, outcome.summary["lost_workers"]) == (0, 1)
