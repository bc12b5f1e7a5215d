"""Weights of every origin: fetched once, trusted on first use, and never another file than the one that was meant."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import ModelEntry
from orchestrator.catalog.spec import Weights
from orchestrator.catalog.weights import (
    Stored,
    add_weights,
    ensure_weights,
    known_digests,
    verify_weights,
    weights_folder_of,
    weights_state,
)
from orchestrator.catalog.weights_content import content_problem
from orchestrator.errors import MachineError, OrchError, SpecError, UsageError
from orchestrator.paths import weights_folder
from tests.unit.stack_samples import model_entry
from tests.unit.web import Site, serve

PTH = b"PK\x03\x04"
"""How PyTorch's checkpoints begin."""
CONTENT = PTH + b"weights " * 10_000
SHA = hashlib.sha256(CONTENT).hexdigest()
FOLDER = ("tiny", "tiny-model")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("orchestrator.system.download.time.sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as site:
        site.files["/w.pth"] = CONTENT
        yield site


def model(folder: Path, **weights: Any) -> ModelEntry:
    """A model with one kind of weights, `pth`."""
    return model_entry(folder / "stack", {"pth": {"file": "w.pth", "licence": "MIT", **weights}})


def ensure(entry: ModelEntry, *, offline: bool = False) -> Stored:
    return ensure_weights(entry, offline=offline, progress=lambda there, total: None)["pth"]


def failure(entry: ModelEntry, *, offline: bool = False) -> OrchError:
    with pytest.raises(OrchError) as caught:
        ensure(entry, offline=offline)
    return caught.value


def test_weights_of_a_url_are_fetched_once_and_recorded(site: Site, tmp_path: Path) -> None:
    entry = model(tmp_path, url=f"{site.url}/w.pth?download=1")
    assert weights_state(entry, "pth") == "missing"
    stored = ensure(entry)
    path = weights_folder(*FOLDER) / "w.pth"
    assert stored == Stored("pth", "w.pth", path, SHA)
    assert stored.as_job() == {"file": "w.pth", "sha256": SHA, "package": None}
    assert path.read_bytes() == CONTENT
    assert ensure(entry) == ensure(entry, offline=True) == stored
    assert len(site.seen) == 1
    assert weights_state(entry, "pth") == "present"
    assert verify_weights(entry) == [("pth", f"sha256 {SHA}", True)]
    assert list((weights_folder(*FOLDER) / "downloads").iterdir()) == []


def test_a_published_digest_must_fit(site: Site, tmp_path: Path) -> None:
    assert ensure(model(tmp_path, url=f"{site.url}/w.pth", sha256=SHA, size=len(CONTENT))).sha256 == SHA
    error = failure(model(tmp_path, url=f"{site.url}/w.pth", sha256="0" * 64))
    assert (type(error), error.why) == (MachineError, f"sha256 {SHA}, expected {'0' * 64}")
    assert error.hint == "orch weights add tiny-model PATH, with a file from elsewhere"


def test_the_first_digest_is_trusted_and_another_one_later_refused(site: Site, tmp_path: Path) -> None:
    entry = model(tmp_path, url=f"{site.url}/w.pth")
    ensure(entry)
    (weights_folder(*FOLDER) / "w.pth").unlink()
    site.files["/w.pth"] = PTH + b"another file"
    error = failure(entry)
    assert error.message == f"{site.url}/w.pth is not the expected file"
    assert f"expected {SHA}" in str(error.why)
    assert error.hint is not None
    record = weights_folder(*FOLDER) / "w.pth.json"
    assert f"delete {record}" in error.hint
    record.unlink()
    assert ensure(entry).sha256 == hashlib.sha256(PTH + b"another file").hexdigest()


def test_a_new_url_means_new_weights(site: Site, tmp_path: Path) -> None:
    ensure(model(tmp_path, url=f"{site.url}/w.pth"))
    site.files["/v2.pth"] = PTH + b"second version"
    assert (
        ensure(model(tmp_path, url=f"{site.url}/v2.pth")).sha256 == hashlib.sha256(PTH + b"second version").hexdigest()
    )


def test_a_file_that_changed_in_the_cache_is_an_error(site: Site, tmp_path: Path) -> None:
    entry = model(tmp_path, url=f"{site.url}/w.pth")
    path = ensure(entry).path
    assert path is not None
    path.touch()
    ensure(entry)  # only its time changed
    path.write_bytes(b"changed")
    error = failure(entry, offline=True)
    assert error.message == f"the weights {path} changed since they were stored"
    assert str(error.hint).endswith("w.pth, then orch weights fetch tiny-model (or orch weights add)")
    assert weights_state(entry, "pth") == "changed"
    found = hashlib.sha256(b"changed").hexdigest()
    assert verify_weights(entry) == [("pth", f"sha256 {found}, expected {SHA}", False)]
    path.unlink()
    assert verify_weights(entry) == [("pth", "missing", False)]
    assert ensure(entry).sha256 == SHA


def test_a_page_instead_of_a_file_is_noticed_by_its_size(site: Site, tmp_path: Path) -> None:
    site.files["/w.pth"] = b"<html>too many downloads today</html>"
    error = failure(model(tmp_path, url=f"{site.url}/w.pth", size_range=[1000, 10_000_000]))
    assert isinstance(error, MachineError)
    assert error.why == "it has 37 bytes, expected 1000 to 10000000"
    assert weights_state(model(tmp_path, url=f"{site.url}/w.pth"), "pth") == "missing"


@pytest.mark.parametrize(
    ("weights", "why", "hint"),
    [
        ({"url": "https://example.org/w.pth"}, "--offline was given and they are not in the cache",
         "orch weights fetch tiny-model, or orch weights add tiny-model PATH"),
        ({"manual": "ask the authors"}, "they must be downloaded manually: ask the authors (file w.pth)",
         "orch weights add tiny-model PATH"),
    ],
)  # fmt: skip
def test_missing_weights_say_how_to_get_them(tmp_path: Path, weights: dict[str, Any], why: str, hint: str) -> None:
    error = failure(model(tmp_path, **weights), offline=True)
    assert error.as_json() == {"error": "MachineError", "exit_code": 4, "log": None, "why": why, "hint": hint,
                               "message": "the weights of tiny-model are missing"}  # fmt: skip


def test_one_of_several_weights_is_named_in_the_hint(tmp_path: Path) -> None:
    one = {"file": "a", "licence": "MIT", "manual": "x"}
    entry = model_entry(tmp_path, {"a": one, "b": {**one, "file": "sub/b"}})
    with pytest.raises(MachineError) as caught:
        ensure_weights(entry, offline=False, progress=lambda there, total: None)
    assert caught.value.hint == "orch weights add tiny-model PATH --key a"
    with pytest.raises(UsageError, match="has several weights"):
        add_weights(entry, tmp_path)
    with pytest.raises(UsageError, match="has no weights 'c'"):
        add_weights(entry, tmp_path, "c")
    (tmp_path / "b.pth").write_bytes(CONTENT)
    assert add_weights(entry, tmp_path / "b.pth", "b").path == weights_folder(*FOLDER) / "sub" / "b"


def test_weights_of_a_package_are_the_images_business(tmp_path: Path) -> None:
    entry = model(tmp_path, package="rapid")
    assert ensure(entry, offline=True) == Stored("pth", "w.pth", None, None, "rapid")
    assert weights_state(entry, "pth") == "in the image"
    assert verify_weights(entry) == [("pth", "in the image; checked at every start", True)]
    with pytest.raises(UsageError, match="come with orch"):
        add_weights(entry, tmp_path)


def test_bundled_weights_follow_the_stack(tmp_path: Path) -> None:
    entry = model(tmp_path, bundled="weights/w.pth")
    error = failure(entry)
    assert isinstance(error, SpecError)
    assert error.message.endswith("models.tiny-model.weights.pth.bundled: the file weights/w.pth does not exist")
    bundled = tmp_path / "stack" / "weights" / "w.pth"
    bundled.parent.mkdir()
    bundled.write_bytes(b"old")
    stored = ensure(entry, offline=True)
    assert stored.path is not None
    assert stored.path.read_bytes() == b"old"
    bundled.write_bytes(CONTENT)
    assert ensure(entry, offline=True).sha256 == SHA
    assert stored.path.read_bytes() == CONTENT
    assert weights_state(entry, "pth") == "present"
    assert verify_weights(entry) == [("pth", f"sha256 {SHA}", True)]
    assert "expected 000" in str(failure(model(tmp_path, bundled="weights/w.pth", sha256="0" * 64)).why)


def test_weights_can_be_added_by_hand(tmp_path: Path) -> None:
    entry = model(tmp_path, manual="ask", size_range=[10, 100_000])
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    stored = add_weights(entry, tmp_path / "mine.pth")
    assert stored == ensure(entry, offline=True) == Stored("pth", "w.pth", weights_folder(*FOLDER) / "w.pth", SHA)
    (tmp_path / "mine.pth").write_bytes(b"short")
    with pytest.raises(UsageError, match=r"is not w\.pth of tiny-model") as caught:
        add_weights(entry, tmp_path / "mine.pth")
    assert caught.value.why == "it has 5 bytes, expected 10 to 100000"
    with pytest.raises(UsageError, match="does not exist"):
        add_weights(entry, tmp_path / "none.pth")
    with pytest.raises(UsageError) as caught:
        add_weights(entry, tmp_path)
    assert caught.value.why == "it is a folder; one file is expected"
    with pytest.raises(UsageError) as caught:
        add_weights(model(tmp_path, manual="ask", sha256="0" * 64), tmp_path / "mine.pth")
    assert "expected 000" in str(caught.value.why)


@pytest.mark.parametrize("size", [9, 10, 12, 13])
def test_the_bounds_of_a_size_are_allowed(tmp_path: Path, size: int) -> None:
    entry = model(tmp_path, manual="ask", size_range=[10, 12])
    (tmp_path / "mine.pth").write_bytes(PTH + bytes(size - len(PTH)))
    if 10 <= size <= 12:
        assert add_weights(entry, tmp_path / "mine.pth").file == "w.pth"
    else:
        with pytest.raises(UsageError):
            add_weights(entry, tmp_path / "mine.pth")


def test_other_weights_are_replaced_only_when_asked_to(tmp_path: Path) -> None:
    entry = model(tmp_path, manual="ask")
    stored = add_weights(entry, write(tmp_path / "good.pth", CONTENT))
    assert add_weights(entry, tmp_path / "good.pth") == stored, "the same weights again"
    other = write(tmp_path / "other.pth", PTH + b"x")
    with pytest.raises(UsageError, match="tiny-model has other weights 'pth' already") as caught:
        add_weights(entry, other)
    digest = hashlib.sha256(PTH + b"x").hexdigest()
    assert str(caught.value.why).splitlines() == [
        f"stored: {len(CONTENT)} bytes, sha256 {SHA}, {stored.path}",
        f"new: 5 bytes, sha256 {digest}, {other}",
    ]
    assert f"orch weights add tiny-model {other} --force replaces them" in str(caught.value.hint)
    assert ensure(entry) == stored
    assert add_weights(entry, other, force=True).sha256 == digest


@pytest.mark.parametrize("content", [b"", b"abcd", b"<html>", b"version https://git-lfs.github.com/spec/v1"])
def test_what_does_not_begin_like_weights_is_added_only_when_asked_to(
    site: Site, tmp_path: Path, content: bytes
) -> None:
    entry = model(tmp_path, manual="ask")
    file = write(tmp_path / "mine.pth", content)
    with pytest.raises(UsageError, match=r"does not look like w\.pth") as caught:
        add_weights(entry, file)
    assert caught.value.hint == "--force adds it all the same"
    assert weights_state(entry, "pth") == "missing"
    site.files["/w.pth"] = content
    assert isinstance(failure(model(tmp_path, url=f"{site.url}/w.pth")), MachineError)
    assert add_weights(entry, file, force=True).sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("w.onnx", b"\x08\x08"), ("w.pt", b"\x80\x02"), ("w.safetensors", b"\x10" + bytes(7) + b"{"),
        ("w.h5", b"\x89HDF\r\n\x1a\n"), ("w.bin", b"anything"),
    ],
)  # fmt: skip
def test_each_kind_of_weights_begins_in_its_own_way(tmp_path: Path, name: str, good: bytes) -> None:
    spec = Weights.model_validate({"file": name, "licence": "MIT", "manual": "ask"})
    assert content_problem(write(tmp_path / name, good), spec) is None
    assert (content_problem(write(tmp_path / name, b"\x00" * 20), spec) is None) == (name == "w.bin")


