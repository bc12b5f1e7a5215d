"""Downloads from a real server on this machine: resumed, checked, and never mixed from two files."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from orchestrator.errors import MachineError, UsageError
from orchestrator.system import download, free_space
from orchestrator.system.download import ATTEMPTS, RESUME_HINT, explain_failure, fetch, open_url
from tests.unit.web import Site, serve

BLOCK = 1 << 16
CONTENT = os.urandom(700_000)
OTHER = os.urandom(700_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)  # type: ignore[attr-defined]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as site:
        site.files["/w.pth"] = CONTENT
        site.etags["/w.pth"] = '"first"'
        yield site


def get(site: Site, target: Path, *, sha256: str | None = None, size: int | None = None, path: str = "/w.pth") -> str:
    return fetch(f"{site.url}{path}", target, sha256=sha256, size=size, progress=lambda there, total: None)


def left_behind(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()}


def test_a_file_arrives_whole(site: Site, tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "w.pth"
    digest = fetch(f"{site.url}/w.pth", target, sha256=SHA, size=None, progress=lambda *now: calls.append(now))
    assert digest == SHA
    assert target.read_bytes() == CONTENT
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert left_behind(target) == {"w.pth"}


def test_a_broken_connection_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.breaks = [4 * BLOCK, 3 * BLOCK]
    assert get(site, tmp_path / "w.pth") == SHA
    assert site.seen == [("/w.pth", None), ("/w.pth", f"bytes={4 * BLOCK}-"), ("/w.pth", f"bytes={7 * BLOCK}-")]
    assert left_behind(tmp_path / "w.pth") == {"w.pth"}


def test_progress_earns_new_attempts(site: Site, tmp_path: Path) -> None:
    site.breaks = [BLOCK] * 10
    assert get(site, tmp_path / "w.pth") == SHA
    assert len(site.seen) == 11


def test_the_same_command_resumes_later(site: Site, tmp_path: Path) -> None:
    site.breaks = [6 * BLOCK] + [0] * ATTEMPTS
    with pytest.raises(MachineError, match=r"cannot fetch http.*w\.pth") as caught:
        get(site, tmp_path / "w.pth")
    assert caught.value.hint == RESUME_HINT
    assert not (tmp_path / "w.pth").exists()
    site.breaks, site.seen = [], []
    assert get(site, tmp_path / "w.pth") == SHA
    assert site.seen == [("/w.pth", f"bytes={6 * BLOCK}-")]


@pytest.mark.parametrize("knows_if_range", [True, False])
@pytest.mark.parametrize("sha256", [hashlib.sha256(OTHER).hexdigest(), None])
def test_a_file_that_changed_meanwhile_is_fetched_anew(
    site: Site, tmp_path: Path, knows_if_range: bool, sha256: str | None
) -> None:
    site.breaks, site.knows_if_range = [6 * BLOCK] + [0] * ATTEMPTS, knows_if_range
    with pytest.raises(MachineError):
        get(site, tmp_path / "w.pth", sha256=sha256)
    site.breaks, site.files["/w.pth"], site.etags["/w.pth"] = [], OTHER, '"second"'
    get(site, tmp_path / "w.pth", sha256=sha256)
    assert (tmp_path / "w.pth").read_bytes() == OTHER


def test_a_part_is_continued_only_under_the_condition_that_the_file_is_the_same(site: Site, tmp_path: Path) -> None:
    """Without the condition, nothing in this server's answers would show that the file changed."""
    site.breaks, site.tags_parts = [6 * BLOCK] + [0] * ATTEMPTS, False
    with pytest.raises(MachineError):
        get(site, tmp_path / "w.pth")
    site.breaks, site.files["/w.pth"], site.etags["/w.pth"] = [], OTHER, '"second"'
    site.seen.clear()
    get(site, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == OTHER
    assert site.seen == [("/w.pth", f"bytes={6 * BLOCK}-")]


def test_a_shorter_new_file_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    site.breaks, site.knows_if_range = [6 * BLOCK] + [0] * ATTEMPTS, False
    with pytest.raises(MachineError):
        get(site, tmp_path / "w.pth")
    site.breaks, site.files["/w.pth"] = [], OTHER[:1000]
    get(site, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == OTHER[:1000]


def test_what_has_neither_version_nor_digest_starts_over(site: Site, tmp_path: Path) -> None:
    site.etags.clear()
    site.breaks = [6 * BLOCK]
    assert get(site, tmp_path / "w.pth") == SHA
    assert [asked for _, asked in site.seen] == [None, None]
    site.breaks, site.seen = [6 * BLOCK], []
    assert get(site, tmp_path / "w2.pth", sha256=SHA) == SHA
    assert [asked for _, asked in site.seen] == [None, f"bytes={6 * BLOCK}-"], "the digest tells whether it fits"


def test_another_url_never_goes_on_with_the_beginning_of_this_one(site: Site, tmp_path: Path) -> None:
    site.files["/other"], site.etags["/other"] = OTHER, '"first"'
    site.breaks = [6 * BLOCK] + [0] * ATTEMPTS
    with pytest.raises(MachineError):
        get(site, tmp_path / "w.pth")
    site.breaks = []
    get(site, tmp_path / "w.pth", path="/other")
    assert (tmp_path / "w.pth").read_bytes() == OTHER


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges, site.breaks = False, [6 * BLOCK]
    assert get(site, tmp_path / "w.pth", sha256=SHA) == SHA


def test_a_complete_part_is_only_renamed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    (tmp_path / "w.pth.part.version").write_text(f'{site.url}/w.pth\n"first"')
    assert get(site, tmp_path / "w.pth") == SHA
    assert site.seen == [("/w.pth", f"bytes={len(CONTENT)}-")]


def test_a_wrong_digest_is_an_error_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="is not the expected file") as caught:
        get(site, tmp_path / "w.pth", sha256="0" * 64)
    assert caught.value.why == f"sha256 {SHA}, expected {'0' * 64}"
    assert left_behind(tmp_path / "w.pth") == set()


def test_a_wrong_size_is_an_error(site: Site, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="is not the expected file") as caught:
        get(site, tmp_path / "w.pth", size=700_001)
    assert caught.value.why == "700000 bytes, expected 700001"
    site.length = False
    assert get(site, tmp_path / "w.pth", size=700_000) == SHA


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(site: Site, tmp_path: Path, status: int) -> None:
    site.errors = [status] * 2
    with pytest.raises(MachineError) as caught:
        get(site, tmp_path / "w.pth")
    assert f"the server answered {status}" in str(caught.value.why)
    assert len(site.seen) == 1


@pytest.mark.parametrize("errors", [[500], [503, 502, 504], [429, 408]])
def test_a_server_in_trouble_is_asked_again(site: Site, tmp_path: Path, errors: list[int]) -> None:
    site.errors = errors
    assert get(site, tmp_path / "w.pth") == SHA
    site.errors = [503] * ATTEMPTS
    with pytest.raises(MachineError) as caught:
        get(site, tmp_path / "w2.pth")
    assert "the server answered 503" in str(caught.value.why)


def test_only_https_is_fetched_after_redirects_too(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://example.org/w.pth", "ftp://example.org/w.pth", "file:///etc/passwd"):
        with pytest.raises(UsageError, match="only fetched over https"):
            fetch(url, tmp_path / "w.pth", sha256=None, size=None, progress=lambda there, total: None)
    site.redirects["/moved"] = "/w.pth"
    assert get(site, tmp_path / "w.pth", path="/moved") == SHA
    monkeypatch.setattr(download, "_require_https", require := Recorder())
    get(site, tmp_path / "w2.pth", path="/moved")
    assert require.asked == [f"{site.url}/moved", f"{site.url}/w.pth"]


class Recorder:
    """Notes which addresses were held against the rule."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, url: str) -> None:
        self.asked.append(url)


def test_a_server_that_is_not_there(tmp_path: Path, site: Site) -> None:
    with pytest.raises(MachineError, match="cannot fetch"):
        fetch("http://127.0.0.1:9/w.pth", tmp_path / "w", sha256=None, size=None, progress=lambda there, total: None)
    site.redirects["/round"] = "/round"
    with pytest.raises(MachineError, match="cannot fetch") as caught:
        get(site, tmp_path / "w", path="/round")
    assert "redirects" in str(caught.value.why)


def test_no_room_is_told_before_the_transfer(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=(64 << 20) + 1000)
    monkeypatch.setattr(free_space.shutil, "disk_usage", lambda _: usage)  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match="not enough disk space for a download"):
        get(site, tmp_path / "w.pth")


def test_a_disk_that_fills_up_is_the_machines_fault(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match="cannot store") as caught:
        get(site, tmp_path / "w.pth")
    assert caught.value.why == "No space left on device"


def test_a_token_goes_to_its_host_alone(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    get(site, tmp_path / "w1.pth")
    monkeypatch.setattr(download, "TOKENS", {"127.0.0.1": "HF_TOKEN"})
    get(site, tmp_path / "w2.pth")
    site.redirects["/moved"] = site.url.replace("127.0.0.1", "localhost") + "/w.pth"
    get(site, tmp_path / "w3.pth", path="/moved")
    assert site.authorizations == [None, "Bearer hunter2", "Bearer hunter2", None]


def test_certificates_may_be_named_as_for_other_programs(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    asked: list[object] = []
    real = requests.get

    def record(*arguments: Any, **options: Any) -> requests.Response:
        asked.append(options.pop("verify"))
        return real(*arguments, **options)

    monkeypatch.setattr(requests, "get", record)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/own.pem")
    get(site, tmp_path / "w1.pth")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/other.pem")
    get(site, tmp_path / "w2.pth")
    assert asked == ["/own.pem", None]


def test_a_failed_request_is_explained_without_objects_of_the_library() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        with pytest.raises(requests.ConnectionError) as caught:
            open_url(url, {}, lambda *_, **__: None)
    assert "Connection refused" in explain_failure(caught.value)
    assert "HTTP" not in explain_failure(caught.value)
