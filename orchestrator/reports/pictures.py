"""Pictures of a run: finds its input images again and has them drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.inputs.collect import read_inputs
from orchestrator.paths import RunPaths
from orchestrator.predictions.predictions import Predictions
from orchestrator.reports.draw import draw_run


def draw_run_directory(run: Path, folder: Path, min_score: float) -> list[Path]:
    """Draw all predicted images of a run into `folder`; the pictures. Raises UsageError if it is no complete run."""
    paths = RunPaths(run)
    if not paths.predictions.is_file() or not paths.run_json.is_file():
        raise UsageError(f"{run} is not a complete run directory", hint="orch run --model MODEL --images FOLDER")
    recorded = json.loads(paths.run_json.read_text(encoding="utf-8"))
    predictions = Predictions.load(paths.predictions)
    return draw_run(
        predictions, input_locator(paths, recorded), folder, min_score, recorded["request"]["exif"] == "apply"
    )


def input_locator(paths: RunPaths, recorded: dict[str, Any]) -> Callable[[str], Path]:
    """Says where an input image of a run lies, by its name in the predictions; `recorded` is the run's run.json."""
    roots = [Path(root) for root in recorded["roots"]]
    places = {image.file: image.path for image in read_inputs(paths.inputs)}

    def locate(file: str) -> Path:
        number, _, rest = places[file].partition("/")
        return roots[int(number)] / rest

    return locate
