"""`orch equivalence`: two runs that are held against each other, and what is remembered of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import cli
from orchestrator.catalog.loader import ModelEntry
from orchestrator.dispatch.outcome import Outcome
from orchestrator.errors import MachineError, UsageError
from orchestrator.evaluation.equivalence_record import is_equivalence_recorded, locate_record
from orchestrator.paths import RunPaths
from orchestrator.plan.options import RunOptions
from orchestrator.predictions.predictions import Predictions
from orchestrator.system.display import Display, SilentDisplay
from orchestrator.workflows import equivalence
from orchestrator.workflows.equivalence import Equivalence
from tests.unit.predictions.predictions_samples import META, Arrays, sample_arrays, save
from tests.unit.stack_samples import MINIMAL, model_entry, stack_document, write_stack

VARIANTS = dict.fromkeys(("old", "new", "other"), MINIMAL["variants"]["cpu"])


@pytest.fixture
def entry(tmp_path: Path) -> ModelEntry:
    from orchestrator.catalog.loader import read_stack

    stack = read_stack(write_stack(tmp_path / "stacks" / "tiny", stack_document(variants=VARIANTS)))
    return ModelEntry("tiny-model", stack.spec.models["tiny-model"], stack)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[RunOptions]]:
    """Let runs give the sample; the variants named, another one. Gives the options of the runs that were made."""

    def install(*differing: str) -> list[RunOptions]:
        made: list[RunOptions] = []

        def run(entry: ModelEntry, options: RunOptions, display: Display) -> Outcome:
            made.append(options)
            assert options.out is not None
            assert options.variant is not None
            arrays: Arrays = sample_arrays()
            if options.variant in differing:
                arrays["scores"][0] = 0.5
            meta = {**META, "model": entry.name, "stack": entry.stack.name, "variant": options.variant}
            arrays["meta"] = np.array(json.dumps({**meta, "build": f"build-of-{options.variant}"}))
            paths = RunPaths(options.out)
            options.out.mkdir(parents=True)
            save(arrays, paths.predictions)
            return Outcome(paths, {"failed": 0, "versions": {"numpy": "2"}})

        monkeypatch.setattr(equivalence, "run_model", run)
        return made

    return install


def compared(entry: ModelEntry, *variants: str, **changes: Any) -> Equivalence:
    options = RunOptions(images=["photos"], **changes)
    return equivalence.check_equivalence(entry, variants or ("old", "new"), options, SilentDisplay())


def metas(result: Equivalence) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (Predictions.load(outcome.paths.predictions).meta for outcome in result.outcomes)
    return first, second


def test_a_comparison_that_passed_is_remembered(entry: ModelEntry, runs: Callable[..., list[RunOptions]]) -> None:
    made = runs()
    result = compared(entry)
    assert [options.variant for options in made] == ["old", "new"]
    assert result.agreement.is_equal
    first, second = metas(result)
    assert is_equivalence_recorded(first, second)
    assert is_equivalence_recorded(second, first)
    assert result.record == locate_record(second, first)
    record = json.loads(result.record.read_text())
    assert record["variants"] == {"build-of-old": "old", "build-of-new": "new"}
    assert (record["equivalent"], record["instances"]) == (True, 6)


def test_only_the_very_builds_and_weights_are_proven(entry: ModelEntry, runs: Callable[..., list[RunOptions]]) -> None:
    runs()
    first, second = metas(compared(entry))
    assert not is_equivalence_recorded(first, {**second, "build": "another"})
    assert not is_equivalence_recorded(first, {**second, "model": "another"})
    weights = {"model": {"file": "model.onnx", "sha256": "1" * 64}}
    assert not is_equivalence_recorded(first, {**second, "weights": weights})
    assert not is_equivalence_recorded({**first, "weights": weights}, {**second, "weights": weights})


def test_a_comparison_that_failed_proves_nothing(entry: ModelEntry, runs: Callable[..., list[RunOptions]]) -> None:
    runs("new")
    result = compared(entry)
    assert not result.agreement.is_equal
    assert not is_equivalence_recorded(*metas(result))
    runs()
    assert is_equivalence_recorded(*metas(compared(entry)))
    result.record.write_text("{")
    assert not is_equivalence_recorded(*metas(result))


def test_each_variant_is_built_on_its_own_base(entry: ModelEntry, runs: Callable[..., list[RunOptions]]) -> None:
    made = runs()
    options = RunOptions(images=["photos"])
    bases = {"new": "debian:12"}
    equivalence.check_equivalence(entry, ("old", "new"), options, SilentDisplay(), base_images=bases)
    assert [one.build.base_image for one in made] == [None, "debian:12"]


@pytest.mark.parametrize("variants", [("old",), ("old", "old"), ("old", "new", "other"), ("old", "newest")])
def test_two_variants_of_the_stack_are_wanted(entry: ModelEntry, variants: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"give two variants|has no variant"):
        compared(entry, *variants)


def test_missing_weights_point_to_random_ones(entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> Outcome:
        raise MachineError("the weights of tiny-model are missing", hint="orch weights add tiny-model PATH")

    monkeypatch.setattr(equivalence, "run_model", run)
    with pytest.raises(MachineError) as caught:
        compared(entry)
    assert "orch equivalence tiny-model --random-weights" in str(caught.value.hint)


def test_random_weights_are_made_once_for_both(
    entry: ModelEntry, runs: Callable[..., list[RunOptions]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = runs(), []
    monkeypatch.setattr(
        equivalence, "make_random_weights", lambda entry, options, work, display: asked.append(options.variant)
    )
    options = RunOptions(images=["photos"])
    result = equivalence.check_equivalence(entry, ("old", "new"), options, SilentDisplay(), random_weights=True)
    assert asked == ["old"]
    assert len({one.weights_folder for one in made}) == 1
    assert made[0].weights_folder is not None
    assert result.as_json()["random_weights"] is True


@pytest.mark.parametrize(("differing", "code", "word"), [((), 0, "yes"), (("new",), 6, "no")])
def test_the_command(
    entry: ModelEntry,
    runs: Callable[..., list[RunOptions]],
    capsys: pytest.CaptureFixture[str],
    differing: tuple[str, ...],
    code: int,
    word: str,
) -> None:
    made = runs(*differing)
    arguments = ["equivalence", "tiny-model", "--variants", "old,new", "--images", "photos"]
    arguments += ["--stacks", str(entry.stack.folder.parent), "--base-image", "old=debian:11"]
    assert cli.main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split("\t")[-1] == word
    assert ("are equivalent" in shown.err) is (code == 0)
    assert made[0].build.base_image == "debian:11"
    assert cli.main([*arguments, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["equivalent"] is (code == 0)
    assert cli.main([*arguments, "--base-image", "x=y"]) == 2


def test_model_entry_has_one_variant(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compared(model_entry(tmp_path), "cpu", "cpu")
    assert caught.value.why == "tiny has cpu"
