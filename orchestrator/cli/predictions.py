"""`orch inspect`, `validate`, `export` and `draw`: commands on a predictions file."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import JsonOption, print_json, say, show_line
from orchestrator.cli.completion import complete_format
from orchestrator.cli.tables import print_table
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.system import count_of, require_file, require_folder

if TYPE_CHECKING:
    from orchestrator.predictions import Predictions

FileArgument = Annotated[Path, typer.Argument(metavar="FILE|RUN", help="predictions.npz, or a run directory.")]
SHOWN = 10
_AFTER_DAMAGE = "copy the file again from where it came, or remove it: the same orch run collects it anew"
SHOWN_META = ("format", "task", "model", "stack", "variant", "runtime", "device", "score_threshold", "max_detections",
              "exif", "settings", "build", "orch_version")  # fmt: skip


def _load(path: Path) -> Predictions:
    from orchestrator.predictions import Predictions

    return Predictions.load(_file(path))


def _file(path: Path) -> Path:
    from orchestrator.evaluation import find_predictions

    return find_predictions(path)


def inspect(
    file: FileArgument,
    image: Annotated[str | None, typer.Option(help="Show one image's instances, by file name or number.")] = None,
    json: JsonOption = False,
) -> None:
    """Print what a predictions file contains."""
    import numpy as np

    predictions = _load(file)
    if image is not None:
        _inspect_image(predictions, image, json)
        return
    counts = dict(zip(*(found.tolist() for found in np.unique(predictions.classes, return_counts=True)), strict=True))
    by_category = {name: counts[key] for key, name in predictions.category_names.items() if key in counts}
    failed = int((predictions.status != 0).sum())
    facts: dict[str, Any] = {
        "file": str(_file(file)),
        "images": len(predictions),
        "failed": failed,
        "instances": len(predictions.scores),
        "has_masks": predictions.has_masks,
        "images_without_instances": int((np.diff(predictions.offsets) == 0).sum()) - failed,
        "instances_by_category": by_category,
        "meta": predictions.meta,
    }
    if json:
        print_json(facts)
        return
    meta = facts.pop("meta")
    for key, value in {**facts, **{key: meta.get(key) for key in SHOWN_META}}.items():
        text = ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else value
        text = {True: "yes", False: "no"}[text] if isinstance(text, bool) else text
        show_line(f"{key.replace('_', ' '):<26}{'none' if text is None else text}")
    for row in np.flatnonzero(predictions.status)[:SHOWN]:
        show_line(f"failed: {predictions.image_file[row]}: {predictions.error[row]}")


def _inspect_image(predictions: Predictions, image: str, as_json: bool) -> None:
    try:
        record = predictions[int(image) if image.isdigit() and image not in predictions.files else image]
    except (KeyError, IndexError):
        from orchestrator.system import did_you_mean

        why = did_you_mean(image, predictions.files[:5000])
        raise UsageError(f"the file has no image {image!r}", why=why) from None
    names = predictions.category_names
    boxes = [[round(float(side), 1) for side in box] for box in record["boxes"]]
    instances = [
        {"category": names.get(int(category), str(category)), "score": round(float(score), 4), "box": box}
        for category, score, box in zip(record["classes"], record["scores"], boxes, strict=True)
    ]
    if as_json:
        facts = {"size": [int(side) for side in record["image_size"]], "error": str(record["error"])}
        print_json({"image_file": str(record["image_file"]), **facts, "instances": instances})
        return
    say(f"{record['image_file']}: {record['error'] or count_of(len(instances), 'instance')}")
    print_table(
        ["category", "score", "x1, y1, x2, y2"],
        [[str(entry["category"]), str(entry["score"]), json_module.dumps(entry["box"])[1:-1]] for entry in instances],
    )


def validate(file: FileArgument, json: JsonOption = False) -> None:
    """Check a predictions file against the format; end with exit code 6 if it breaks it."""
    try:
        predictions = _load(file)
    except PredictionsError as error:
        error.hint = _AFTER_DAMAGE  # not this command again
        raise
    problems = [str(problem) for problem in predictions.validate()]
    if problems:
        if json:
            print_json({"valid": False, "problems": problems})
            raise typer.Exit(PredictionsError.exit_code)
        raise PredictionsError(f"{_file(file)} breaks the format", why="\n".join(problems), hint=_AFTER_DAMAGE)
    if json:
        print_json({"valid": True, "problems": [], "images": len(predictions), "instances": len(predictions.scores)})
    else:
        say(f"valid: {count_of(len(predictions), 'image')}, {count_of(len(predictions.scores), 'instance')}")


def export(
    file: FileArgument,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            autocompletion=complete_format,
            help="coco, yolo, labelme, cvat, voc, parquet, fashionfail, or imdlbenco.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File, or folder for most formats. Default: beside the file.")
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option("--annotations", "-a", metavar="COCO.json", help="Its image ids are written (coco only)."),
    ] = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Write boxes only, without masks.")] = False,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of an instance that is written. Default: all.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write predictions in the format of another tool."""
    from orchestrator.predictions import export_predictions, get_format

    chosen = get_format(format_name)
    target = output or _file(file).with_name(_file(file).stem + chosen.ending)
    (require_folder if chosen.is_folder else require_file)(target, "--output")
    predictions = _load(file)
    if min_score is not None:
        from orchestrator.evaluation import Cut, restrict

        predictions = restrict(predictions, Cut(floor=min_score))
    left_out = export_predictions(predictions, format_name, target, annotations, boxes)
    if json:
        print_json({"format": format_name, "output": str(target), "left_out": left_out})
        return
    say(f"wrote {target}")
    if left_out:
        say(f"note: left out: {', '.join(left_out)}")


def draw(
    file: FileArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder. Default: pictures, in the run or beside the file.")
    ] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of an instance that is drawn.")] = 0.3,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder of the images, if the run's own is not available.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Draw boxes and masks into a run's images, as PNG files."""
    from orchestrator.reports import draw_source

    folder = output or (file if file.is_dir() else file.parent) / "pictures"
    if output is not None or file.exists():
        require_folder(folder, "--output")
    pictures = draw_source(file, folder, min_score, image_root)
    if json:
        print_json({"pictures": [str(picture) for picture in pictures]})
    else:
        say(f"drew {count_of(len(pictures), 'picture')} into {folder}")
