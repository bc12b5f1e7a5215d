"""`orch eval`: the figures of one run."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from orchestrator.cli.common import JsonOption, check_file, print_json, say
from orchestrator.cli.tables import print_table
from orchestrator.errors import UsageError
from orchestrator.system import count_of

if TYPE_CHECKING:
    from orchestrator.evaluation import AttributeMetrics, Evaluation, FederatedMetrics, Localization, WeightedAverages

SHOWN = 5
SourceArgument = Annotated[Path, typer.Argument(metavar="FILE|RUN", help="predictions.npz, or a run directory.")]
AnnotationsOption = Annotated[
    Path | None, typer.Option("--annotations", "-a", metavar="COCO.json", help="The truth: a COCO annotation file.")
]
IouOption = Annotated[
    str | None,
    typer.Option("--iou", help="Compare masks (segm) or boxes (bbox). Default: masks if all runs have them."),
]
CategoriesOption = Annotated[
    list[str] | None,
    typer.Option("--categories", metavar="NAME|ID", help="Only these categories; repeatable, or separated by commas."),
]
AttributeScoreOption = Annotated[
    float | None,
    typer.Option(
        "--attribute-score",
        min=0,
        max=1,
        help="An instance has the attributes that score higher. Default: 0.5, where annotations and model have any.",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse annotations or masks about which there would be a warning.")
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="Whose rules the figures follow: coco (the default with annotations), fashionfail, or imdlbenco (masks of "
        "manipulated images).",
    ),
]
MasksOption = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        help="True masks, white where manipulated or of the category: a folder, Tp/ and Gt/, or IMDL-BenCo's .json. "
        "Default: those of the run's images, if they are such a data set.",
    ),
]
InvertedMasksOption = Annotated[
    bool,
    typer.Option("--inverted-masks", help="True masks are black where manipulated, as those of NIST16 and DSO-1."),
]
AlignOption = Annotated[bool, typer.Option("--align", help="Compare only what all runs have, and print what that is.")]


def check_iou(text: str | None) -> Literal["segm", "bbox"] | None:
    """Return the value of --iou, None for its default. Raises UsageError."""
    if text not in ("segm", "bbox", None):
        raise UsageError(f"--iou {text}: must be segm or bbox")
    return cast(Literal["segm", "bbox"] | None, text)


def evaluate(
    file: SourceArgument,
    annotations: AnnotationsOption = None,
    iou: IouOption = None,
    categories: CategoriesOption = None,
    masks: MasksOption = None,
    inverted_masks: InvertedMasksOption = False,
    strict: StrictOption = False,
    protocol: ProtocolOption = None,
    count_iou: Annotated[float, typer.Option(min=0.01, max=1, help="IoU at which TP, FP and FN are counted.")] = 0.5,
    count_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of a detection that is counted.")] = 0.0,
    engine: Annotated[str, typer.Option(help="hotcoco (fast), pycocotools (the reference), or auto.")] = "auto",
    attribute_score: AttributeScoreOption = None,
    save_baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            callback=check_file,
            help="Store the figures for --baseline of orch run and orch compare.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Evaluate predictions: COCO's AP and AR, FashionFail's mAP_w, counts; --masks: pixels of binary masks.

    Annotations with LVIS's or Fashionpedia's fields: also their rules and figures.
    """
    kind = check_iou(iou)
    if annotations is not None and masks is not None:
        raise UsageError("--annotations and --masks were given", hint=f"orch eval {file} --annotations COCO.json")
    if annotations is None:
        if save_baseline is not None:
            raise UsageError("a baseline needs COCO annotations", hint=f"orch eval {file} --annotations COCO.json …")
        if masks is None and not _has_recorded_masks(file):
            raise UsageError("no annotations were given", hint=f"orch eval {file} {_name_truth_options(file)}")
        _evaluate_masks(file, masks, protocol, json, strict, inverted_masks)
        return
    if inverted_masks:
        raise UsageError("--inverted-masks is about true masks", why="--annotations was given")
    from orchestrator.evaluation import DEFAULT, CountLevel, find_predictions, get_coco_protocol
    from orchestrator.evaluation import evaluate as evaluate_predictions
    from orchestrator.predictions import Predictions

    predictions = Predictions.load(find_predictions(file))
    counts_at = CountLevel(count_iou, count_score)
    with disabled_collector():
        rules = get_coco_protocol(protocol or DEFAULT)
        result = evaluate_predictions(
            predictions, annotations, kind, categories or (), counts_at, engine, attribute_score, strict, rules
        )
    if save_baseline is not None:
        from orchestrator.evaluation import to_baseline, write_baseline

        write_baseline(save_baseline, to_baseline(predictions, result, annotations))
        if not json:
            say(f"wrote {save_baseline}")
    if json:
        print_json({"predictions": str(predictions.path), "annotations": str(annotations), **asdict(result)})
        return
    _say_images(result)
    _print_figures(result)
    if result.attributes is not None:
        _print_attributes(result.attributes)
    _print_categories(result)


