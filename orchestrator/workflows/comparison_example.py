"""`orch new comparison`: an orch.yaml that says what may stand in one."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import UsageError

EXAMPLE = """\
# A whole comparison: orch run -f FILE. The same command resumes it. Paths are relative to this file.

models:                       # orch models lists what there is
  - facere
  - model: facere+            # one with settings of its own, and a name to go by
    name: fine-tuned
    settings: {paste: cut}
    # variant: cpu
    # score_threshold: 0.05
    # batch_size: 4

images: photos/               # or a list: folders, files, globs, archives, a COCO file
# image_root: photos/         # where a COCO file's images lie
# annotations: truth.json     # COCO: with it the models are scored, without it held against each other
# out: result                 # a run directory for each model, comparison.json and .md, report.html

run:                          # for all models: the options of orch run, with _ for -
  score_threshold: 0.05
  # device: cuda              # cpu, cuda, "0,1", a UUID
  # workers_per_gpu: auto
  # runtime: docker
  # settings: {name: value}   # goes to the models that have it
  # build: {base_image: …, build_args: {NAME: value}}

compare:                      # see orch compare
  iou: segm                   # or bbox
  # align: true               # compare only what all have
  # categories: [dress, 3]
  # resamples: 1000

report:                       # see orch report; report: false for none
  # title: Three models on our photographs
  max_images: 240
"""


def write_example(path: Path) -> None:
    """Write the example. Raises UsageError where there is a file already."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(EXAMPLE)
    except FileExistsError:
        raise UsageError(f"{path} exists already", hint="orch new comparison OTHER.yaml") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}", why=error.strerror) from error
