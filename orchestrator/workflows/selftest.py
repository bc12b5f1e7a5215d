"""`orch selftest`: a model's whole way in its real environment, with random weights where its own are not at hand.

What comes out says that everything works together; with random weights the numbers themselves mean nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.catalog.loader import ModelEntry
from orchestrator.dispatch.launcher import Launcher
from orchestrator.dispatch.outcome import Outcome
from orchestrator.errors import BaseImageError, MachineError, PredictionsError, RunError
from orchestrator.hardware import choose_variant, cores, gpus_for
from orchestrator.hardware.gpu_code import as_built
from orchestrator.inputs.collect import collect_inputs
from orchestrator.paths import RunPaths, home
from orchestrator.plan.disk_space import build_needs, require_space
from orchestrator.plan.options import RunOptions
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import make_request
from orchestrator.predictions.predictions import Predictions
from orchestrator.runtimes.base import choose_runtime
from orchestrator.runtimes.guest_contract import QUEUE_NAME
from orchestrator.system.display import Display
from orchestrator.workflows.demo.photographs import fetch_photographs
from orchestrator.workflows.run import run_model

RANDOM_WEIGHTS = "orch_runner.random_weights"
PHOTOGRAPHS = ("coffee.png", "page.png", "rocket.jpg")


@dataclass(frozen=True)
class SelfTest:
    """A self-test that passed."""

    outcome: Outcome
    random_weights: bool
    instances: tuple[tuple[str, int], ...]
    """Photographs and what was found in each."""

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "passed": True,
            "random_weights": self.random_weights,
            "instances": dict(self.instances),
            "run": self.outcome.summary,
        }


def run_selftest(entry: ModelEntry, options: RunOptions, folder: Path | None, display: Display) -> SelfTest:
    """Run three photographs through the model and check what comes out.

    `options` says runtime, variant and device; `folder` is kept, None takes one of orch's own anew. Raises
    PredictionsError where the output is wrong, RunError where images failed, and whatever a run raises.
    """
    try:
        return _selftest(entry, options, folder, display)
    except BaseImageError as error:
        if options.runtime != "auto":
            raise
        display.say(f"{error.message}: {error.why}")
        return _selftest(entry, replace(options, runtime="venv"), folder, display)


def _selftest(entry: ModelEntry, options: RunOptions, folder: Path | None, display: Display) -> SelfTest:
    work = folder or home() / "selftest" / f"{entry.name}-{options.runtime}-{options.variant or 'any'}"
    if folder is None:
        shutil.rmtree(work, ignore_errors=True)
    photographs = selftest_photographs(work / "photographs")
    options = replace(options, images=[str(photographs)], out=work / "run", workers=1)
    made = any(weights.url or weights.manual for weights in entry.spec.weights.values())
    if made:
        make_random_weights(entry, options, work, display)
        options = replace(options, weights_folder=work / "weights")
    outcome = run_model(entry, options, display)
    return SelfTest(outcome, made, tuple(_check(outcome)))


def selftest_photographs(folder: Path) -> Path:
    """Three photographs; drawn scenes where the photographs cannot be fetched."""
    if folder.is_dir():
        return folder
    try:
        everything = fetch_photographs(folder.with_name("fetched"))
    except MachineError:
        from orchestrator.workflows.demo.scenes import write_scenes

        write_scenes(folder, range(len(PHOTOGRAPHS)), size=480)
        (folder / "annotations.json").unlink()
        return folder
    folder.mkdir(parents=True)
    for name in PHOTOGRAPHS:
        shutil.copyfile(everything / name, folder / name)
    return folder


def make_random_weights(entry: ModelEntry, options: RunOptions, work: Path, display: Display) -> None:
    """Have the stack's own environment write random weights of the right architecture into `work`/weights."""
    target = work / "weights"
    if all((target / weights.file).exists() for weights in entry.spec.weights.values()):
        return
    runtime, _ = choose_runtime(options.runtime)
    present = gpus_for(entry.stack, options.device, options.variant)
    stack = as_built(entry.stack) if present else entry.stack
    choice = choose_variant(stack, options.variant, options.device, present, entry.spec.gpu_memory)
    require_space([*build_needs(entry.stack, choice.variant, runtime, options.build)], entry.name)
    prepared = runtime.prepare(entry.stack, choice.variant, options.build, display.detail)
    display.say(f"{entry.name}: making random weights of the right architecture")
    request = make_request(entry, options, runtime.name, choice.variant, choice.device)
    paths = RunPaths(work / "random-weights")
    shutil.rmtree(paths.root, ignore_errors=True)
    inputs = collect_inputs(options.images, paths.unpacked)
    plan = Plan(request, entry, prepared, {}, inputs, len(inputs.images))
    job = paths.job("weights")
    (job / QUEUE_NAME).mkdir(parents=True)
    launcher = Launcher(plan, paths, runtime, choice.devices, cores(), work / "no-weights")
    worker = launcher.start_program(RANDOM_WEIGHTS, "weights", job, target)
    try:
        failures = [event for event in map(_event, worker.lines()) if event.get("event") == "failure"]
        ended = worker.wait()
    finally:
        worker.close()
    if ended.code != 0:
        why = failures[-1]["message"] if failures else ended.describe()
        raise RunError(f"{entry.name} could not make random weights", why=why, log=paths.worker_log("weights"))


def _event(line: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {}


def _check(outcome: Outcome) -> Iterator[tuple[str, int]]:
    """What was found in each photograph. Raises RunError, PredictionsError."""
    if outcome.failed:
        first = outcome.summary["failures"][0]
        raise RunError(
            f"{outcome.failed} of {outcome.summary['images']} photographs failed",
            why=f"{first['image_file']}: {first['error']}",
            log=outcome.paths.logs,
        )
    predictions = Predictions.load(outcome.paths.predictions)
    problems = [str(problem) for problem in predictions.validate()]
    if problems:
        raise PredictionsError("the self-test's predictions break the format", why="\n".join(problems))
    if not len(predictions.scores):
        raise PredictionsError("nothing was detected in any photograph", why="nothing was left to check")
    for row in range(len(predictions.scores)):
        predictions.mask(row)
    for index, file in enumerate(predictions.files):
        yield file, int(predictions.offsets[index + 1] - predictions.offsets[index])
