"""orch.yaml: what it resolves to, and mistakes named by file, line and field before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.errors import SpecError, UsageError
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes.base import BuildOptions
from orchestrator.workflows.comparison_file import EXAMPLE, ComparisonFile, RunSpec, read_comparison, write_example

CATALOG = load_catalog()
SHORT = "models: [garments-tiny]\nimages: photos\n"


def read(tmp_path: Path, text: str) -> ComparisonFile:
    (tmp_path / "orch.yaml").write_text(text)
    return read_comparison(tmp_path / "orch.yaml", CATALOG)


def test_the_shortest_file(tmp_path: Path) -> None:
    found = read(tmp_path, SHORT)
    (one,) = found.runs
    out = tmp_path / "orch-result"
    assert (one.name, one.entry.name) == ("garments-tiny", "garments-tiny")
    assert one.options == RunOptions(images=(str(tmp_path / "photos"),), out=out / "garments-tiny")
    assert (found.out, found.annotations, found.compare.iou) == (out, None, None)
    assert found.report is not None


def test_a_models_own_settings_win_over_common_ones(tmp_path: Path) -> None:
    (tmp_path / "truth.json").touch()
    found = read(
        tmp_path,
        """
models:
- model: garments-tiny
  name: small
  score_threshold: 0.5
  build: {base_image: other}
- model: ppocr-det
  settings: {box_thresh: 0.5}
images: [a, /b/*.jpg, ~/c]
image_root: root
annotations: truth.json
out: /elsewhere
run: {score_threshold: 0.05, device: cpu, workers: 3, workers_per_gpu: auto, wait: false, offline: true,
      settings: {unclip_ratio: 1.5, box_thresh: 0.9}, build: {base_image: base, build_args: {A: b}}}
compare: {iou: bbox, align: true, protocol: fashionfail}
report: false
""",
    )
    small, lines = found.runs
    images = (str(tmp_path / "a"), "/b/*.jpg", str(Path.home() / "c"))
    assert small.options == RunOptions(
        images=images,
        image_root=tmp_path / "root",
        out=Path("/elsewhere/small"),
        device="cpu",
        score_threshold=0.5,
        workers=3,
        workers_per_gpu="auto",
        wait=False,
        offline=True,
        build=BuildOptions(base_image="other", offline=True),
    )
    assert (lines.options.score_threshold, lines.options.settings) == (0.05, ("unclip_ratio=1.5", "box_thresh=0.5"))
    assert lines.options.build == BuildOptions("base", False, True, {"A": "b"})
    assert (found.annotations, found.report, found.compare.align) == (tmp_path / "truth.json", None, True)
    assert found.compare.protocol == "fashionfail"


def test_a_cluster_and_warm_workers_can_be_asked_for(tmp_path: Path) -> None:
    slurm = "slurm: {partition: gpu, tasks: 9, wait: false, sbatch: [--nice, -v]}"
    (one,) = read(tmp_path, SHORT + f"run: {{executor: slurm, {slurm}}}\n").runs
    settings = ["partition=gpu", "sbatch=--nice", "sbatch=-v", "tasks=9", "wait=false"]
    assert (one.options.executor, sorted(one.options.executor_settings)) == ("slurm", settings)
    (one,) = read(tmp_path, SHORT + f"run: {{{slurm}}}\n").runs
    assert one.options.executor_settings == (), "they are not for the executor local"
    (one,) = read(tmp_path, SHORT + "run: {warm: true, spool: here}\n").runs
    assert (one.options.warm, one.options.spool) == (True, tmp_path / "here")


def test_every_option_of_a_run_can_be_said(tmp_path: Path) -> None:
    elsewhere = {"images", "image_root", "out", "update", "weights_folder"}  # --update is the command's
    assert set(RunSpec.model_fields) - {"slurm"} == set(RunOptions.model_fields) - elsewhere - {"executor_settings"}


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("models: [garments-tny]\nimages: x\n", ":1: models.0.model", "unknown model 'garments-tny'"),
        ("models: []\nimages: x\n", ":1: models", "give at least one"),
        ("models: [garments-tiny]\n", ":1: images", "this field is missing"),
        ("models: [garments-tiny]\nimages: []\n", ":2: images", "give at least one"),
        (SHORT + "imges: x\n", ":3: imges", "did you mean images"),
        (SHORT + "run:\n  worker: 3\n", ":4: run.worker", "did you mean workers"),
        (SHORT + "run:\n  workers: 0\n", ":4: run.workers", "greater than or equal to 1"),
        (SHORT + "run:\n  workers: many\n", ":4: run.workers", "integer"),
        (SHORT + "run:\n  exif: maybe\n", ":4: run.exif", "'apply' or 'ignore'"),
        (SHORT + "run:\n  score_threshold: 2\n", ":4: run.score_threshold", "less than or equal to 1"),
        (SHORT + "run:\n  build: {base_imag: x}\n", ":4: run.build.base_imag", "did you mean base_image?"),
        (SHORT + "run:\n  images: y\n", ":4: run.images", "unknown field"),
        (SHORT + "run:\n  slurm: {partitoin: x}\n", ":4: run.slurm.partitoin", "did you mean partition?"),
        (SHORT + "report:\n  titel: x\n", ":4: report.titel", "did you mean title?"),
        (SHORT + "compare: {iuo: segm}\n", ":3: compare.iuo", "did you mean iou?"),
        (SHORT + "compare: {protocol: fashionfial}\n", ":3: compare.protocol", "did you mean fashionfail?"),
        (SHORT + "compare: {protocol: imdlbenco}\n", ":3: compare.protocol", "is for masks of manipulated images"),
        (SHORT + "annotations: none.json\n", ":3: annotations", "there is no file"),
        ("images: x\nmodels:\n- garments-tiny\n- garments-tiny\n", ":4: models.1", "two runs are named garments-tiny"),
        (
            "images: x\nmodels:\n- model: garments-tiny\n  settings: {image_sise: 3}\n",
            ":4: models.0.settings",
            "has no setting 'image_sise'",
        ),
        ("images: x\nmodels:\n- {model: garments-tiny, name: ../x}\n", ":3: models.0.name", "match pattern"),
        ("images: x\nimages: y\n", ":2: images", "given twice"),
        ("images: ['']\nmodels: [garments-tiny]\n", ":1: images.0", "at least 1 character"),
        ("images: x\nout: ''\nmodels: [garments-tiny]\n", ":2: out", "at least 1 character"),
        ("- x\n", ":1", "an orch.yaml is a mapping"),
        ("models: [", ":1", "not valid YAML"),
    ],
)
def test_mistakes_name_file_line_and_field(tmp_path: Path, text: str, where: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path / 'orch.yaml'}{where}")
    assert what in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_comparison(tmp_path / "none.yaml", CATALOG)


def test_the_example_is_a_right_one_with_all_that_is_commented_out_too(tmp_path: Path) -> None:
    write_example(tmp_path / "orch.yaml")
    found = read_comparison(tmp_path / "orch.yaml", CATALOG)
    assert [one.name for one in found.runs] == ["facere", "fine-tuned"]
    (tmp_path / "truth.json").touch()
    head, _, rest = EXAMPLE.read_text().replace("…", "x").partition("\n")
    whole = re.sub(r"^( *)# ", r"\1", rest, flags=re.MULTILINE)
    assert head.startswith("# ")
    assert "\n# " not in whole
    assert read(tmp_path, whole).annotations == tmp_path / "truth.json"
    with pytest.raises(UsageError, match="exists already"):
        write_example(tmp_path / "orch.yaml")
