"""The rules of `--fail-on`: parsed from text, judged on what a run gave. Pure values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.errors import PredictionsError, UsageError

HELP = "there is failed-images, failed-images:5, failed-images:1% and ap-drop:0.01"
ROUNDING = 1e-9
"""Two evaluations of the same predictions by different engines agree to this."""
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")


@dataclass(frozen=True)
class Findings:
    """What rules are judged on; AP in [0, 1], None where nothing was evaluated or nothing is annotated."""

    images: int
    failed: int
    ap: float | None = None
    baseline_ap: float | None = None

    def with_ap(self, ap: float | None, baseline_ap: float | None) -> Findings:
        """The same images, evaluated."""
        return replace(self, ap=ap, baseline_ap=baseline_ap)


@dataclass(frozen=True)
class Verdict:
    """One rule, whether the run broke it, and the figures."""

    rule: str
    broken: bool
    message: str


@dataclass(frozen=True)
class FailedImages:
    """No more images may fail than `most`, or with `percent` than that share of all."""

    most: float = 0
    percent: bool = False

    def __str__(self) -> str:
        return "failed-images" + (f":{self.most:g}{'%' if self.percent else ''}" if self.most else "")

    def judge(self, found: Findings) -> Verdict:
        """Broken where too many failed."""
        allowed = found.images * self.most / 100 if self.percent else self.most
        failed = f"{found.failed} of {found.images} images failed"
        limit = f"{self.most:g}% of them" if self.percent else f"{self.most:g}"
        return Verdict(str(self), found.failed > allowed + ROUNDING, f"{failed}, at most {limit} may")


@dataclass(frozen=True)
class ApDrop:
    """AP may not be more than `most` below the baseline's."""

    most: float = 0

    def __str__(self) -> str:
        return f"ap-drop:{self.most:g}"

    def judge(self, found: Findings) -> Verdict:
        """Broken where AP fell too far. PredictionsError where there is no AP."""
        if found.ap is None or found.baseline_ap is None:
            raise PredictionsError(
                f"{self} cannot be judged", why="the annotations have no instance, so there is no AP"
            )
        drop = found.baseline_ap - found.ap
        moved = (
            f"fell by {drop:.4f}" if drop > ROUNDING else f"rose by {-drop:.4f}" if drop < -ROUNDING else "is the same"
        )
        message = f"AP {moved}: {found.ap:.4f}, the baseline has {found.baseline_ap:.4f}; it may fall by {self.most:g}"
        return Verdict(str(self), drop > self.most + ROUNDING, message)


Rule = FailedImages | ApDrop


def parse_rules(texts: Sequence[str], implied: bool = True) -> tuple[Rule, ...]:
    """The rules that were asked for; with `implied` no image may fail unless another number was given.

    Raises UsageError.
    """
    rules = [_rule(text.strip()) for text in texts]
    for kind in (FailedImages, ApDrop):
        alike = [str(rule) for rule in rules if isinstance(rule, kind)]
        if len(alike) > 1:
            raise UsageError(f"--fail-on was given twice for one thing: {', '.join(alike)}")
    if implied and not any(isinstance(rule, FailedImages) for rule in rules):
        rules.insert(0, FailedImages())
    return tuple(rules)


def judge(rules: Sequence[Rule], found: Findings) -> tuple[Verdict, ...]:
    """The verdict on each rule. Raises PredictionsError where one cannot be judged."""
    return tuple(rule.judge(found) for rule in rules)


def verdicts_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """As --json tells of them."""
    return {
        "rules": [{"rule": one.rule, "broken": one.broken, "message": one.message} for one in verdicts],
        "broken_rules": [one.rule for one in verdicts if one.broken],
    }


def _rule(text: str) -> Rule:
    name, _, value = text.partition(":")
    if name == "failed-images":
        percent = value.endswith("%")
        most = _number(text, value.removesuffix("%")) if value or ":" in text else 0.0
        if percent and most > 100:
            raise UsageError(f"--fail-on {text}: a share is at most 100%")
        if not percent and most != int(most):
            raise UsageError(f"--fail-on {text}: images are counted in whole numbers", why=HELP)
        return FailedImages(most, percent)
    if name == "ap-drop":
        most = _number(text, value)
        if most > 1:
            raise UsageError(f"--fail-on {text}: AP is between 0 and 1, so a drop is too", why=HELP)
        return ApDrop(most)
    raise UsageError(f"--fail-on {text}: there is no such rule", why=HELP)


def _number(text: str, value: str) -> float:
    if not _NUMBER.fullmatch(value) or not math.isfinite(float(value)):
        raise UsageError(f"--fail-on {text}: {value!r} is no number", why=HELP)
    return float(value)
