"""orch from Python: `run` and `connect` with a real model in a virtual environment, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import orchestrator
from orchestrator.errors import MachineError, RuntimeUnsuitable, UsageError
from orchestrator.workflows import python_api
from orchestrator.workflows.demo.scenes import write_scenes

MODEL = "garments-tiny"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a drawn picture."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, range(1))
    return next(folder.rglob("*.png"))


@pytest.fixture(scope="module")
def session() -> Iterator[orchestrator.Session]:
    """Return a session with a warm worker of its own."""
    with orchestrator.connect(MODEL, runtime="venv", quiet=True) as opened:
        yield opened


def test_run_predicts_resumes_and_describes_itself(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "good.png").write_bytes(scene.read_bytes())
    (tmp_path / "photos" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    made = orchestrator.run(MODEL, tmp_path / "photos", out=tmp_path / "out", runtime="venv", quiet=True)
    assert made.path == tmp_path / "out"
    assert list(made.failed) == ["bad.png"]
    assert len(made.predictions["good.png"]["scores"]) > 0
    assert repr(made).startswith("<Run of garments-tiny: 1 image predicted, 1 failed")
    assert "<td>garments-tiny</td>" in made._repr_html_()
    again = orchestrator.run(MODEL, [tmp_path / "photos"], out=tmp_path / "out", runtime="venv", quiet=True)
    assert again.summary == made.summary


def test_a_session_predicts_files_and_arrays_alike(session: orchestrator.Session, scene: Path) -> None:
    pixels = np.asarray(Image.open(scene).convert("RGB"))
    (one,) = session.predict(scene)
    assert one["image_file"] == str(scene)
    assert len(one["scores"]) > 0
    several = session.predict([pixels, scene, str(scene), pixels])
    assert [record["image_file"] for record in several] == ["0", str(scene), str(scene), "3"]
    for record in several:
        assert np.array_equal(record["boxes"], one["boxes"])
        assert record["masks"] == one["masks"]
    assert session.predict([]) == []


def test_an_image_that_fails_has_its_reason(session: orchestrator.Session, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image, and no list of images")
    for record in session.predict([tmp_path / "text.jpg", tmp_path / "notes.txt"]):
        assert record["status"] == 1
        assert record["error"]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        "/none.png",
        "a\0b.png",
        b"bytes.png",
        5,
        None,
        [None],
    ],
)
def test_what_is_no_image_is_refused(session: orchestrator.Session, image: object) -> None:
    with pytest.raises(UsageError):
        session.predict(image)  # type: ignore[arg-type]


def test_wrong_options_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="score_threshold=2"):
        orchestrator.run(MODEL, tmp_path, score_threshold=2)
    with pytest.raises(UsageError, match="devcie"):
        orchestrator.run(MODEL, tmp_path, devcie="cpu")
    for images in (None, 5, b"photos", [None]):
        with pytest.raises(UsageError, match="is no path"):
            orchestrator.run(MODEL, images)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="out=5"):
        orchestrator.run(MODEL, tmp_path, out=5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not the name of a model"):
        orchestrator.run(None, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown model"):
        orchestrator.run("garments-tny", tmp_path)
    with pytest.raises(UsageError, match="no setting"):
        orchestrator.connect(MODEL, settings=["nonsense=1"])


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM)", "os.kill(os.getpid(), 9)"])
def test_no_worker_outlives_the_program(end: str, tmp_path: Path) -> None:
    program = (
        "import os, signal, tempfile, orchestrator\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        f"session = orchestrator.connect({MODEL!r}, runtime='venv', quiet=True)\n"
        f"{end}\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    deadline = time.monotonic() + 30
    while (_workers_in(tmp_path) or any(tmp_path.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _workers_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_closed_session_and_one_whose_worker_ended_say_so(
    monkeypatch: pytest.MonkeyPatch, session: orchestrator.Session, scene: Path
) -> None:
    def find_none(*_: object) -> None:
        raise RuntimeUnsuitable("no warm worker", hint="docker compose up -d")

    with monkeypatch.context() as patched:
        patched.setattr(python_api, "run_model", find_none)
        with pytest.raises(MachineError, match="worker of this session has ended") as raised:
            session.predict(scene)
    assert raised.value.hint == "close the session and connect again"
    monkeypatch.setattr(session, "_is_closed", True)
    with pytest.raises(UsageError, match="session is closed"):
        session.predict(scene)


def _workers_in(folder: Path) -> list[str]:
    """Return the processes with the folder in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in file.read_bytes():
                found.append(file.parent.name)
    return found
