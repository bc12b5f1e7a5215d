"""The demo: run two stacks that cannot be installed together, score one, and draw the predictions of both."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.catalog import ModelEntry, load_catalog
from orchestrator.dispatch import Outcome
from orchestrator.evaluation import Evaluation, evaluate
from orchestrator.plan import RunOptions
from orchestrator.predictions import Predictions
from orchestrator.reports import draw_source, make_contact_sheet
from orchestrator.system import Display, replace_file
from orchestrator.workflows.demo.photographs import fetch_photographs
from orchestrator.workflows.demo.scenes import write_scenes
from orchestrator.workflows.run import run_model

FIRST_SEED = 1_000_000  # training used smaller seeds: the model has not seen these scenes
SHEET = 12


@dataclass(frozen=True)
class DemoResult:
    """The runs, the score and the pictures of a demo."""

    folder: Path
    garments: Outcome
    textlines: Outcome
    metrics: Evaluation
    pictures: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        runs = {"garments-tiny": self.garments.summary, "ppocr-det": self.textlines.summary}
        return {
            "folder": str(self.folder),
            "mask_ap": asdict(self.metrics),
            "runs": runs,
            "pictures": [str(picture) for picture in self.pictures],
        }

    def text(self) -> str:
        annotations = _annotations(self.folder, self.metrics.images)
        lines = ["", "Two stacks, two environments, one format:"]
        for outcome in (self.garments, self.textlines):
            summary, versions = outcome.summary, outcome.summary["versions"]
            pins = ", ".join(f"{name} {versions[name]}" for name in ("numpy", "onnxruntime") if name in versions)
            lines.append(
                f"  {summary['model']:<14} {summary['images']:>4} images {summary['instances']:>5} instances   {pins}"
            )
        lines += [
            "",
            f"Mask AP of garments-tiny on {self.metrics.images} held-out scenes: {_share(self.metrics.ap)} "
            f"(AP50 {_share(self.metrics.ap50)}, AP75 {_share(self.metrics.ap75)})",
            f"Text lines found on photographs and printed pages: {_per_image(self.textlines)}",
            "",
            f"predictions   {self.garments.paths.predictions}",
            f"              {self.textlines.paths.predictions}",
            *(f"{'pictures' if number == 0 else '':<13} {path}" for number, path in enumerate(self.pictures)),
            "",
            f"next: {_orch()} report {self.garments.paths.root} --annotations {annotations}",
            f"      {_orch()} inspect {self.textlines.paths.root}",
            f"      {_orch()} run --model ppocr-det --images YOUR-PHOTOS/",
        ]
        return "\n".join(lines)


def run_demo(folder: Path, runtime: str, scenes: int, display: Display) -> DemoResult:
    """Run both stacks, score and draw their predictions. Finished parts of an earlier demo are not repeated."""
    catalog = load_catalog()
    folder.mkdir(parents=True, exist_ok=True)
    display.say(f"1/4  drawing {scenes} held-out scenes with exact truth")
    annotations = _annotations(folder, scenes)
    if not annotations.exists():  # written last; scenes drawn again would be changed inputs
        write_scenes(annotations.parent, range(FIRST_SEED, FIRST_SEED + scenes))
    display.say("2/4  fetching photographs and printed pages")
    photographs = fetch_photographs(folder / "photographs")
    display.say("3/4  running both models, each in its own environment")
    garments = _run(catalog.model("garments-tiny"), annotations, folder, runtime, display)
    textlines = _run(catalog.model("ppocr-det"), photographs, folder, runtime, display)
    display.say("4/4  scoring and drawing")
    metrics = evaluate(Predictions.load(garments.paths.predictions), annotations, "segm")
    pictures = tuple(_sheet(outcome, folder) for outcome in (garments, textlines))
    return DemoResult(folder, garments, textlines, metrics, pictures)


def _annotations(folder: Path, scenes: int) -> Path:
    return folder / f"scenes-{scenes}" / "annotations.json"


def _run(entry: ModelEntry, source: Path, folder: Path, runtime: str, display: Display) -> Outcome:
    name = source.parent.name if source.is_file() else source.name
    out = folder / f"{entry.name}-{name}-{runtime}"
    return run_model(entry, RunOptions(images=[str(source)], runtime=runtime, out=out), display)


def _sheet(outcome: Outcome, folder: Path) -> Path:
    """Write one picture that shows the first images of a run with their predictions."""
    drawn = draw_source(outcome.paths.root, outcome.paths.root / "pictures", min_score=0.3)[:SHEET]
    target = folder / f"{outcome.summary['model']}.png"
    sheet = make_contact_sheet([Image.open(path).convert("RGB") for path in drawn], columns=min(4, len(drawn)))
    with replace_file(target) as stream:
        sheet.save(stream, "PNG")
    return target


def _per_image(outcome: Outcome) -> str:
    predictions = Predictions.load(outcome.paths.predictions)
    counts = np.diff(predictions.offsets)
    return ", ".join(f"{name} {count}" for name, count in zip(predictions.files, counts, strict=True))


def _orch() -> str:
    """Return how to type the command here: its environment may not be on the PATH."""
    return "orch" if shutil.which("orch") else os.path.relpath(Path(sys.executable).parent / "orch")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
