"""`orch equivalence`: compare two variants of a stack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import common
from orchestrator.cli.completion import complete_model
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, PredictionsError, UsageError

if TYPE_CHECKING:
    from orchestrator.workflows import Equivalence


def equivalence(
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_model, help="See orch models.")],
    variants: Annotated[str, typer.Option(metavar="A,B", help="The two variants to compare.")],
    images: Annotated[
        list[str] | None,
        typer.Option("--images", "-i", metavar="SOURCE", help="As in orch run. Default: three photographs."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Use random weights instead of the model's.")
    ] = False,
    score_threshold: Annotated[
        float | None, typer.Option(metavar="SCORE", min=0, max=1, help="Lowest score to keep. Default: the model's.")
    ] = None,
    score_tolerance: Annotated[
        float, typer.Option(metavar="X", min=0, help="Largest accepted difference of scores.")
    ] = 1e-4,
    mask_iou: Annotated[
        float, typer.Option(metavar="IOU", min=0, max=1, help="Lowest accepted overlap of masks.")
    ] = 0.999,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", callback=common.check_folder, help="Keep both runs in this folder."),
    ] = None,
    runtime: common.RuntimeOption = "auto",
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads per worker.")] = None,
    base_image: Annotated[
        list[str] | None,
        typer.Option("--base-image", metavar="[VARIANT=]IMAGE", help="Build on this base image; repeatable."),
    ] = None,
    build_arg: common.BuildArgOption = None,
    offline: common.OfflineOption = False,
    stacks: common.StacksOption = None,
    json: common.JsonOption = False,
) -> int:
    """Compare the predictions of two variants.

    Runs a model through both and records whether labels, scores and masks agree.
    """
    entry = common.catalog(stacks).model(model)
    from orchestrator.cli.progress import make_display
    from orchestrator.evaluation import Tolerances
    from orchestrator.plan import RunOptions
    from orchestrator.workflows import check_equivalence

    names = [name.strip() for name in variants.split(",")]
    for_all, of_variant = _base_images(base_image or [], names)
    options = RunOptions(
        images=images or [],
        runtime=runtime,
        score_threshold=score_threshold,
        threads=threads,
        offline=offline,
        build=common.make_build_options(for_all, build_arg, rebuild=False, offline=offline),
    )
    result = check_equivalence(
        entry,
        names,
        options,
        make_display(json=json, quiet=False),
        folder=out,
        random_weights=random_weights,
        tolerances=Tolerances(score_tolerance, mask_iou),
        base_images=of_variant,
    )
    common.print_json(result.as_json()) if json else _print(result)
    return EXIT_OK if result.agreement.is_equal else PredictionsError.exit_code


def _base_images(given: list[str], variants: list[str]) -> tuple[str | None, dict[str, str]]:
    """Return the base image of all variants, and those of single variants. Raises UsageError."""
    of_variant: dict[str, str] = {}
    for_all = None
    for text in given:
        name, equals, image = text.partition("=")
        if not equals:
            for_all = text
        elif name in variants and image:
            of_variant[name] = image
        else:
            raise UsageError(
                f"--base-image {text}: write it as IMAGE, or as VARIANT=IMAGE with one of the two variants"
            )
    return for_all, of_variant


def _print(result: Equivalence) -> None:
    tolerances = result.agreement.tolerances
    rows = [
        [
            image.image_file,
            str(image.instances),
            str(image.alone - image.at_floor),
            f"{max(image.score_difference, image.image_score_difference or 0.0):.1e}",
            f"{image.least_iou:.5f}",
            f"{image.attribute_difference:.1e}",
            image.fault or ("yes" if image.is_equal(tolerances) else "no"),
        ]
        for image in result.agreement.images
    ]
    print_table(
        [
            "image",
            "pairs",
            "unpaired",
            "scores apart",
            f"least {result.agreement.overlap_of} IoU",
            "attributes apart",
            "equal",
        ],
        rows,
    )
    first, second = result.variants
    verdict = "are equivalent" if result.agreement.is_equal else "are NOT equivalent"
    weights = " (random weights)" if result.random_weights else ""
    overlap = f"{result.agreement.overlap_of} IoU of at least {tolerances.mask_iou:g}"
    required = f"equal labels, scores within {tolerances.score:g}, {overlap}"
    common.say(f"{result.model}: {first} and {second} {verdict}{weights}; required: {required}")
    common.say(f"recorded: {result.record}")