def test_weights_may_be_a_file_of_the_users(tmp_path: Path) -> None:
    """The path in stack.yaml is relative to its folder."""
    entry = model(tmp_path, path="../mine.pth")
    write(tmp_path / "mine.pth", CONTENT)
    assert entry.spec.weights["pth"].path == str(tmp_path / "mine.pth")
    assert ensure(entry).sha256 == SHA


def test_a_file_of_the_users_is_never_taken_from_a_shared_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = model(tmp_path, path="../mine.pth")
    write(tmp_path / "mine.pth", CONTENT)
    with monkeypatch.context() as keeper:
        keeper.setenv("ORCH_HOME", str(tmp_path / "shared"))
        ensure(entry)
    monkeypatch.setenv("ORCH_SHARED_HOME", str(tmp_path / "shared"))
    assert weights_folder_of(entry) == weights_folder(*FOLDER)
    assert ensure(entry).path == weights_folder(*FOLDER) / "w.pth"


def packed(name: str, content: bytes = b"1") -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("saved/model.pb", content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tarred:
            member = tarfile.TarInfo("saved/model.pb")
            member.size = len(content)
            tarred.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["m.zip", "m.tar.gz"])
def test_archives_are_unpacked_into_a_folder(site: Site, tmp_path: Path, name: str) -> None:
    site.files[f"/{name}"] = packed(name)
    digest = hashlib.sha256(site.files[f"/{name}"]).hexdigest()
    entry = model(tmp_path, url=f"{site.url}/{name}", unpack=True, sha256=digest)
    stored = ensure(entry)
    assert stored.path is not None
    assert (stored.path / "saved" / "model.pb").read_bytes() == b"1"
    assert (stored.sha256, ensure(entry, offline=True)) == (digest, stored)
    assert [(key, right) for key, _, right in verify_weights(entry)] == [("pth", True)]
    (tmp_path / name).write_bytes(site.files[f"/{name}"])
    assert add_weights(entry, tmp_path / name) == stored
    file = stored.path / "saved" / "model.pb"
    state = file.stat()
    file.write_bytes(b"2")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert [right for _, _, right in verify_weights(entry)] == [False], "read again, whatever size and time say"
    os.utime(file)
    assert "changed since they were stored" in failure(entry).message


