"""Several runs in one command: none stops another, the CPU is taken in turns, GPUs are shared, Ctrl-C stops all."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.dispatch.outcome import Outcome
from orchestrator.dispatch.sharing import Sharing
from orchestrator.errors import Interrupted, MachineError, RunError, UsageError
from orchestrator.paths import RunPaths
from orchestrator.plan.options import RunOptions
from orchestrator.system.display import Display, SilentBatchDisplay
from orchestrator.system.signals import StopRequests
from orchestrator.workflows import batch
from orchestrator.workflows.batch import (
    BatchSharing,
    BatchState,
    RunRequest,
    find_runnable,
    make_requests,
    run_batch,
)
from tests.unit.stack_samples import MINIMAL, stack_document, write_stack

Behaviour = Callable[[str, Sharing, Display], Outcome]
OPTIONS = RunOptions(images=["photos"])


def outcome(failed: int = 0) -> Outcome:
    return Outcome(RunPaths(Path("/out")), {"failed": failed})


def requests(*names: str) -> list[RunRequest]:
    entry = load_catalog().model("garments-tiny")
    return [RunRequest(name, entry, RunOptions(images=[name])) for name in names]


def go(monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour, *names: str) -> dict[str, Any]:
    """Run them with a `run` made up; its options' images say which it is."""

    def made_up(entry: object, options: RunOptions, display: Display, turns: Sharing) -> Outcome:
        return behaviour(options.images[0], turns, display)

    monkeypatch.setattr(batch, "run_model", made_up)
    return run_batch(requests(*names), SilentBatchDisplay(names))


def test_one_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def behaviour(name: str, turns: Sharing, display: Display) -> Outcome:
        if name == "b":
            raise RunError("it broke")
        if name == "c":
            raise OSError(28, "no space left")
        return outcome(failed=1)

    ended = go(monkeypatch, behaviour, "a", "b", "c")
    assert list(ended) == ["a", "b", "c"]
    assert (ended["b"].message, type(ended["c"])) == ("it broke", MachineError)
    assert ended["a"].failed == 1


def test_a_bug_shows_itself_when_all_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    over: list[str] = []

    def behaviour(name: str, turns: Sharing, display: Display) -> Outcome:
        if name == "a":
            raise KeyError("a bug")
        time.sleep(0.1)
        over.append(name)
        return outcome()

    with pytest.raises(KeyError, match="a bug"):
        go(monkeypatch, behaviour, "a", "b")
    assert over == ["b"]


def test_on_the_cpu_runs_take_turns_while_others_build(monkeypatch: pytest.MonkeyPatch) -> None:
    predicting, most = 0, 0
    built = threading.Event()

    def behaviour(name: str, turns: Sharing, display: Display) -> Outcome:
        nonlocal predicting, most
        if name == "slow build":
            assert built.wait(10), "the other one predicts meanwhile"
            return outcome()
        with turns.predicting("cpu"):
            predicting += 1
            most = max(most, predicting)
            time.sleep(0.02)
            predicting -= 1
        built.set()
        return outcome()

    go(monkeypatch, behaviour, "a", "slow build", "b", "c")
    assert most == 1


def test_a_stack_is_built_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    building, most = 0, 0

    def behaviour(name: str, turns: Sharing, display: Display) -> Outcome:
        nonlocal building, most
        with turns.building():
            building += 1
            most = max(most, building)
            time.sleep(0.02)
            building -= 1
        return outcome()

    go(monkeypatch, behaviour, "a", "b", "c")
    assert most == 1


