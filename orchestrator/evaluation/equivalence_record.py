"""Recorded equivalence checks: did two variants of a model give the same predictions here?"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.evaluation.agreement import ToleranceAgreement
from orchestrator.paths import home
from orchestrator.system import __version__, write_json

FORMAT = "orch-equivalence/1"


def locate_record(first: Mapping[str, Any], second: Mapping[str, Any]) -> Path:
    """Return the file of the check of two predictions' variants, from their `meta`, in either order."""
    key = [first["stack"], first["model"], sorted([first["build"], second["build"]]), _weights(first)]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return home() / "equivalence" / str(first["stack"]) / f"{first['model']}-{digest}.json"


def write_record(
    first: Mapping[str, Any], second: Mapping[str, Any], agreement: ToleranceAgreement, random_weights: bool
) -> Path:
    """Record the check of two predictions, given their `meta`; return the file."""
    path = locate_record(first, second)
    content = {
        "format": FORMAT,
        "stack": first["stack"],
        "model": first["model"],
        "variants": {str(meta["build"]): meta["variant"] for meta in (first, second)},
        "devices": [first["device"], second["device"]],
        "weights": first["weights"],
        "random_weights": random_weights,
        "inputs": first["inputs"],
        "score_threshold": first["score_threshold"],
        "settings": first["settings"],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "orch_version": __version__,
        **agreement.as_json(),
    }
    write_json(path, content)
    return path


def is_equivalence_recorded(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Say whether a passed check of exactly these builds, model and weights is recorded, given two `meta`."""
    if (first["stack"], first["model"], _weights(first)) != (second["stack"], second["model"], _weights(second)):
        return False
    try:
        record = json.loads(locate_record(first, second).read_text(encoding="utf-8"))
        return bool(record["format"] == FORMAT and record["equivalent"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _weights(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: weight["sha256"] for key, weight in meta["weights"].items()}
