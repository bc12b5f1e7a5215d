"""--fail-on: what a rule means, and every way of writing it wrongly."""

from __future__ import annotations

import pytest

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.gate.rules import ApDrop, FailedImages, Findings, Verdict, judge_rules, parse_rules


@pytest.mark.parametrize(
    ("text", "images", "failed", "broken"),
    [
        ("failed-images", 10, 0, False),
        ("failed-images", 10, 1, True),
        ("failed-images:5", 10, 5, False),
        ("failed-images:5", 10, 6, True),
        ("failed-images:1%", 300, 3, False),
        ("failed-images:1%", 300, 4, True),
        ("failed-images:0.5%", 100, 1, True),
        ("failed-images:29%", 100, 29, False),  # 100 · 29 / 100 is 28.999999999999996 in another order
        ("failed-images:100%", 7, 7, False),
    ],
)
def test_so_many_images_may_fail(text: str, images: int, failed: int, broken: bool) -> None:
    (verdict,) = judge_rules(parse_rules([text]), Findings(images, failed))
    assert (verdict.rule, verdict.is_broken) == (text, broken)
    assert verdict.message.startswith(f"{failed} of {images} images failed, at most ")


@pytest.mark.parametrize(
    ("most", "now", "then", "broken"),
    [
        (0.01, 0.60, 0.61, False),
        (0.01, 0.5999, 0.61, True),
        (0, 0.61, 0.61, False),
        (0, 0.61 - 1e-12, 0.61, False),  # rounding of another engine
        (0, 0.6099, 0.61, True),
        (0.01, 0.9, 0.61, False),
    ],
)
def test_ap_may_fall_so_far(most: float, now: float, then: float, broken: bool) -> None:
    assert ApDrop(most).judge(Findings(1, 0, now, then)).is_broken is broken


def test_what_a_verdict_says() -> None:
    assert judge_rules(parse_rules(["ap-drop:0.01"]), Findings(60, 3, 0.7, 0.75)) == (
        Verdict("failed-images", True, "3 of 60 images failed, at most 0 may"),
        Verdict("ap-drop:0.01", True, "AP fell by 0.0500: 0.7000, the baseline has 0.7500; it may fall by 0.01"),
    )


def test_no_image_may_fail_unless_another_number_is_given() -> None:
    assert parse_rules([]) == (FailedImages(),)
    assert parse_rules(["ap-drop:0.02"]) == (FailedImages(), ApDrop(0.02))
    assert parse_rules(["failed-images:2%", " ap-drop:.5 "]) == (FailedImages(2, percent=True), ApDrop(0.5))
    assert parse_rules([], implied=False) == ()


@pytest.mark.parametrize(
    "text",
    ["", "failed", "failed-images:", "failed-images:-1", "failed-images:1.5", "failed-images:101%", "failed-images:x",
     "ap-drop", "ap-drop:", "ap-drop:1%", "ap-drop:2", "ap-drop:-0.1", "ap-drop:nan", "ap-drop:1e999", "recall:0.1"],
)  # fmt: skip
def test_a_rule_nobody_knows_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rules([text])
    assert text in caught.value.message


def test_two_rules_on_one_thing_are_an_error() -> None:
    with pytest.raises(UsageError, match="failed-images:1, failed-images:2"):
        parse_rules(["failed-images:1", "failed-images:2"])


def test_a_drop_without_ap_cannot_be_judged() -> None:
    with pytest.raises(PredictionsError, match=r"ap-drop:0\.1 cannot be judged"):
        ApDrop(0.1).judge(Findings(1, 0, None, None))
