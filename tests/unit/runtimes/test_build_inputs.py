"""What goes into a build, and that its identity changes exactly when that changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.catalog.loader import StackEntry
from orchestrator.errors import SpecError, UsageError
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.system.files import write_text
from tests.unit.stack_samples import MINIMAL, stack_entry


def identity(stack: StackEntry, options: BuildOptions | None = None) -> str:
    return build_inputs(stack, "cpu", options or BuildOptions()).identity


def test_the_content_of_a_build(tmp_path: Path) -> None:
    stack = stack_entry(tmp_path / "s")
    inputs = build_inputs(stack, "cpu", BuildOptions())
    assert inputs.arguments == {"BASE_IMAGE": "python:3.11-slim"}
    assert inputs.files["stack/predictor.py"] == tmp_path / "s" / "predictor.py"
    assert {"runner/orch_runner/__main__.py", "runner/orch_runner/worker.py"} <= set(inputs.files)
    assert not any("__pycache__" in name for name in inputs.files)
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "net.py").write_text("code")
    inputs.write_context(tmp_path, {"up": tmp_path / "tree"})
    assert (tmp_path / "sources" / "up" / "deep" / "net.py").read_text() == "code"
    assert (tmp_path / "requirements.lock").read_bytes() == stack.folder.joinpath("cpu.lock").read_bytes()
    assert (tmp_path / "Dockerfile").read_bytes() == stack.dockerfile.read_bytes()
    for name, path in inputs.files.items():
        assert (tmp_path / name).read_bytes() == path.read_bytes()


def test_options_change_the_arguments(tmp_path: Path) -> None:
    stack = stack_entry(tmp_path)
    options = BuildOptions(base_image="debian:12", build_args={"JOBS": "4"})
    assert build_inputs(stack, "cpu", options).arguments == {"BASE_IMAGE": "debian:12", "JOBS": "4"}
    assert len({identity(stack), identity(stack, options), identity(stack, BuildOptions(base_image="debian:12"))}) == 3
    assert identity(stack, BuildOptions(rebuild=True, offline=True)) == identity(stack)


def built_with(folder: Path) -> StackEntry:
    """A stack with a source distribution to build, and an argument that the user has to give."""
    (folder / "build.lock").parent.mkdir(parents=True, exist_ok=True)
    (folder / "build.lock").write_text("setuptools==1\n")
    arguments = {"JOBS": {"default": "2", "help": "how many"}, "INDEX": {"help": "where from"}}
    variant = {**MINIMAL["variants"]["cpu"], "build_lock": "build.lock", "build_args": arguments}
    return stack_entry(folder, variants={"cpu": variant})


def test_what_source_distributions_are_built_with_is_part_of_the_build(tmp_path: Path) -> None:
    stack = built_with(tmp_path)
    options = BuildOptions(build_args={"INDEX": "https://x.org"})
    inputs = build_inputs(stack, "cpu", options)
    assert inputs.files["build.lock"] == tmp_path / "build.lock"
    assert inputs.arguments == {"BASE_IMAGE": "python:3.11-slim", "JOBS": "2", "INDEX": "https://x.org"}
    before = inputs.identity
    (tmp_path / "build.lock").write_text("setuptools==2\n")
    assert build_inputs(stack, "cpu", options).identity != before
    (tmp_path / "build.lock").unlink()
    with pytest.raises(SpecError, match=r"variants.cpu.build_lock: no file build.lock"):
        build_inputs(stack, "cpu", options)


def test_an_argument_without_a_default_has_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot build the variant .* without INDEX") as caught:
        build_inputs(built_with(tmp_path), "cpu", BuildOptions(build_args={"JOBS": "4"}))
    assert caught.value.why == "where from"
    assert caught.value.hint == "orch build tiny --variant cpu --build-arg INDEX=…"


CHANGES: dict[str, Callable[[Path], object]] = {
    "the Dockerfile": lambda folder: (folder / "tiny.Dockerfile").write_text("FROM x\n"),
    "the lock": lambda folder: (folder / "cpu.lock").write_text("numpy==2.0.1\n"),
    "the predictor": lambda folder: (folder / "predictor.py").write_text("class Predictor: ...\n"),
    "a configuration": lambda folder: (folder / "model.json").write_text("{}"),
    "another module": lambda folder: (folder / "helper.py").write_text(""),
}
NO_CHANGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda folder: write_text(folder / "weights" / "x.py", ""),
    "a note": lambda folder: (folder / "README.md").write_text("x"),
    "times": lambda folder: (folder / "predictor.py").touch(),
    "caches": lambda folder: write_text(folder / "__pycache__" / "x.py", ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_identity_follows_the_content(tmp_path: Path, change: str) -> None:
    stack = stack_entry(tmp_path)
    before = identity(stack)
    CHANGES[change](tmp_path)
    assert identity(stack) != before


@pytest.mark.parametrize("change", NO_CHANGES)
def test_the_identity_ignores_the_rest(tmp_path: Path, change: str) -> None:
    stack = stack_entry(tmp_path)
    before = identity(stack)
    assert re.fullmatch("[0-9a-f]{12}", before)
    NO_CHANGES[change](tmp_path)
    assert identity(stack) == before


def test_the_identity_is_the_same_for_the_same_content_elsewhere(tmp_path: Path) -> None:
    assert identity(stack_entry(tmp_path / "a")) == identity(stack_entry(tmp_path / "b"))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    stack = stack_entry(tmp_path)
    with pytest.raises(UsageError, match="tiny has no variant 'cu1'") as caught:
        build_inputs(stack, "cu1", BuildOptions())
    assert caught.value.why == "it has cpu"
    (tmp_path / "cpu.lock").unlink()
    with pytest.raises(SpecError, match=r"stack\.yaml: variants\.cpu\.lock: no file cpu\.lock"):
        identity(stack)
