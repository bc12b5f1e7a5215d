"""Say what of the true masks is doubtful, with numbers; skip the few that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import OrchError
from orchestrator.evaluation.coco.truth_checks import SKIPPABLE, shorten
from orchestrator.evaluation.localization.ground_truth import TrueMask
from orchestrator.evaluation.localization.mask_file import ONES, Drawing


def skip_faulty(truth: Sequence[TrueMask], outcomes: Sequence[object]) -> tuple[list[int], list[str], list[str]]:
    """Return the indices of usable masks, warnings, and what is skipped, of outcomes that are an OrchError or not.

    Raises the first error when more than a share of SKIPPABLE are errors.
    """
    errors = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, OrchError)}
    kept = [index for index in range(len(outcomes)) if index not in errors]
    if not errors:
        return kept, [], []
    if len(errors) > SKIPPABLE * len(outcomes):
        first = next(iter(errors.values()))
        if len(errors) > 1:
            names = shorten([truth[index].image for index in errors])
            first.why = f"{first.why}; {len(errors)} of {len(outcomes)} true masks cannot be used: {names}"
        raise first
    skipped = [f"{truth[index].image}: {error.message}: {error.why}" for index, error in errors.items()]
    return kept, [f"{len(errors)} of {len(outcomes)} true masks are skipped: {shorten(skipped)}"], skipped


def describe_drawings(truth: Sequence[TrueMask], drawings: Sequence[Drawing], is_inverted: bool) -> list[str]:
    """Return warnings on how true masks are drawn: once for each way, on black and white, and on empty ones."""
    ways: dict[str, list[int]] = {}
    for index, drawing in enumerate(drawings):
        if drawing.how is not None:
            ways.setdefault(drawing.how, []).append(index)
    marked = [index for index, drawing in enumerate(drawings) if drawing.has_manipulated]
    if len(ways.get(ONES, ())) == len(marked):  # a data set of zeros and ones is as clear as one of 0 and 255
        ways.pop(ONES, None)
    warnings = [
        f"{len(indices)} of {len(drawings)} true masks {how} (the first: {truth[indices[0]].mask})"
        for how, indices in ways.items()
    ]
    inverted = [index for index in marked if drawings[index].looks_inverted]
    if inverted and 2 * len(inverted) >= len(marked):
        hint = "drop --inverted-masks" if is_inverted else "add --inverted-masks if black is manipulated"
        warnings.append(
            f"in {len(inverted)} of {len(marked)} true masks most of the image and of its border is manipulated (the "
            f"first: {truth[inverted[0]].mask}); NIST16 and DSO-1 draw manipulated pixels black; {hint}"
        )
    given = [mask for mask in truth if mask.mask is not None]
    if given and not marked:
        warnings.append(
            f"none of {len(given)} true masks has a manipulated pixel (the first: {given[0].mask}), so the figures of "
            "pixels stay empty; white (255) marks manipulated pixels"
        )
    return warnings
