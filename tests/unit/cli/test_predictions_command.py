"""`orch inspect`, `validate`, `export`: what they print of a file, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.cli import main
from tests.unit.predictions.predictions_samples import META, sample_arrays, save

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(sample_arrays(), tmp_path / "p.npz")


def test_inspect_counts_what_is_in_a_file(file: Path, capsys: Captured) -> None:
    assert main(["inspect", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "file": str(file),
        "images": 4,
        "failed": 1,
        "instances": 6,
        "has_masks": True,
        "images_without_instances": 0,
        "instances_by_category": {"shirt": 2, "hat": 2, "bag": 2},
        "meta": META,
    }
    assert main(["inspect", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line[:26].strip(): line[26:] for line in lines}
    assert (shown["images"], shown["failed"], shown["model"], shown["build"]) == ("4", "1", "sample", "none")
    assert shown["instances by category"] == "shirt 2, hat 2, bag 2"
    assert "meta" not in shown
    assert lines[-1] == "failed: sub/c.png: truncated file"


def test_inspect_reads_a_file_with_a_negative_class(tmp_path: Path, capsys: Captured) -> None:
    arrays = sample_arrays()
    arrays["classes"][0] = -1
    assert main(["inspect", str(save(arrays, tmp_path / "p.npz")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["instances"] == 6


def test_inspect_shows_one_image_by_name_or_number(file: Path, capsys: Captured) -> None:
    for image in ("sub/b.jpg", "1"):
        assert main(["inspect", str(file), "--image", image, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["image_file"], found["size"], found["error"]) == ("sub/b.jpg", [50, 30], "")
        assert [one["category"] for one in found["instances"]] == ["bag", "shirt", "hat"]
        assert found["instances"][0] == {"category": "bag", "score": 0.8, "box": [4.0, 5.0, 16.0, 19.0]}
    assert main(["inspect", str(file), "--image", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == "bag\t0.8\t4.0, 5.0, 16.0, 19.0"
    assert err == "sub/b.jpg: 3 instances\n"
    assert main(["inspect", str(file), "--image", "sub/c.png"]) == 0
    assert capsys.readouterr().err == "sub/c.png: truncated file\n"
    for unknown in ("sub/x.jpg", "4"):
        assert main(["inspect", str(file), "--image", unknown]) == 2
        assert f"the file has no image '{unknown}'" in capsys.readouterr().err


def test_validate(file: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["validate", str(file)]) == 0
    assert capsys.readouterr().err == "valid: 4 images, 6 instances\n"
    assert main(["validate", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "problems": [], "images": 4, "instances": 6}
    broken = {**sample_arrays(), "scores": np.full(6, 7, np.float32)}
    path = str(save(broken, tmp_path / "broken.npz"))
    assert main(["validate", path]) == 6
    assert "breaks the format" in capsys.readouterr().err
    assert main(["validate", path, "--json"]) == 6
    found = json.loads(capsys.readouterr().out)
    assert found["valid"] is False
    assert any("scores" in problem for problem in found["problems"])


def test_export_names_its_file_after_the_format(file: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["export", str(file), "-f", "coco", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "format": "coco",
        "output": str(tmp_path / "p-coco.json"),
        "left_out": ["attributes", "image scores", "1 failed image"],
    }
    assert len(json.loads((tmp_path / "p-coco.json").read_text())) == 6
    assert main(["export", str(file), "-f", "fashionfail", "-o", str(tmp_path / "x.npz")]) == 0
    lines = ("wrote " + str(tmp_path / "x.npz"), "note: left out: image scores, 1 failed image")
    assert capsys.readouterr().err == "".join(f"{line}\n" for line in lines)
    with np.load(tmp_path / "x.npz", allow_pickle=True) as exported:
        assert [one["image_file"] for one in exported["data"]] == ["a.jpg", "sub/b.jpg", "other/b.jpg"]
    assert main(["export", str(file), "-f", "cocoa"]) == 2
    assert "did you mean coco?" in capsys.readouterr().err


def test_next_steps_do_not_lead_in_circles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    assert main(["inspect", str(tmp_path / "photos")]) == 2
    assert "is no run directory" in capsys.readouterr().err
    (tmp_path / "p.npz").write_text("damaged")
    assert main(["validate", str(tmp_path / "p.npz")]) == 6
    assert "orch validate" not in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "p.npz")]) == 6
    assert "next: orch validate" in capsys.readouterr().err
    assert main(["run", "--spool", str(tmp_path / "p.npz"), "garments-tiny", str(tmp_path / "photos")]) == 2
    assert "--spool" in capsys.readouterr().err


def test_next_steps_of_an_env_file_outside_a_clone(
    tmp_path: Path, orch_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compose", "--env", "--out", str(tmp_path / ".env")]) == 0
    assert f"next: orch compose --out {tmp_path / 'compose.yaml'}\n" in capsys.readouterr().err
    (tmp_path / "compose.yaml").touch()
    assert main(["compose", "--env", "--out", str(tmp_path / ".env")]) == 0
    assert "orch compose --out" not in capsys.readouterr().err
