"""Completion, as a shell asks for it."""

from __future__ import annotations

import pytest

from orchestrator.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("words", "offered", "other"),
    [
        (["run", "--model", "gar"], "garments-tiny", "facere"),
        (["run", "gar"], "garments-tiny", "facere"),
        (["run", "--model", "garments-tiny", "gar"], "", "garments-tiny"),
        (["run", "--model", "garments-tiny", "--set", "nms"], "nms_iou=", "mask_threshold="),
        (["run", "garments-tiny", "photos", "--set", "nms"], "nms_iou=", "mask_threshold="),
        (["run", "garments-tiny", "photos", "--variant", ""], "cpu", "cu102"),
        (["run", "garments-tiny", "gar"], "", "garments-tiny"),
        (["models", "gar"], "garments-tiny", "facere"),
        (["models", "sh"], "show", "list"),
        (["export", "result", "--format", "co"], "coco", "yolo"),
        (["help", "ex"], "exit-codes", "formats"),
        (["help", "weights", "a"], "add", "fetch"),
        (["plan", "fformer-swin", "--variant", "cu"], "cu102", "cpu"),
        (["plan", "garments-tiny", "--variant", ""], "cpu", "cu102"),
        (["build", "tex"], "textlines", "garments"),
        (["run", "--runtime", "ve"], "venv", "docker"),
        (["he"], "help", "run"),
    ],
)
def test_the_shell_is_offered_names(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, words: list[str], offered: str, other: str
) -> None:
    monkeypatch.setenv("_ORCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["orch", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit):
        main([])
    lines = capsys.readouterr().out.split("\n")
    assert offered in lines
    assert other not in lines


def test_broken_stacks_offer_nothing(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stacks")
    (folder / "broken").mkdir()
    (folder / "broken" / "stack.yaml").write_text("name: [")
    monkeypatch.setenv("ORCH_STACKS", str(folder))
    monkeypatch.setenv("_ORCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "orch run --model gar")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.strip() == ""
