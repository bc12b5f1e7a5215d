"""Reports at their edges: exactly as many failures as fit, none at all, a run directory that is not complete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import UsageError
from orchestrator.evaluation.gate.gate import GateResult
from orchestrator.evaluation.runs import open_runs
from orchestrator.reports.draw import draw_source
from orchestrator.reports.html.page import SHOWN_FAILURES, _list_failures
from orchestrator.reports.junit import MAX_CASES, list_cases
from tests.unit.evaluation.compare_samples import two_runs
from tests.unit.predictions.predictions_samples import FILES, SIZES, sample_arrays, save
from tests.unit.reports.test_ci_reports import BROKEN, summary
from tests.unit.reports.test_draw import images_of_the_sample
from tests.unit.reports.test_report import report, run_directory


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_as_many_failures_as_fit_have_cases_and_only_the_others_are_counted(more: int) -> None:
    failed = [f"{number}.jpg" for number in range(MAX_CASES + more)]
    names = [case.name for case in list_cases(GateResult("m", summary(*failed, images=9000), verdicts=(BROKEN,)))]
    expected = ["run", *failed[:MAX_CASES], *["more failed images"] * (more > 0), "all other images are predicted"]
    assert names == [*expected, "failed-images"]


def test_a_page_lists_failed_images_of_the_runs_that_have_some(tmp_path: Path) -> None:
    good, worse, _ = two_runs(tmp_path)
    page, _ = report(tmp_path, [good, worse])
    assert "No image failed." in page
    assert "0 failed" not in page
    page, _ = report(tmp_path, [save(sample_arrays(), tmp_path / "p.npz")])
    assert "No image failed." not in page
    (_, _, failures) = page.partition(": 1 failed</h3>")
    table = failures.partition("</table>")[0]
    assert (FILES[2] in table, FILES[0] in table, "truncated file" in table) == (True, False, True)


@pytest.mark.parametrize("more", [0, 1])
def test_a_page_lists_as_many_failures_of_a_run_as_fit(tmp_path: Path, more: int) -> None:
    count = SHOWN_FAILURES + more
    files = np.array([f"{number:04d}.jpg" for number in range(count)])
    arrays = {
        **sample_arrays(),
        "image_file": files,
        "image_id": files,
        "image_sha256": np.zeros((count, 32), np.uint8),
        "image_size": np.zeros((count, 2), np.int32),
        "status": np.ones(count, np.uint8),
        "error": np.array(["cut off"] * count),
        "offsets": np.zeros(count + 1, np.int64),
        "image_scores": np.full(count, np.nan, np.float32),
    }
    rows = ("boxes", "classes", "scores", "masks", "attributes")
    arrays |= {name: arrays[name][:0] for name in rows} | {"mask_offsets": np.zeros(1, np.int64)}
    (listed,) = _list_failures(open_runs([save(arrays, tmp_path / "p.npz")]))
    assert (listed["count"], len(listed["rows"]), listed["more"]) == (count, 500, more)


@pytest.mark.parametrize("missing", ["predictions.npz", "run.json"])
def test_pictures_of_a_run_need_the_whole_run(tmp_path: Path, missing: str) -> None:
    images = images_of_the_sample(tmp_path / "in")
    run = run_directory(tmp_path / "run", sample_arrays(), images)
    written = draw_source(run, tmp_path / "out", 0.0)
    assert len(written) == len(SIZES) - 1
    (run / missing).unlink()
    with pytest.raises(UsageError, match="is not a complete run directory"):
        draw_source(run, tmp_path / "out", 0.0)
