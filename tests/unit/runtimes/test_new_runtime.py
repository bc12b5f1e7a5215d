"""A new runtime is one class in a module of its own and one line in the registry: every command can use it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import Predictions
from orchestrator.catalog.loader import load_catalog
from orchestrator.cli import main
from orchestrator.paths import environments_folder
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.built import apply_gpu_code
from orchestrator.runtimes.registry import RUNTIMES
from orchestrator.workflows.prune.files import file_leftovers
from orchestrator.workflows.prune.leftovers import Scope
from tests.unit.conftest import MakePhoto
from tests.unit.plain_runtime import PlainRuntime
from tests.unit.stack_samples import MINIMAL, stack_entry

Captured = pytest.CaptureFixture[str]
STACKS = str(Path(__file__).parents[2] / "stacks")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one line."""
    monkeypatch.setattr(PlainRuntime, "folder", tmp_path)
    monkeypatch.setitem(RUNTIMES, "plain", PlainRuntime)


ON_PLAIN = ["--runtime", "plain", "--stacks", STACKS, "--json"]


def test_it_is_previewed_before_and_after_a_run_that_uses_it(
    tmp_path: Path, photo: MakePhoto, capsys: Captured
) -> None:
    def preview() -> object:
        assert main(["plan", "faulty", *ON_PLAIN]) == 0
        document = json.loads(capsys.readouterr().out)
        return document["runtime"], document["why_runtime"], document["environment"]

    identity = build_inputs(load_catalog([Path(STACKS)]).stacks["faulty"], "cpu", BuildOptions()).identity
    expected = {"runtime": "plain", "variant": "cpu", "location": str(tmp_path / f"faulty-cpu-{identity}")}
    assert preview() == ("plain", "asked for", {**expected, "built": False})
    for number in range(3):
        photo(tmp_path / "images" / f"{number}.png", (300, 300))
    out = tmp_path / "run"
    assert main(["run", "-m", "faulty", "-i", str(tmp_path / "images"), "-o", str(out), *ON_PLAIN]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["runtime"], summary["images"], summary["failed"]) == ("plain", 3, 0)
    predictions = Predictions.load(out / "predictions.npz")
    assert predictions.files == ["0.png", "1.png", "2.png"]
    assert predictions.boxes[:, 3].tolist() == [300, 300, 300], "the gradient is brightest at its lower edge"
    assert preview() == ("plain", "asked for", {**expected, "built": True})


def test_it_is_built_on_request_examined_and_has_no_archives(capsys: Captured) -> None:
    assert main(["build", "faulty", *ON_PLAIN]) == 0
    assert json.loads(capsys.readouterr().out)["built"] is True
    assert main(["build", "faulty", "--archive", *ON_PLAIN]) == 2
    assert "the runtime plain has no images to archive" in capsys.readouterr().out
    main(["doctor", "--json"])
    finding = {"what": "runtime plain", "status": "ok", "found": "can be used", "step": ""}
    assert finding in json.loads(capsys.readouterr().out)["findings"]


def test_a_disk_too_small_for_its_builds_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("orchestrator.system.free_space.shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    assert main(["build", "faulty", *ON_PLAIN]) == 4
    assert "building faulty/cpu, a guess: its stack.yaml has no size_gb 2.0 GB" in capsys.readouterr().out


def test_what_it_no_longer_locates_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.runtimes.docker.runtime.inspect_image", lambda engine, tag: None)
    monkeypatch.setattr(PlainRuntime, "folder", environments_folder())
    monkeypatch.setitem(RUNTIMES, "venv", PlainRuntime)  # no other runtime locates anything there
    catalog = load_catalog([Path(STACKS)])
    current = PlainRuntime().locate(catalog.stacks["faulty"], "cpu", BuildOptions()).path
    for folder in (Path(current), environments_folder() / "faulty-cpu-0123456789ab"):
        folder.mkdir(parents=True)
    leftovers = [Path(one.name).name for one in file_leftovers(catalog, Scope())]
    assert leftovers == ["faulty-cpu-0123456789ab"]


def test_what_it_read_in_a_built_variant_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.runtimes.docker.runtime.inspect_image", lambda engine, tag: None)
    cuda = {**MINIMAL["variants"]["cpu"], "device": "cuda", "cuda": "11.8", "native_capabilities": ["7.0"]}
    stack = stack_entry(tmp_path / "stack", variants={"cuda": cuda})
    assert apply_gpu_code(stack).spec.variants["cuda"].native_capabilities == ("8.0",)
