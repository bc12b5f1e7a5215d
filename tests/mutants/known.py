"""Faults that once passed all tests, and mutants that nobody could tell from the code."""

from __future__ import annotations

GUEST = "images/runner/orch_runner"

FAULTS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "exclusions of FashionFail's weighted means",
        "orchestrator/evaluation/coco/averages.py",
        "FASHIONFAIL_EXCLUDES = (2, 12, 16, 19, 20)",
        "FASHIONFAIL_EXCLUDES = (2, 12, 16, 19, 21)",
        "tests/unit/evaluation/test_known_answers.py",
    ),
    (
        "bootstrap bounds at 90%",
        "orchestrator/evaluation/compare/bootstrap.py",
        "CONFIDENCE = 0.95",
        "CONFIDENCE = 0.9",
        "tests/unit/evaluation/test_known_answers.py",
    ),
    (
        "recall compared otherwise than COCO does",
        "orchestrator/evaluation/coco/resampling.py",
        "    needed -= (needed > 0) & ((needed - 1) / total >= RECALLS)\n",
        "",
        "tests/unit/evaluation/test_known_answers.py",
    ),
    (
        "recall compared otherwise than COCO does, the other way",
        "orchestrator/evaluation/coco/resampling.py",
        "    needed += needed / total < RECALLS\n",
        "",
        "tests/unit/evaluation/test_known_answers.py",
    ),
    (
        "first of equal overlaps",
        "orchestrator/evaluation/coco/matching.py",
        "width - 1 - np.argmax(np.where(fits, overlap, -1.0)[:, :, ::-1], axis=2)",
        "np.argmax(np.where(fits, overlap, -1.0), axis=2)",
        "tests/unit/evaluation/test_known_answers.py",
    ),
    (
        "alive not touched again",
        "orchestrator/dispatch/dispatcher.py",
        "            running.queue.keep_alive()\n",
        "",
        "tests/unit/dispatch/test_dispatcher.py",
    ),
    (
        "claims of living workers taken at the start",
        f"{GUEST}/serving/spool.py",
        'if worker.rpartition("-")[0] == self._identity.host and not self._is_alive(worker):',
        'if worker.rpartition("-")[0] == self._identity.host:',
        "tests/unit/guest/test_spool.py",
    ),
    (
        "claims of living workers taken later",
        f"{GUEST}/serving/spool.py",
        "> DEAD_SECONDS and not self._is_alive(worker):",
        "> DEAD_SECONDS:",
        "tests/unit/guest/test_spool.py",
    ),
    (
        "end looked for after the listing",
        f"{GUEST}/batches.py",
        "            self.has_ended = has_end_mark\n",
        '            self.has_ended = (self._job.queue / "end").exists()\n',
        "tests/unit/guest/test_batches.py",
    ),
    (
        "floor compared in float64 by the runner",
        f"{GUEST}/shard_rows.py",
        "order[scores[order] >= np.float32(floor)]",
        "order[scores[order].astype(np.float64) >= floor]",
        "tests/unit/guest/test_shard_rows.py",
    ),
    (
        "floor compared in float64 when runs are aligned",
        "orchestrator/evaluation/compare/fairness.py",
        "predictions.scores[rows] >= np.float32(cut.floor)",
        "predictions.scores[rows].astype(np.float64) >= cut.floor",
        "tests/unit/evaluation/test_known_answers.py",
    ),
    (
        "mask of a probability from the threshold on",
        f"{GUEST}/probability.py",
        "above = probability > float(",
        "above = probability >= float(",
        "tests/unit/guest/test_probability.py",
    ),
    (
        "pasted mask from the threshold on",
        f"{GUEST}/helpers/paste.py",
        "inside > threshold",
        "inside >= threshold",
        "tests/unit/guest/test_paste.py",
    ),
    (
        "paste span half a cell short at its start",
        f"{GUEST}/helpers/paste.py",
        "(lowest - 0.5) * pixels",
        "lowest * pixels",
        "tests/unit/guest/test_paste.py",
    ),
    (
        "paste span half a cell short at its end",
        f"{GUEST}/helpers/paste.py",
        "(highest + 1.5) * pixels",
        "(highest + 1) * pixels",
        "tests/unit/guest/test_paste.py",
    ),
    (
        "only what is above the floor when runs are aligned",
        "orchestrator/evaluation/compare/fairness.py",
        "predictions.scores[rows] >= np.float32(cut.floor)",
        "predictions.scores[rows] > np.float32(cut.floor)",
        "tests/unit/evaluation/test_known_answers.py",
    ),
    (
        "shard files not synced",
        f"{GUEST}/shard_file.py",
        "with open_replacement(target) as stream:",
        "with open_replacement(target, sync=False) as stream:",
        "tests/unit/guest/test_shard_file.py",
    ),
    (
        "the folder of shard files not synced",
        f"{GUEST}/shard_file.py",
        "        _sync_folder(job.out)\n",
        "",
        "tests/unit/guest/test_shard_file.py",
    ),
    (
        "npz files not synced",
        "orchestrator/predictions/npz.py",
        "replace_file(self._path)",
        "replace_file(self._path, durable=False)",
        "tests/unit/predictions/test_npz.py",
    ),
    (
        "JSON files not synced",
        "orchestrator/system/files.py",
        "def write_json(path: Path, value: Any, *, durable: bool = True)",
        "def write_json(path: Path, value: Any, *, durable: bool = False)",
        "tests/unit/system/test_files.py",
    ),
    (
        "If-Range dropped",
        "orchestrator/system/download.py",
        ', **({"If-Range": version} if version else {})',
        "",
        "tests/unit/system/test_download.py",
    ),
    (
        "images in use offered by prune",
        "orchestrator/workflows/prune/engine.py",
        "if image.id not in in_use",
        "if image.id",
        "tests/unit/workflows/test_prune.py",
    ),
    (
        "settled after 0 seconds",
        "orchestrator/workflows/prune/engine.py",
        "SETTLED_SECONDS = 600",
        "SETTLED_SECONDS = 0",
        "tests/unit/workflows/test_prune.py",
    ),
)
"""Name, file, text as it is, text with the fault, tests that must fail. The issue's 17; some in two variants."""

EQUIVALENT: dict[str, str] = {
    "comparison, `orchestrator/workflows/demo/scenes.py`: `flip = -1 if rng.random() < 0.5 else 1` : "
    "`rng.random() < 0.5` → `rng.random() <= 0.5`": "exactly 0.5 is drawn once in 2^53 times",
    "flag, `orchestrator/cli/tables.py`: `Console(highlight=False, markup=False).print(table)` : `False` → `True`": (
        "cells of a table follow the table's own highlight, which is off"
    ),
    "flag, `orchestrator/inputs/listing.py`: `self._has_escapes = self._has_ids = False` : `False` → `True`": (
        "the flags only save time: without ids none are collected, without escapes no two names become equal"
    ),
    "and/or, `orchestrator/dispatch/local.py`: `if not outs or not missing:` : `not outs or not missing` → "
    "`(not outs and (not missing))`": "it only saves an import: without either, no shard is taken",
}
"""Mutants without an observable difference, as the results describe them, and the reason."""