def test_a_folder_of_weights_has_a_digest_of_names_and_contents(tmp_path: Path) -> None:
    entry = model(tmp_path, manual="by hand", unpack=True)
    digests = []
    for content in (b"1", b"1", b"2"):
        (tmp_path / "mine" / "saved").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "saved" / "model.pb").write_bytes(content)
        digests.append(add_weights(entry, tmp_path / "mine", force=True).sha256)
        assert known_digests(entry) == {"pth": digests[-1]}
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] is not None
    record = weights_folder(*FOLDER) / "w.pth.json"
    older = {key: value for key, value in json.loads(record.read_text()).items() if not key.startswith("tree")}
    record.write_text(json.dumps({**older, "sha256": None}))
    assert ensure(entry).sha256 == digests[2], "stored before folders had digests"


def test_what_cannot_be_unpacked_leaves_nothing(site: Site, tmp_path: Path) -> None:
    hostile = io.BytesIO()
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("../../escaped", b"x")
        archive.writestr("good", b"x")
    site.files |= {
        "/h.zip": hostile.getvalue(),
        "/d.zip": b"no archive",
        "/file": b"x",
        "/e.zip": b"PK\5\6" + b"\0" * 18,
    }
    expected = {"/h.zip": "its name leads out of the folder", "/d.zip": "not a zip file", "/e.zip": "it is empty",
                "/file": "a .zip or .tar archive is expected, or the folder unpacked from it"}  # fmt: skip
    for path, why in expected.items():
        assert why in str(failure(model(tmp_path, url=f"{site.url}{path}", unpack=True)).why)
        assert {one.name for one in weights_folder(*FOLDER).iterdir()} <= {".lock", "downloads"}
        assert list((weights_folder(*FOLDER) / "downloads").iterdir()) == []