@pytest.mark.parametrize("presses", [1, 2])
def test_a_signal_stops_all_whatever_they_are_doing(monkeypatch: pytest.MonkeyPatch, presses: int) -> None:
    in_turn = threading.Event()

    def behaviour(name: str, turns: Sharing, display: Display) -> Outcome:
        with turns.predicting("cpu"):
            in_turn.set()
            while True:  # as a build does
                display.detail("step")
                time.sleep(0.01)

    def press() -> None:
        in_turn.wait()
        for _ in range(presses):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    ended = go(monkeypatch, behaviour, "a", "b", "c")
    assert all(isinstance(one, Interrupted) and "resumes" in str(one.hint) for one in ended.values())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_gpus_are_shared_by_those_that_predict_and_those_that_will_soon() -> None:
    state, (first, second) = BatchState(StopRequests()), requests("a", "b")
    display = SilentBatchDisplay(["a", "b"])
    one, other = BatchSharing(first, display, state), BatchSharing(second, display, state)
    now = time.monotonic()
    state.started.update({"a": now, "b": now})
    with one.predicting("cuda"):
        assert [one.most_gpus(gpus) for gpus in (1, 4, 7)] == [1, 2, 4]
        state.started["b"] = now - 2 * batch.READY_SECONDS
        assert one.most_gpus(4) == 4, "b is built for long: its share would idle"
        with other.predicting("cuda"):
            assert (one.most_gpus(4), other.most_gpus(4)) == (2, 2)
        assert one.most_gpus(4) == 4
    with other.predicting("cpu"):
        assert state.count_claims() == 0


def test_with_all_what_cannot_run_is_skipped_with_the_reason(tmp_path: Path, orch_home: Path) -> None:
    model = MINIMAL["models"]["tiny-model"]
    by_hand = {**model, "weights": {"pth": {"file": "w.pth", "licence": "MIT", "manual": "ask the authors"}}}
    fetched = {**model, "weights": {"pth": {"file": "w.pth", "licence": "MIT", "url": "https://example.org/w.pth"}}}
    models = {"tiny-model": model, "tiny-by-hand": by_hand, "tiny-fetched": fetched}
    write_stack(tmp_path / "tiny", stack_document(models=models))
    catalog = load_catalog([tmp_path])

    def outcome_of(options: RunOptions) -> tuple[set[str], dict[str, str]]:
        able, unable = find_runnable(catalog, options)
        tiny = {entry.name for entry in able if entry.stack.name == "tiny"}
        return tiny, {name: why for name, why in unable.items() if name.startswith("tiny")}

    by_hand_only = {"tiny-by-hand": "weights must be downloaded manually; then: orch weights add tiny-by-hand FILE"}
    assert outcome_of(OPTIONS) == ({"tiny-model", "tiny-fetched"}, by_hand_only)
    assert set(outcome_of(RunOptions(images=[], offline=True))[1]) == {"tiny-by-hand", "tiny-fetched"}
    able, unable = outcome_of(RunOptions(images=[], variant="cu999"))
    assert (able, len(unable)) == (set(), 3)
    assert "has no variant 'cu999'" in unable["tiny-model"]


def test_each_model_gets_a_folder_of_its_name() -> None:
    entry = load_catalog().model("garments-tiny")
    assert make_requests([entry], OPTIONS)[0].options.out is None
    out = RunOptions(images=["x"], out=Path("result"))
    assert make_requests([entry], out) == [
        RunRequest("garments-tiny", entry, RunOptions(images=["x"], out=Path("result/garments-tiny")))
    ]


def test_mistakes_are_each_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def behaviour(name: str, turns: Sharing, display: Display) -> Outcome:
        raise UsageError("no such folder")

    assert [error.exit_code for error in go(monkeypatch, behaviour, "a", "b").values()] == [2, 2]


def test_a_run_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    display, states = SilentBatchDisplay(["a"]), list[str]()
    monkeypatch.setattr(display, "set_state", lambda name, state: states.append(f"{name}: {state}"))
    (request,) = requests("a")
    sharing = BatchSharing(request, display, BatchState(StopRequests()))
    with sharing.building():
        pass
    for device in ("cpu", "cuda", "slurm"):
        with sharing.predicting(device):
            pass
    assert states == ["a: building", "a: waiting for the CPU", "a: waiting for a GPU", "a: submitted to slurm"]
