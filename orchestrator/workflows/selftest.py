"""`orch selftest`: run three photographs through a model in its real environment.

Weights that are not part of the stack are replaced by random ones: the run then shows that all parts work together,
and its numbers mean nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.catalog import ModelEntry
from orchestrator.dispatch import Launcher, Outcome
from orchestrator.errors import MachineError, PredictionsError, RunError
from orchestrator.hardware import cores
from orchestrator.inputs import collect_inputs
from orchestrator.paths import RunPaths, home
from orchestrator.plan import Plan, RunOptions, build_needs, make_request
from orchestrator.predictions import Predictions
from orchestrator.runtimes import FILE_SIZE, OUT_NAME, QUEUE_NAME, parse_event, select_variant
from orchestrator.system import Display, GuestTree, replace_path, require_space
from orchestrator.workflows.candidates import cold_candidates
from orchestrator.workflows.demo.photographs import fetch_photographs
from orchestrator.workflows.demo.scenes import write_scenes
from orchestrator.workflows.run import run_model

RANDOM_WEIGHTS = "orch_runner.random_weights"
MOST_WEIGHTS_BYTES = FILE_SIZE
PHOTOGRAPHS = ("coffee.png", "page.png", "rocket.jpg")


@dataclass(frozen=True)
class SelfTest:
    """A self-test that passed."""

    outcome: Outcome
    random_weights: bool
    instances: tuple[tuple[str, int], ...]  # file name of each photograph, and the number of instances in it

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": True,
            "random_weights": self.random_weights,
            "instances": dict(self.instances),
            "run": self.outcome.summary,
        }


def run_selftest(entry: ModelEntry, options: RunOptions, folder: Path | None, display: Display) -> SelfTest:
    """Run three photographs through the model and check the predictions.

    `options` says runtime, variant and device. `folder` is kept; None empties and uses a folder in orch's cache. Raises
    PredictionsError where the predictions are wrong, RunError where images failed, and all that a run raises.
    """
    # An engine mounts absolute paths only.
    work = (folder or home() / "selftest" / f"{entry.name}-{options.runtime}-{options.variant or 'any'}").absolute()
    if folder is None:
        shutil.rmtree(work, ignore_errors=True)
    photographs = selftest_photographs(work / "photographs")
    options = options.model_copy(update={"images": [str(photographs)], "out": work / "run", "workers": 1})
    is_random = any(weights.url or weights.manual for weights in entry.spec.weights.values())
    if is_random:
        make_random_weights(entry, options, work, display)
        options = options.model_copy(update={"weights_folder": work / "weights"})
    outcome = run_model(entry, options, display)
    return SelfTest(outcome, is_random, tuple(_check(outcome)))


def selftest_photographs(folder: Path) -> Path:
    """Return a folder with three photographs, or with drawn scenes where they cannot be fetched."""
    if folder.is_dir():
        return folder
    with replace_path(folder) as aside:  # a folder that is there is complete
        try:
            photographs = fetch_photographs(folder.with_name("fetched"))
        except MachineError:
            write_scenes(aside, range(len(PHOTOGRAPHS)), size=480)
            (aside / "annotations.json").unlink()
            return folder
        aside.mkdir(parents=True)
        for name in PHOTOGRAPHS:
            shutil.copyfile(photographs / name, aside / name)
    return folder


def make_random_weights(entry: ModelEntry, options: RunOptions, work: Path, display: Display) -> None:
    """Write random weights of the right architecture into `work`/weights, by the stack's own environment."""
    target = work / "weights"
    if all((target / weights.file).exists() for weights in entry.spec.weights.values()):
        return
    choice = select_variant(entry.stack, options.variant, options.device, memory=entry.spec.gpu_memory)
    for candidate in cold_candidates(options.runtime, None, display.say):
        with candidate:
            runtime = candidate.runtime
            require_space([*build_needs(entry.stack, choice.variant, runtime, options.build)], entry.name)
            prepared = runtime.prepare(entry.stack, choice.variant, options.build, display.detail)
            break
    display.say(f"{entry.name}: making random weights of the right architecture")
    request = make_request(entry, options, runtime.name, choice.variant, choice.device)
    paths = RunPaths(work / "random-weights")
    shutil.rmtree(paths.root, ignore_errors=True)
    inputs = collect_inputs(options.images, paths.unpacked)
    plan = Plan(request, entry, prepared, {}, inputs, len(inputs.images))
    _run_weights_program(Launcher(plan, paths, runtime, choice.devices, cores(), work / "no-weights"), paths, target)


def _run_weights_program(launcher: Launcher, paths: RunPaths, target: Path) -> None:
    """Run the guest program that writes random weights into `target`. Raises RunError."""
    job = paths.job("weights")
    (job / QUEUE_NAME).mkdir(parents=True)
    worker = launcher.start(0, "weights", job, RANDOM_WEIGHTS)
    try:
        events = filter(None, map(parse_event, worker.lines()))
        failures = [event for event in events if event["event"] == "failure"]
        ended = worker.wait()
    finally:
        worker.close()
    if ended.code != 0:
        why = failures[-1]["message"] if failures else ended.describe()
        raise RunError("cannot make random weights", why=why, log=paths.worker_log("weights"))
    with GuestTree(job) as tree:
        tree.copy_folder(OUT_NAME, target, MOST_WEIGHTS_BYTES)


def _check(outcome: Outcome) -> Iterator[tuple[str, int]]:
    """Return the number of instances in each photograph. Raises RunError, PredictionsError."""
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
        raise PredictionsError("the predictions of the self-test are invalid", why="\n".join(problems))
    if not len(predictions.scores):
        raise PredictionsError("nothing was detected in any photograph", why="there is nothing to check")
    if predictions.has_masks:
        for row in range(len(predictions.scores)):
            predictions.mask(row)
    for index, file in enumerate(predictions.files):
        yield file, int(predictions.offsets[index + 1] - predictions.offsets[index])