def test_a_folder_can_be_added_where_an_archive_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.pb").write_bytes(b"1")
    entry = model(tmp_path, manual="ask", unpack=True)
    for content in (b"1", b"2"):
        (tmp_path / "mine" / "model.pb").write_bytes(content)
        stored = add_weights(entry, tmp_path / "mine", force=True)
        assert stored.path is not None
        assert (stored.path / "model.pb").read_bytes() == content
    assert ensure(entry, offline=True) == stored
    with pytest.raises(UsageError) as caught:
        add_weights(model(tmp_path, manual="ask", unpack=True, sha256="0" * 64), tmp_path / "mine")
    assert "add the archive itself" in str(caught.value.why)


def test_a_damaged_record_counts_as_none(site: Site, tmp_path: Path) -> None:
    entry = model(tmp_path, url=f"{site.url}/w.pth")
    ensure(entry)
    for text in ("", "{", "[]", "\xff"):
        (weights_folder(*FOLDER) / "w.pth.json").write_text(text, encoding="latin-1")
        assert weights_state(entry, "pth") == "missing"
        assert ensure(entry).sha256 == SHA


FETCH = """
import sys
from pathlib import Path
from orchestrator.catalog.loader import ModelEntry, read_stack
from orchestrator.catalog.weights import ensure_weights
stack = read_stack(Path(sys.argv[1]))
entry = ModelEntry("tiny-model", stack.spec.models["tiny-model"], stack)
print(ensure_weights(entry, offline=False, progress=lambda there, total: None)["pth"].sha256)
"""


