"""The page holds everything inside, shows what it says it shows, and cannot be broken out of by a file name."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.compare.compare import CompareOptions
from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from orchestrator.reports.html.charts import draw_histogram, draw_precision_recall
from orchestrator.reports.html.gallery import PageLimits, choose_images
from orchestrator.reports.html.thumbnails import fit_size, make_thumbnail, shrink_mask
from orchestrator.reports.html.write import ReportOptions, WrittenReport, write_report
from orchestrator.system.display import SilentDisplay
from tests.unit.evaluation.compare_samples import changed, two_runs
from tests.unit.evaluation.evaluate_samples import SIZE
from tests.unit.predictions.predictions_samples import Arrays, box_mask, sample_arrays, save

QUICK = CompareOptions(resamples=20)


class Outside(HTMLParser):
    """Collects what a page would fetch, and the elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            value for name, value in attrs
            if value and (name in ("src", "srcset", "action", "data") or (name == "href" and tag != "a"))
        ]  # fmt: skip


def report(
    tmp_path: Path, paths: list[Path], annotations: Path | None = None, **options: Any
) -> tuple[str, WrittenReport]:
    given = ReportOptions(**{"compare": QUICK, **options})
    written = write_report(paths, annotations, tmp_path / "r.html", given, SilentDisplay())
    return (tmp_path / "r.html").read_text(), written


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def photographs(folder: Path, files: list[str], size: tuple[int, int] = SIZE) -> Path:
    for number, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], (number * 20 % 256, 80, 120)).save(folder / file)
    return folder


