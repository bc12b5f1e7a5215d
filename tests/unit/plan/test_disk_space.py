"""Disk preflight: what is counted on which disk, and that a refusal comes before anything is fetched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.cli import main
from orchestrator.errors import MachineError
from orchestrator.paths import environments_folder, weights_folder
from orchestrator.plan.disk_space import build_needs, output_need, weights_needs
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.docker import runtime as docker_module
from orchestrator.runtimes.docker.build import InspectedImage
from orchestrator.runtimes.environments import environment_folder, is_complete
from orchestrator.runtimes.registry import get_runtime
from orchestrator.system.free_space import GB, RESERVE, Need, require_space
from tests.unit.conftest import MakePhoto
from tests.unit.stack_samples import MINIMAL, stack_document, write_stack

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The free bytes that every disk is made to have."""
    there = {"bytes": 0}
    monkeypatch.setattr(
        "orchestrator.system.free_space.shutil.disk_usage", lambda folder: SimpleNamespace(free=there["bytes"])
    )
    return there


def test_all_that_goes_to_one_disk_must_fit_together(tmp_path: Path, free: dict[str, int]) -> None:
    needs = [Need(tmp_path / "a" / "b", 2 * GB, "an image"), Need(tmp_path, GB, "weights w.pth")]
    free["bytes"] = 3 * GB + RESERVE
    require_space(needs, "m")
    free["bytes"] -= 1
    with pytest.raises(MachineError) as caught:
        require_space(needs, "m")
    error = caught.value
    assert (error.exit_code, error.message) == (4, "not enough disk space for m")
    listed = "3.2 GB needed (an image 2.0 GB, weights w.pth 1.0 GB, and 0.25 GB to spare), 3.2 GB free"
    assert error.why == f"{tmp_path}: {listed}"
    assert error.hint is not None
    assert "orch prune" in error.hint
    assert "ORCH_SKIP_DISK_CHECK=1" in error.hint


def test_each_disk_is_counted_for_itself(monkeypatch: pytest.MonkeyPatch, free: dict[str, int]) -> None:
    free["bytes"] = 2 * GB
    needs = [Need(Path("/dev/shm"), GB, "one"), Need(Path("/proc"), GB, "other")]
    require_space(needs, "m")
    with pytest.raises(MachineError) as caught:
        require_space([*needs, Need(Path("/proc"), GB, "third")], "m")
    assert caught.value.why is not None
    assert caught.value.why.startswith("/proc: ")


def test_nothing_to_write_needs_nothing_and_the_check_can_be_left_out(
    tmp_path: Path, free: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_space([Need(tmp_path, 0, "nothing")], "m")
    monkeypatch.setenv("ORCH_SKIP_DISK_CHECK", "1")
    require_space([Need(tmp_path, GB, "much")], "m")


def test_what_an_environment_takes_is_declared_or_guessed(tmp_path: Path) -> None:
    variant = MINIMAL["variants"]["cpu"]
    sizes = {"declared": {**variant, "size_gb": 2.5}, "small": variant}
    cuda = {**variant, "device": "cuda", "cuda": "12.1"}
    write_stack(tmp_path / "tiny", stack_document(variants={**sizes, "large": cuda}))
    stack, venv = load_catalog([tmp_path]).stacks["tiny"], get_runtime("venv")
    (declared,) = build_needs(stack, "declared", venv, BuildOptions())
    assert declared == Need(environments_folder(), 2_500_000_000, "building tiny/declared")
    (small,) = build_needs(stack, "small", venv, BuildOptions())
    (large,) = build_needs(stack, "large", venv, BuildOptions())
    assert (small.bytes, large.bytes) == (GB, 6 * GB)
    assert small.what.endswith("a guess: its stack.yaml has no size_gb")


def test_an_environment_that_is_there_takes_nothing_unless_it_is_rebuilt() -> None:
    stack, venv = load_catalog().stacks["garments"], get_runtime("venv")
    spec = stack.spec.variants["cpu"]
    folder = environment_folder("garments-cpu", stack.folder / spec.lock, (spec.python, *spec.also_python))
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    (folder / "orch-environment.json").write_text("{}")
    assert is_complete(folder)
    assert list(build_needs(stack, "cpu", venv, BuildOptions())) == []
    assert len(list(build_needs(stack, "cpu", venv, BuildOptions(rebuild=True)))) == 1


@pytest.mark.parametrize(
    ("url", "has_image", "root", "expected"),
    [
        ("unix:///var/run/docker.sock", False, "HERE", "HERE"),
        ("unix:///var/run/docker.sock", True, "HERE", None),
        ("unix:///var/run/docker.sock", False, "/only/in/a/virtual/machine", None),
        ("tcp://elsewhere:2376", False, "HERE", None),
    ],
)
def test_images_go_to_the_engines_data_root_where_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, has_image: bool, root: str, expected: str | None
) -> None:
    info = {"DockerRootDir": str(tmp_path) if root == "HERE" else root}
    monkeypatch.setattr(docker_module, "connect", lambda: SimpleNamespace(url=url, info=info))
    image = InspectedImage("sha256:1", {}) if has_image else None
    monkeypatch.setattr(docker_module, "inspect_image", lambda engine, tag: image)
    stack = load_catalog().stacks["garments"]
    location = get_runtime("docker").locate(stack, "cpu", BuildOptions())
    assert (location.is_built, location.fill_folder) == (has_image, tmp_path if expected else None)
    if expected:
        (need,) = build_needs(stack, "cpu", get_runtime("docker"), BuildOptions())
        assert need.bytes == 600_000_000, "the image's 0.4 GB and the build's cache"


def weights(**fields: Any) -> Any:
    return {"pth": {"file": "w.pth", "licence": "MIT", "url": "https://example.org/w.pth", **fields}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"size": 700}, 700), ({"size_range": [500, 900]}, 900), ({"size": 700, "unpack": True}, 1400), ({}, None)],
)
def test_weights_that_will_be_fetched_are_counted(tmp_path: Path, fields: dict[str, Any], expected: int | None) -> None:
    model = {**MINIMAL["models"]["tiny-model"], "weights": weights(**fields)}
    write_stack(tmp_path / "tiny", stack_document(models={"tiny-model": model}))
    entry = load_catalog([tmp_path]).models["tiny-model"]
    needs = list(weights_needs(entry))
    wanted = [] if expected is None else [Need(weights_folder("tiny", "tiny-model"), expected, "weights w.pth")]
    assert needs == wanted


def test_weights_by_hand_and_bundled_ones_are_not_fetched() -> None:
    models = load_catalog().models
    assert list(weights_needs(models["garments-tiny"])) == []
    assert list(weights_needs(models["fformer-swin"])) == []


def test_predictions_are_counted_by_image(tmp_path: Path) -> None:
    assert output_need(tmp_path, 1000) == Need(tmp_path, 32_000_000, "predictions of 1000 images")


@pytest.mark.parametrize("command", ["run", "build"])
def test_no_command_begins_what_the_disk_cannot_hold(
    tmp_path: Path, free: dict[str, int], photo: MakePhoto, capsys: Captured, command: str
) -> None:
    photo(tmp_path / "images" / "a.png")
    arguments = {
        "run": ["run", "-m", "garments-tiny", "-i", str(tmp_path / "images"), "-o", str(tmp_path / "out")],
        "build": ["build", "garments"],
    }[command]
    assert main([*arguments, "--runtime", "venv"]) == 4
    err = capsys.readouterr().err
    assert "not enough disk space for" in err
    assert "building garments/cpu 0.4 GB" in err
    assert not environments_folder().exists()
