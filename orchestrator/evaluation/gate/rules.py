"""The rules of `--fail-on`: parse them from text, judge a run by them. Pure values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import PredictionsError, UsageError

EXAMPLES = "rules are failed-images, failed-images:5, failed-images:1% and ap-drop:0.01"
ROUNDING = 1e-9  # figures of two engines differ by less
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")


@dataclass(frozen=True)
class Findings:
    """What rules judge; AP in [0, 1], None if nothing was evaluated or nothing is annotated."""

    images: int
    failed: int
    ap: float | None = None
    baseline_ap: float | None = None


@dataclass(frozen=True)
class Verdict:
    """One rule, whether the run broke it, and a message with the figures."""

    rule: str
    is_broken: bool
    message: str


@dataclass(frozen=True)
class FigureChange:
    """A figure of the baseline and of the run; `difference` is None where either is None."""

    name: str
    baseline: float | None
    now: float | None

    @property
    def difference(self) -> float | None:
        """The run's figure minus the baseline's."""
        return None if self.baseline is None or self.now is None else self.now - self.baseline

    def as_json(self) -> dict[str, float | None]:
        return {"baseline": self.baseline, "now": self.now, "difference": self.difference}


@dataclass(frozen=True)
class FailedImages:
    """At most `limit` images may fail, or with `percent` at most that share of all."""

    limit: float = 0
    percent: bool = False

    def __str__(self) -> str:
        return "failed-images" + (f":{self.limit:g}{'%' if self.percent else ''}" if self.limit else "")

    def judge(self, findings: Findings) -> Verdict:
        """Return a broken verdict if too many images failed."""
        allowed = findings.images * self.limit / 100 if self.percent else self.limit
        failed = f"{findings.failed} of {findings.images} images failed"
        limit = f"{self.limit:g}% of them" if self.percent else f"{self.limit:g}"
        return Verdict(str(self), findings.failed > allowed + ROUNDING, f"{failed}, at most {limit} may")


@dataclass(frozen=True)
class ApDrop:
    """AP may be at most `limit` below the baseline's."""

    limit: float = 0

    def __str__(self) -> str:
        return f"ap-drop:{self.limit:g}"

    def judge(self, findings: Findings) -> Verdict:
        """Return a broken verdict if AP fell too far. PredictionsError when there is no AP."""
        if findings.ap is None or findings.baseline_ap is None:
            why = "the annotations have no instance, so there is no AP"
            raise PredictionsError(f"{self} cannot be judged", why=why)
        drop = findings.baseline_ap - findings.ap
        moved = (
            f"fell by {drop:.4f}" if drop > ROUNDING else f"rose by {-drop:.4f}" if drop < -ROUNDING else "is the same"
        )
        figures = f"{findings.ap:.4f}, the baseline has {findings.baseline_ap:.4f}"
        message = f"AP {moved}: {figures}; it may fall by {self.limit:g}"
        return Verdict(str(self), drop > self.limit + ROUNDING, message)


Rule = FailedImages | ApDrop


def parse_rules(texts: Sequence[str], implied: bool = True) -> tuple[Rule, ...]:
    """Parse rules; with `implied` no image may fail unless a rule says otherwise. Raises UsageError."""
    rules = [_parse_rule(text.strip()) for text in texts]
    for kind in (FailedImages, ApDrop):
        alike = [str(rule) for rule in rules if isinstance(rule, kind)]
        if len(alike) > 1:
            raise UsageError(f"--fail-on has two rules of one kind: {', '.join(alike)}")
    if implied and not any(isinstance(rule, FailedImages) for rule in rules):
        rules.insert(0, FailedImages())
    return tuple(rules)


def judge_rules(rules: Sequence[Rule], findings: Findings) -> tuple[Verdict, ...]:
    """Return the verdict on each rule. Raises PredictionsError when one cannot be judged."""
    return tuple(rule.judge(findings) for rule in rules)


def format_verdicts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the verdicts as --json prints them."""
    return {
        "rules": [
            {"rule": verdict.rule, "broken": verdict.is_broken, "message": verdict.message} for verdict in verdicts
        ],
        "broken_rules": [verdict.rule for verdict in verdicts if verdict.is_broken],
    }


def _parse_rule(text: str) -> Rule:
    name, _, value = text.partition(":")
    if name == "failed-images":
        percent = value.endswith("%")
        limit = _parse_number(text, value.removesuffix("%")) if value or ":" in text else 0.0
        if percent and limit > 100:
            raise UsageError(f"--fail-on {text}: a share is at most 100%")
        if not percent and limit != int(limit):
            raise UsageError(f"--fail-on {text}: images are counted in whole numbers", why=EXAMPLES)
        return FailedImages(limit, percent)
    if name == "ap-drop":
        limit = _parse_number(text, value)
        if limit > 1:
            raise UsageError(f"--fail-on {text}: AP is between 0 and 1, so a drop is too", why=EXAMPLES)
        return ApDrop(limit)
    raise UsageError(f"--fail-on {text}: unknown rule", why=EXAMPLES)


def _parse_number(text: str, value: str) -> float:
    if not _NUMBER.fullmatch(value) or not math.isfinite(float(value)):
        raise UsageError(f"--fail-on {text}: {value!r} is not a number", why=EXAMPLES)
    return float(value)
