"""At most five names are suggested for an unknown one, however many are known."""

from __future__ import annotations

import pytest

from orchestrator.system.suggestions import did_you_mean, unknown_name


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("garment", ["garments-tiny", "textlines"], "did you mean garments-tiny?"),
        ("FORMER", ["Fformer", "former"], "did you mean former or Fformer?"),
        ("xxxxxxx", ["b", "a"], "known: a, b"),
        ("xxxxxxx", [], None),
        ("xxxxxxx", [f"model-{number}" for number in range(40)], None),
    ],
)
def test_the_nearest_names_are_suggested(name: str, known: list[str], sentence: str | None) -> None:
    assert did_you_mean(name, known) == sentence


def test_five_names_at_most() -> None:
    sentence = did_you_mean("model", [f"model-{number}" for number in range(40)])
    assert sentence is not None
    assert sentence.count("model-") == 5


def test_the_error_names_the_kind_and_the_next_command() -> None:
    error = unknown_name("model", "fformer-swim", ["fformer-swin"], hint="orch models")
    assert (error.message, error.why, error.hint, error.exit_code) == (
        "unknown model 'fformer-swim'", "did you mean fformer-swin?", "orch models", 2,
    )  # fmt: skip
