"""Files are replaced in one step."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from orchestrator.system.files import sha256_of, write_json, write_text


def test_json_is_replaced_in_one_step_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, {"name": "äöü 猫"})
    assert "äöü 猫" in path.read_text(encoding="utf-8")
    write_json(path, [1])
    assert json.loads(path.read_text()) == [1]
    assert [one.name for one in path.parent.iterdir()] == ["x.json"]


def test_names_that_are_no_utf8_survive_as_escapes(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"file": "a\udcff.jpg"})
    assert json.loads((tmp_path / "x.json").read_bytes().decode("utf-8")) == {"file": "a\udcff.jpg"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x", "\udcff")
    assert (tmp_path / "x").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