def test_processes_that_want_the_same_weights_fetch_them_once(site: Site, tmp_path: Path) -> None:
    model(tmp_path, url=f"{site.url}/w.pth")
    command = [sys.executable, "-c", FETCH, str(tmp_path / "stack")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0].strip() for process in started] == [SHA] * 3
    assert len(site.seen) == 1
    record = json.loads((weights_folder(*FOLDER) / "w.pth.json").read_text())
    assert (record["sha256"], record["source"]) == (SHA, f"{site.url}/w.pth")


def test_weights_of_a_shared_cache_are_used_and_never_written(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = model(tmp_path, url=f"{site.url}/w.pth")
    shared = tmp_path / "shared"
    with monkeypatch.context() as keeper:
        keeper.setenv("ORCH_HOME", str(shared))
        ensure(entry)
    monkeypatch.setenv("ORCH_SHARED_HOME", str(shared))
    before = sorted(path.stat().st_mtime_ns for path in shared.rglob("*"))
    for lock in shared.rglob(".lock"):
        lock.unlink()
    stored = ensure(entry, offline=True)
    assert stored.path == weights_folder(*FOLDER, shared) / "w.pth"
    assert weights_state(entry, "pth") == "present"
    assert not list(shared.rglob(".lock")), "reading takes no lock"
    assert len(before) - 1 == len(list(shared.rglob("*")))
    add_weights(entry, write(tmp_path / "mine", PTH + b"another file"))
    assert ensure(entry).path == weights_folder(*FOLDER) / "w.pth", "the user's own come first"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