def test_a_page_of_two_runs_with_truth(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    images = photographs(tmp_path / "images", Predictions.load(good).files)
    page, written = report(tmp_path, [good, worse], truth, image_root=images)
    assert (written.images, written.shown, written.bytes) == (12, 12, len(page.encode()))
    parser = Outside()
    parser.feed(page)
    assert parser.fetched == []
    assert "Content-Security-Policy" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    data = data_of(page)
    assert data["runs"] == ["good", "worse"]
    assert data["truth"] is True
    assert [image["file"] for image in data["images"]] == Predictions.load(good).files
    assert all(re.match(r"data:image/(webp|jpeg);base64,", image["url"]) for image in data["images"])
    assert [len(image["panels"]) for image in data["images"]] == [3] * 12
    shown = [one for image in data["images"] for one in image["panels"][1]["instances"]]
    predictions = Predictions.load(good)
    assert len(shown) == (predictions.scores >= 0.3).sum()
    assert {one[4] for one in shown} == {0, 1}
    assert page.count("<polyline") == 6  # three annotated categories, two runs
    assert "<b>shoe</b>" not in page  # not annotated: no curve


def test_right_wrong_and_found_are_those_of_the_matching(tmp_path: Path) -> None:
    from orchestrator.evaluation.coco.evaluate import CountLevel, evaluate

    good, _, truth = two_runs(tmp_path)
    limits = PageLimits(min_score=0.4)
    data = data_of(report(tmp_path, [good], truth, limits=limits)[0])
    counts = evaluate(Predictions.load(good), truth, counts_at=CountLevel(0.5, 0.4)).counts
    shown = [one for image in data["images"] for one in image["panels"][1]["instances"]]
    crowds = sum(one.get("iscrowd", 0) for one in json.loads(truth.read_text())["annotations"])
    assert crowds
    assert sum(one[4] == 0 for one in shown) == counts.fp
    found = [score for image in data["images"] for score in image["panels"][1]["found"]]
    assert found.count(None) == crowds
    assert sum(score is not None and score < 0.4 for score in found) == counts.fn


def test_failures_and_missing_pictures_are_told(tmp_path: Path) -> None:
    path = save(sample_arrays(), tmp_path / "p.npz")
    page, _ = report(tmp_path, [path])
    assert "truncated file" in page
    data = data_of(page)
    assert data["images"][2]["panels"] == [{"error": "failed: truncated file"}]
    assert data["images"][0]["note"] == "the image files are not known: only predictions were given"
    assert "4 images could not be shown" in page
    (tmp_path / "a.jpg").write_text("no image")
    data = data_of(report(tmp_path, [path], image_root=tmp_path)[0])
    assert data["images"][0]["note"].startswith("the image cannot be shown: cannot identify image file")
    assert data["images"][0]["size"] == [60, 40]


def test_names_cannot_break_out(tmp_path: Path) -> None:
    arrays = sample_arrays()
    evil = "</script><img src=x onerror=alert(1)>"
    arrays["image_file"] = np.array([evil.replace("/", "") + ".jpg", "b&amp;.jpg", "c.png", "d.png"])
    arrays["error"] = np.array(["", "", evil, ""])
    categories = [{"id": 0, "name": evil}, {"id": 5, "name": "hat"}, {"id": 7, "name": "bag"}]
    page, _ = report(
        tmp_path, [save(changed(arrays, model=evil, categories=categories), tmp_path / "p.npz")], title=evil
    )
    parser = Outside()
    parser.feed(page)
    assert "img" not in parser.tags
    assert parser.tags.count("script") == 2
    assert data_of(page)["images"][1]["file"] == "b&amp;.jpg"


def test_the_budget_keeps_the_most_telling_images(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    page, written = report(tmp_path, [good, worse], truth, limits=PageLimits(images=4))
    assert (written.shown, written.images) == (4, 12)
    assert "4 of 12 images: of at most 4, half are those with the most disagreement" in page
    everything = data_of(report(tmp_path, [good, worse], truth)[0])["images"]
    worst = sorted(everything, key=lambda image: -image["apart"])[:2]
    kept = {image["file"] for image in data_of(page)["images"]}
    assert {image["file"] for image in worst} <= kept
    page, written = report(tmp_path, [good, worse], truth, limits=PageLimits(megabytes=0.006))
    assert 1 <= written.shown < 12
    assert "the page is limited to 0.006 MB" in page
    assert worst[0]["file"] in {image["file"] for image in data_of(page)["images"]}


def test_images_are_chosen_by_score_and_evenly() -> None:
    scores = np.zeros(1000)
    scores[[10, 20, 30]] = [0.5, 0.9, 0.7]
    chosen = choose_images(scores, 6).tolist()
    assert len(set(chosen)) == 6
    assert {10, 20, 30} <= set(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == 999
    assert choose_images(np.zeros(3), 10).tolist() == [0, 1, 2]


def test_unfair_runs_make_no_page(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path, score_threshold=0.5)
    with pytest.raises(PredictionsError, match="score floor"):
        report(tmp_path, [good, worse], truth)
    assert not (tmp_path / "r.html").exists()
    page, _ = report(tmp_path, [good, worse], truth, compare=CompareOptions(align=True, resamples=0))
    assert "aligned: only instances that score at least 0.5" in page


def test_a_page_without_truth_shows_agreement(tmp_path: Path) -> None:
    good, worse, _ = two_runs(tmp_path)
    page, _ = report(tmp_path, [good, worse])
    assert "Agreement of every two runs" in page
    assert 'id="curves"' not in page
    assert [len(image["panels"]) for image in data_of(page)["images"]] == [2] * 12
    alone, _ = report(tmp_path, [good])
    assert len(data_of(alone)["images"][0]["panels"]) == 1


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    good, _, _ = two_runs(tmp_path)
    (tmp_path / "file").write_text("x")
    for output in (tmp_path, tmp_path / "file" / "r.html"):
        with pytest.raises(UsageError, match="cannot write"):
            write_report([good], None, output, ReportOptions(), SilentDisplay())


def test_the_folder_of_the_page_is_made(tmp_path: Path) -> None:
    good, _, _ = two_runs(tmp_path)
    write_report([good], None, tmp_path / "no" / "such" / "r.html", ReportOptions(compare=QUICK), SilentDisplay())
    assert (tmp_path / "no" / "such" / "r.html").is_file()


def test_a_folder_of_images_that_is_none_is_refused(tmp_path: Path) -> None:
    good, _, _ = two_runs(tmp_path)
    with pytest.raises(UsageError, match="--image-root nothere is not a folder"):
        report(tmp_path, [good], image_root=Path("nothere"))


def test_numbers_of_runs_are_not_added(tmp_path: Path) -> None:
    good, worse, _ = two_runs(tmp_path)
    page, _ = report(tmp_path, [good, worse])
    counts = [len(Predictions.load(path).scores) for path in (good, worse)]
    assert counts[0] != counts[1]
    assert f"<dt>instances</dt><dd>{counts[0]} / {counts[1]}</dd>" in page
    assert "<dt>failed</dt><dd>0</dd>" in page


def test_small_masks_are_the_masks(tmp_path: Path) -> None:
    for size, box in (((40, 60), (10, 5, 30, 25)), ((400, 900), (100, 60, 820, 390)), ((5, 3), (0, 0, 3, 5))):
        mask = box_mask(size, box)
        width, height = fit_size(size[1], size[0])
        small = shrink_mask(rle.encode(mask), list(size), width, height)
        assert small is not None
        x, y, w, h, runs = small
        assert sum(runs) == w * h
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(w, h).T
        drawn = np.zeros((height, width), bool)
        drawn[y : y + h, x : x + w] = inside
        share = drawn.mean() / mask.mean()
        assert 0.97 < share < 1.03
        scale = width / size[1]
        assert abs(x - box[0] * scale) <= 1
        assert abs(y + h - box[3] * height / size[0]) <= 1
    assert shrink_mask(rle.encode(np.zeros((4, 4), bool)), [4, 4], 4, 4) is None


def test_thumbnails_are_upright_small_and_eight_bits(tmp_path: Path) -> None:
    image = Image.new("RGB", (900, 300), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert (lambda one: (one.width, one.height))(make_thumbnail(tmp_path / "turned.jpg", True)) == (133, 400)
    assert (lambda one: (one.width, one.height))(make_thumbnail(tmp_path / "turned.jpg", False)) == (400, 133)
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert make_thumbnail(tmp_path / "deep.png", True).width == 64


def test_charts_show_the_numbers() -> None:
    chart = draw_precision_recall([np.linspace(1, 0, 101), np.full(101, -1.0)], ["a<b", "none"], "bag & co")
    assert chart.count("<polyline") == 1
    assert "30.0,8.0" in chart
    assert "a&lt;b" in chart
    assert "bag &amp; co" in chart
    bars = draw_histogram(np.array([0.02, 0.03, 0.99, 1.0], np.float32), 0, "x")
    assert bars.count("<rect") == 2
    assert "0.00 to 0.05: 2" in bars
    assert draw_histogram(np.zeros(0, np.float32), 0, "x").count("<rect") == 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, worse, truth = two_runs(tmp_path)
    output = tmp_path / "page.html"
    command = ["report", str(good), str(worse), "-a", str(truth), "-o", str(output), "--resamples", "10", "--json"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {"report": str(output), "bytes": output.stat().st_size, "images": 12, "shown": 12}
    assert main(["report", str(tmp_path / "none")]) == 2
    assert main(["report", str(good), "-a", str(tmp_path / "none.json"), "-o", str(output)]) == 2


def run_directory(folder: Path, arrays: Arrays, images: Path) -> Path:
    """What a run leaves, as far as the page reads it."""
    folder.mkdir()
    save(arrays, folder / "predictions.npz")
    files = arrays["image_file"].tolist()
    lines = [{"index": n, "file": file, "path": f"0/{file}", "image_id": n + 1, "size": 1, "mtime_ns": 1, "error": None}
             for n, file in enumerate(files)]  # fmt: skip
    (folder / "inputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps({"roots": [str(images)], "request": {"exif": "apply"}, "gpus": [
        {"name": "NVIDIA Test"}], "why_variant": "it fits", "resolved": {"build": "abc123"}}))  # fmt: skip
    summary = {"images": len(files), "seconds": {"dispatch": 2.0}, "versions": {"numpy": "9.9"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_directory_gives_pictures_speed_and_provenance(tmp_path: Path) -> None:
    arrays = sample_arrays()
    for file, size in zip(arrays["image_file"].tolist(), arrays["image_size"].tolist(), strict=True):
        photographs(tmp_path / "in", [file], tuple(size))
    page, _ = report(tmp_path, [run_directory(tmp_path / "run", arrays, tmp_path / "in")])
    assert '<td class="n">2.0</td><td class="n">2.0</td>' in page  # seconds, images/s
    for text in ("NVIDIA Test", "numpy 9.9", "abc123", "it fits", "0" * 64):
        assert text in page
    assert all(image["url"] for image in data_of(page)["images"])
    (tmp_path / "run" / "run.json").write_text("{")
    assert not data_of(report(tmp_path, [tmp_path / "run"])[0])["images"][0]["url"]