@contextmanager
def disabled_collector() -> Iterator[None]:
    """Disable Python's garbage collector: a tenth of the time of a large evaluation.

    It would visit all objects again and again while annotations and masks become dictionaries that cannot be freed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _name_truth_options(file: Path) -> str:
    """Return the options that give the predictions a truth, the task's usual one first."""
    from orchestrator.catalog import task_of
    from orchestrator.evaluation import find_predictions
    from orchestrator.predictions import Predictions

    return ", or ".join(task_of(Predictions.load(find_predictions(file)).meta).evaluated_with)


def _has_recorded_masks(run: Path) -> bool:
    from orchestrator.evaluation import read_recorded_masks

    return run.is_dir() and bool(read_recorded_masks(run))


def _evaluate_masks(
    run: Path, masks: Path | None, protocol: str | None, json: bool, strict: bool, is_inverted: bool
) -> None:
    from orchestrator.catalog import task_of
    from orchestrator.evaluation import evaluate_masks, find_predictions, get_mask_protocol
    from orchestrator.predictions import Predictions

    result = evaluate_masks(run, masks, strict, is_inverted, get_mask_protocol(protocol))
    task = task_of(Predictions.load(find_predictions(run)).meta)
    if json:
        figures = [_rename_positives(asdict(part), task.positives_key) for part in (result, *result.data_sets)]
        given = {"run": str(run), "masks": None if masks is None else str(masks)}
        print_json({**given, **figures[0], "data_sets": figures[1:]})
        return
    present, absent = task.describe_images(result.category)
    say(
        f"{count_of(result.images, 'image')}, {result.manipulated} of them {present}; "
        f"image scores are from {result.image_scores_from}"
    )
    if result.protocol is not None:
        say(f"protocol {result.protocol}, on {result.pixels_from}")
    _say_names(result.missing_images, f"annotated images were not predicted; they count as predicted {absent}")
    _say_names(result.failed_images, f"images failed; they count as predicted {absent}")
    _say_names(result.unknown_images, "predicted images have no true mask and do not count")
    say_warnings(result.warnings)
    columns = [_list_mask_figures(part, present) for part in (result, *result.data_sets)]
    title = "localization" if result.protocol is None else f"localization, protocol {result.protocol}"
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    print_table(["", title, *(part.data_set or "" for part in result.data_sets)], rows)


