"""The page on runs with true masks: figures, the curve, and heat maps beside image and truth."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from orchestrator.cli import main
from orchestrator.reports.html.mask_gallery import HEAT_TABLE
from tests.unit.evaluation.test_compare_masks import TRUTHS, record_truth, two
from tests.unit.evaluation.test_localization import FILES, SIZE, arrays
from tests.unit.reports.test_report import Outside, data_of, photographs


def pixels(url: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def written(folder: Path, *given: Any) -> str:
    assert main(["report", *map(str, given), "-o", str(folder / "r.html"), "--resamples", "20"]) == 0
    return (folder / "r.html").read_text()


def test_a_page_of_two_runs(tmp_path: Path) -> None:
    runs, source = two(tmp_path)
    images = photographs(tmp_path / "images", FILES, SIZE)
    page = written(tmp_path, *runs, "--masks", source, "--image-root", images)
    parser = Outside()
    parser.feed(page)
    assert parser.fetched == []
    assert "<dt>best pixel F1 at 0.5</dt><dd>0.556</dd>" in page
    assert "F1 over threshold" in page
    assert "0.56 / 0.44" in page  # the best F1 of both runs
    assert 'id="scores"' not in page
    assert "−0.111 [" in page
    data = data_of(page)
    assert data["names"] == ["image", "truth", "good", "worse"]
    by_file = {image["file"]: image for image in data["images"]}
    assert list(by_file) == FILES
    assert all(len(image["panels"]) == 4 and image["url"] for image in data["images"])
    # The worse run finds half of the first image's region: 1 - F1 = 1/3; it calls all of the genuine one manipulated.
    assert [by_file[file]["apart"] for file in FILES] == [0.333, 0, 0, 1]
    image, truth, good, worse = by_file["a.jpg"]["panels"]
    assert image == {"words": ""}
    assert (truth["words"], good["words"], worse["words"]) == ("50.0% manipulated", "error 0.00", "error 0.33")
    assert by_file["d.jpg"]["panels"][1]["words"] == "genuine"
    shown = pixels(truth["url"])
    assert shown.shape == (*SIZE, 3)
    assert shown[:, 2].min() > 240
    assert shown[:, -3].max() < 15
    heat = pixels(worse["url"]).astype(int)
    for column, level in ((2, 255), (12, 0), (29, 0)):
        assert np.abs(heat[12, column] - HEAT_TABLE[level]).max() < 40


def test_a_page_of_one_run_with_recorded_masks(tmp_path: Path) -> None:
    runs, _ = two(tmp_path)
    record_truth(runs, tmp_path, TRUTHS)
    data = data_of(written(tmp_path, runs[1]))
    assert data["names"] == ["image", "truth", "worse"]
    assert [image["apart"] for image in data["images"]] == [0.333, 0.333, 1, 1]  # of one run: its errors


def test_images_that_failed_or_have_no_true_mask(tmp_path: Path) -> None:
    runs, source = two(tmp_path, stored=arrays(failed=(0,)))
    (source / "d.png").unlink()
    page = written(tmp_path, *runs, "--masks", source)
    by_file = {image["file"]: image for image in data_of(page)["images"]}
    assert by_file["a.jpg"]["panels"][3] == {"error": "failed: broken"}
    assert by_file["d.jpg"]["panels"][1] == {"error": "no true mask"}
    assert "only predictions were given" in by_file["a.jpg"]["note"]
    assert "4 images could not be shown" in page


def test_limits_of_the_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source = two(tmp_path)
    data = data_of(written(tmp_path, *runs, "--masks", source, "--max-images", 2))
    assert "d.jpg" in [image["file"] for image in data["images"]]  # that of the most disagreement
    assert len(data["images"]) == 2
    capsys.readouterr()
    given = ["report", *map(str, runs), "--masks", str(source), "-o", str(tmp_path / "r.html")]
    assert main([*given, "--json", "--inverted-masks", "--protocol", "imdlbenco"]) == 0
    assert json.loads(capsys.readouterr().out)["shown"] == 4
    assert main([*given, "-a", "x.json"]) == 2
    assert main(["report", *map(str, runs), "--masks", str(source), "-o", str(tmp_path)]) == 2
