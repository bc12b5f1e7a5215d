"""A predictions file of whoever: reading it raises nothing but orch's own errors, and no command shows it raw."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from orchestrator.errors import OrchError
from orchestrator.predictions.formats import export_predictions
from orchestrator.predictions.predictions import Predictions
from tests.hostile.arena import said_to_terminal
from tests.hostile.commands import Commands
from tests.hostile.fuzzing import damaged, fuzzed
from tests.hostile.test_fuzz_shards import changed_arrays
from tests.unit.predictions.predictions_samples import META, sample_arrays, save

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n::error file=x::owned\u202e\x9b31m"
EXPORTS = (("yolo", False), ("labelme", False), ("cvat", False), ("voc", True), ("coco", False))
DOCUMENTED = frozenset({0, 1, 2, 4, 5, 6})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predictions")


def sound() -> bytes:
    """The bytes of a valid file."""
    with tempfile.TemporaryDirectory() as folder:
        return save(sample_arrays(), Path(folder) / "sound.npz").read_bytes()


SOUND = sound()


def read_all(path: Path) -> None:
    """Do with a file what commands do; orch's own errors are the answer to a damaged one."""
    with contextlib.suppress(OrchError):
        Predictions.load(path).validate()
    with contextlib.suppress(OrchError):
        for record in Predictions.load(path):
            assert record["image_file"] is not None
    with contextlib.suppress(OrchError):
        for result in Predictions.load(path).to_coco():
            assert "bbox" in result
    with contextlib.suppress(OrchError):
        predictions = Predictions.load(path)
        for row in range(min(3, len(predictions.scores))):
            predictions.mask(row)
    for name, boxes_only in EXPORTS:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OrchError):
            export_predictions(Predictions.load(path), name, Path(folder) / "out", boxes_only=boxes_only)


@given(damaged(SOUND))
@fuzzed(150)
def test_damaged_bytes(folder: Path, content: bytes) -> None:
    path = folder / "damaged.npz"
    path.write_bytes(content)
    read_all(path)


@given(changed_arrays())
@fuzzed(150)
def test_changed_arrays(folder: Path, arrays: dict[str, Any]) -> None:
    arrays = {"image_id": np.arange(4), **arrays, "meta": np.array(json.dumps(META))}
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in arrays.items() if name != "file"})
    path = folder / "changed.npz"
    path.write_bytes(stream.getvalue())
    read_all(path)


def hostile_text() -> dict[str, Any]:
    """Predictions that are valid but for their texts, which are for the terminal."""
    arrays: dict[str, Any] = dict(sample_arrays())
    meta = {**META, "model": ESCAPES, "stack": ESCAPES, "categories": [{"id": n, "name": ESCAPES} for n in (0, 5, 7)]}
    arrays["meta"] = np.array(json.dumps({**meta, "attribute_names": [ESCAPES, f"{ESCAPES}2"], "taxonomy": ESCAPES}))
    arrays["image_file"] = np.array([f"{number}{ESCAPES}.png" for number in range(4)])
    arrays["error"] = np.array(["", "", ESCAPES, ""])
    return arrays


COMMANDS = (
    ("validate", "FILE"),
    ("validate", "FILE", "--json"),
    ("inspect", "FILE"),
    ("inspect", "FILE", "--image", f"0{ESCAPES}.png"),
    ("inspect", "FILE", "--image", ESCAPES),
    ("compare", "FILE", "FILE"),
    ("export", "FILE", "--format", "coco", "--output", "OUT"),
    ("report", "FILE", "FILE", "--out", "OUT.html"),
    ("draw", "FILE", "--output", "OUT"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:1] + command[2:3]).strip()[:20])
@pytest.mark.parametrize("kind", ["text", "no-meta", "odd-meta", "wrong-arrays"])
def test_no_command_is_led_astray_by_a_hostile_file(
    commands: Commands, tmp_path: Path, command: tuple[str, ...], kind: str
) -> None:
    arrays = hostile_text()
    if kind == "no-meta":
        arrays["meta"] = np.array("[" * 50_000)
    if kind == "odd-meta":
        odd: dict[str, Any] = {key: [{}, 7, None] for key in META}
        arrays["meta"] = np.array(json.dumps({**odd, "format": META["format"], "model": {}, "settings": ESCAPES}))
    if kind == "wrong-arrays":
        arrays["boxes"] = np.full_like(arrays["boxes"], np.nan)
        arrays["offsets"] = arrays["offsets"][::-1].copy()
    path = tmp_path / "hostile.npz"
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    path.write_bytes(stream.getvalue())
    given = [str(path) if one == "FILE" else one.replace("OUT", str(tmp_path / "out")) for one in command]
    done = commands.run(*given, timeout=60)
    faults = ["hung"] if done.hung else []
    faults += [] if done.code in DOCUMENTED else [f"exit {done.code}"]
    faults += said_to_terminal(done)
    if faults:
        pytest.fail("\n".join([*faults, str(done)]), pytrace=False)