def _rename_positives(figures: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the figures with the number of images that have the category under the task's own key."""
    return {key if name == "manipulated" else name: value for name, value in figures.items()}


def _list_mask_figures(result: Localization, present: str) -> dict[str, str]:
    """Return counts and figures as text by name."""
    from orchestrator.evaluation import list_mask_figures

    counts = {"images": str(result.images), present: str(result.manipulated)}
    return counts | {name: format_share(value) for name, value in list_mask_figures(result).items()}


def _say_names(names: tuple[str, ...], meaning: str) -> None:
    if names:
        say(f"note: {len(names)} {meaning}: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}")


def say_warnings(warnings: Iterable[str], prefix: str = "") -> None:
    """Print what is doubtful about the truth, each warning once."""
    for warning in dict.fromkeys(warnings):
        say(f"{prefix}warning: {warning}")


def _say_images(result: Evaluation) -> None:
    what = "masks" if result.iou == "segm" else "boxes"
    counts = f"{count_of(result.images, 'annotated image')}, {count_of(result.detections, 'instance')}"
    say(f"{what} of {counts}, by {result.engine}")
    if result.protocol != "coco":
        say(f"protocol {result.protocol}")
    _say_names(result.missing_images, "annotated images have no predictions; their instances count as missed")
    _say_names(result.unknown_images, "predicted images are not in the annotations and do not count")
    _say_names(result.failed_images, "images failed when they were predicted; their instances count as missed")
    for note in result.notes:
        say(f"note: {note}")
    say_warnings(result.warnings)


def _print_figures(result: Evaluation) -> None:
    counts, weighted = result.counts, result.weighted
    figures = {
        "AP": result.ap,
        "AP50": result.ap50,
        "AP75": result.ap75,
        "AP small": result.ap_small,
        "AP medium": result.ap_medium,
        "AP large": result.ap_large,
        "AR1": result.ar1,
        "AR10": result.ar10,
        "AR100": result.ar100,
        "AR small": result.ar_small,
        "AR medium": result.ar_medium,
        "AR large": result.ar_large,
        **_list_plain_averages(weighted),
        "mAP_w": weighted.map_w,
        "mAP_w@50": weighted.map_w50,
        "mAP_w@75": weighted.map_w75,
        "mAR_w(1)": weighted.mar_w1,
        "mAR_w(100)": weighted.mar_w100,
    }
    if result.federated is not None:
        figures = _list_federated(figures, result.federated)
    rows = [[name, format_share(value)] for name, value in figures.items()]
    at = f"IoU {result.counts_iou:g}" + (f", score {result.counts_score:g}" if result.counts_score else "")
    rows += [[f"TP, FP, FN ({at})", f"{counts.tp}, {counts.fp}, {counts.fn}"]]
    rows += [["precision, recall", f"{format_share(counts.precision)}, {format_share(counts.recall)}"]]
    print_table(["", result.iou if result.protocol == "coco" else f"{result.iou}, protocol {result.protocol}"], rows)


def _list_plain_averages(weighted: WeightedAverages) -> dict[str, float | None]:
    """Return the averages with equal weights, where the protocol has them."""
    figures = {"mAP": weighted.map, "mAR1": weighted.mar1, "mAR100": weighted.mar100}
    return {name: value for name, value in figures.items() if value is not None}


def _list_federated(figures: dict[str, float | None], federated: FederatedMetrics) -> dict[str, float | None]:
    """Return LVIS's figures: AP as the others, its own, and not those that it does not have."""
    return {
        **{name: value for name, value in figures.items() if name.startswith("AP")},
        "AP rare": federated.ap_rare,
        "AP common": federated.ap_common,
        "AP frequent": federated.ap_frequent,
        "AR300": federated.ar300,
        "AR300 small": federated.ar300_small,
        "AR300 medium": federated.ar300_medium,
        "AR300 large": federated.ar300_large,
    }


def _print_attributes(attributes: AttributeMetrics) -> None:
    name = "AP_IoU+F1"
    figures = {
        name: attributes.ap,
        f"{name}, IoU .50": attributes.ap_iou50,
        f"{name}, IoU .75": attributes.ap_iou75,
        f"{name}, F1 .50": attributes.ap_f1_50,
        f"{name}, F1 .75": attributes.ap_f1_75,
        f"{name}, IoU .50, F1 .50": attributes.ap_iou50_f1_50,
        f"{name}, IoU .50, F1 .75": attributes.ap_iou50_f1_75,
        f"{name}, IoU .75, F1 .50": attributes.ap_iou75_f1_50,
        f"{name}, IoU .75, F1 .75": attributes.ap_iou75_f1_75,
        f"{name} small": attributes.ap_small,
        f"{name} medium": attributes.ap_medium,
        f"{name} large": attributes.ap_large,
        "AR1_IoU+F1": attributes.ar1,
        "AR10_IoU+F1": attributes.ar10,
        "AR100_IoU+F1": attributes.ar100,
        "AR_IoU+F1 small": attributes.ar_small,
        "AR_IoU+F1 medium": attributes.ar_medium,
        "AR_IoU+F1 large": attributes.ar_large,
        "AP_F1": attributes.ap_f1,
    }
    rows = [[name, format_share(value)] for name, value in figures.items()]
    print_table(["", f"attributes that score above {attributes.score:g}"], rows)


def _print_categories(result: Evaluation) -> None:
    columns = ["category", "images", "instances", "AP", "AP50", "AP75", "AR100", "TP", "FP", "FN", "weight"]
    attributes = {} if result.attributes is None else result.attributes.per_category
    columns += ["AP_IoU+F1"] if attributes else []
    rows = [
        [
            category.name,
            str(category.annotated_images),
            str(category.annotations),
            *(format_share(value) for value in (category.ap, category.ap50, category.ap75, category.ar100)),
            *(str(count) for count in (category.counts.tp, category.counts.fp, category.counts.fn)),
            format_share(category.weight),
            *([format_share(attributes.get(category.id))] if attributes else []),
        ]
        for category in result.per_category
    ]
    print_table(columns, rows)


def format_share(value: float | None) -> str:
    """Return a figure in [0, 1] as text."""
    return "–" if value is None else f"{value:.3f}"
