"""`orch view`: who may ask, what the filters find, what is drawn, runs that are not complete, and how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation import Cut, open_runs, restrict
from orchestrator.predictions.predictions import Predictions
from orchestrator.reports.image_files import make_finder
from orchestrator.reports.view.images import PictureCache
from orchestrator.reports.view.server import Viewer, ViewServer
from orchestrator.reports.view.snapshot import ViewOptions
from tests.unit.evaluation.compare_samples import changed, two_runs
from tests.unit.predictions.predictions_samples import FILES, Arrays, sample_arrays, save
from tests.unit.reports.test_report import photographs
from tests.unit.reports.view_samples import make_run, serve


def without_first(arrays: Arrays) -> Arrays:
    """The samples without the instances of the first image."""
    kept: Arrays = {name: arrays[name][2:] for name in ("boxes", "classes", "scores", "attributes")}
    cut = int(arrays["mask_offsets"][2])
    kept |= {"masks": arrays["masks"][cut:], "mask_offsets": arrays["mask_offsets"][2:] - cut}
    return {**arrays, **kept, "offsets": np.maximum(arrays["offsets"] - 2, 0)}


def test_only_the_page_on_this_machine_is_answered(tmp_path: Path) -> None:
    with serve(make_run(tmp_path, sample_arrays())) as client:
        assert client.url.startswith("http://127.0.0.1:")
        assert client.server.socket.getsockname()[0] == "127.0.0.1"
        status, headers, body = client.ask("")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert b"http" not in body.replace(b"http-equiv", b"")
        for name in ("view.css", "report.css", "view.js", "panels.js", "api/runs"):
            assert client.ask(name)[0] == 200
        assert client.ask("", Host="evil.example:80")[0] == 403
        assert client.ask("api/runs", Host="")[0] == 403
        assert client.ask("", Host="localhost:1")[0] == 200  # the other end of a tunnel
        for path in ("/", "/wrong/", "/wrong/api/runs", "/../", f"{client.url[:-2]}/"):
            assert client.ask(path)[0] in (403, 404)
        for path in ("../", "../etc/passwd", "view.py", "static/view.js", "picture/1/0/400/..", "api/reload"):
            assert client.ask(path)[0] == 404
        assert client.ask("api/runs", "POST")[0] == 404


def test_two_servers_have_different_secrets(tmp_path: Path) -> None:
    run = make_run(tmp_path, sample_arrays())
    with Viewer([run], ViewOptions()) as viewer, ViewServer(viewer, 0) as one, ViewServer(viewer, 0) as other:
        assert len(one.secret) >= 24
        assert one.secret != other.secret


def test_filters_of_one_run(tmp_path: Path) -> None:
    with serve(make_run(tmp_path, sample_arrays())) as client:
        runs = client.read("api/runs")
        assert runs["progress"] == [{"label": "sample", "images": 4, "failed": 1, "total": 4}]
        assert runs["categories"]["5"]["name"] == "hat"
        assert not runs["compared"]
        assert client.names() == list(FILES)
        assert client.names(words="B.JPG") == ["sub/b.jpg", "other/b.jpg"]
        assert client.names(state="failed") == [FILES[2]]
        assert client.names(category=5) == [FILES[0], FILES[1]]
        assert client.names(category=5, score=0.5) == [FILES[1]]
        assert client.names(state="with", score=0.85) == [FILES[0]]
        assert client.names(state="without", score=0.85) == [FILES[1], FILES[3]]
        page = client.read("api/images", start=1, count=2)
        assert (page["found"], [image["n"] for image in page["images"]]) == (4, [1, 2])
        for wrong in ("category=x", "score=", "state=all", "side=401", "count=many"):
            assert client.ask(f"api/images?{wrong}")[0] in (200, 400)
            assert client.ask(f"api/images?{wrong}")[0] == (200 if wrong == "score=" else 400)


def test_an_image_is_drawn_as_the_report_draws_it(tmp_path: Path) -> None:
    with serve(make_run(tmp_path, sample_arrays()), min_score=0.0) as client:
        first, _, failed, _ = client.read("api/images")["images"]
        assert first["size"] == [60, 40]
        (panel,) = first["panels"]
        assert [instance[:3] for instance in panel["instances"]] == [
            [0, 0.9, [2.0, 3.0, 10.0, 14.0]],
            [5, 0.4, [3.0, 4.0, 11.0, 14.0]],
        ]
        assert panel["instances"][0][3][:4] == [2, 3, 10, 14]
        assert failed["panels"] == [{"error": "failed: truncated file"}]


def test_pictures_are_made_on_demand(tmp_path: Path) -> None:
    run = make_run(tmp_path, sample_arrays())
    with serve(run) as client:
        images = client.read("api/images")["images"]
        status, headers, body = client.ask(images[0]["url"])
        assert status == 200
        assert headers["Content-Type"] in ("image/webp", "image/jpeg")
        with Image.open(io.BytesIO(body)) as image:
            assert image.size == (60, 40)
        status, _, body = client.ask(images[2]["url"])  # not an image
        assert status == 404
        assert body.startswith(b"the image cannot be shown: cannot identify image file")
        (tmp_path / "photos" / FILES[1]).unlink()
        assert b"is missing" in client.ask(images[1]["url"])[2]
        for path in ("picture/1/4/400", "picture/1/-1/400", "picture/1/0/399", "picture/2/0/400", "picture/1/x/400"):
            assert client.ask(path)[0] == 404


def test_a_name_that_leads_outside_is_not_followed(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["image_file"] = np.array(["../secret.png", str(tmp_path / "secret.png"), "c.png", "d.png"])
    Image.new("RGB", (60, 40)).save(tmp_path / "secret.png")
    (tmp_path / "root").mkdir()
    path = save(arrays, tmp_path / "p.npz")
    with pytest.raises(PredictionsError, match="cannot be evaluated"):
        Viewer([path], ViewOptions(image_root=tmp_path / "root"))
    (run,) = open_runs([path])
    find = make_finder(run, tmp_path / "root")
    assert find is not None
    for name in arrays["image_file"][:2].tolist():
        with pytest.raises(ValueError, match="not a relative path"):
            find(name)


def test_the_cache_of_pictures_is_bounded() -> None:
    cache = PictureCache(100)
    for number in range(5):
        cache.add((number, 400), (bytes(40), "image/webp"))
        cache.get((0, 400))
    assert cache.bytes == 80
    assert cache.get((0, 400)) is not None  # used last
    assert cache.get((1, 400)) is None
    assert cache.get((4, 400)) is not None


def test_two_runs_side_by_side_and_where_they_disagree(tmp_path: Path) -> None:
    run = make_run(tmp_path, sample_arrays())
    other = changed(without_first(sample_arrays()), model="other")
    with serve(run, save(other, tmp_path / "other.npz"), min_score=0.0) as client:
        client.server.viewer.index.disagreement.wait()
        images = client.read("api/images", order="apart")["images"]
        assert (images[0]["file"], images[0]["apart"]) == (FILES[0], 1.0)
        assert [len(panel.get("instances", ())) for panel in images[0]["panels"]] == [2, 0]
        assert client.names(apart=0.5) == [FILES[0]]
        assert client.read("api/runs")["compared"]


def test_images_in_another_order_are_those_of_their_names(tmp_path: Path) -> None:
    good, _, _ = two_runs(tmp_path)
    predictions = Predictions.load(good)
    turned = restrict(predictions, Cut(files=predictions.files[::-1]))
    path = save(changed({name: turned.arrays[name] for name in turned.arrays}, model="turned"), tmp_path / "t.npz")
    with serve(good, path) as client:
        client.server.viewer.index.disagreement.wait()
        assert {image["apart"] for image in client.read("api/images")["images"]} == {0.0}
        assert client.names(state="with", score=0.9) == [
            file for file, count in zip(predictions.files, _count_from(predictions, 0.9), strict=True) if count
        ]


def _count_from(predictions: Predictions, score: float) -> list[int]:
    return [int((record["scores"] >= score).sum()) for record in predictions]


def test_the_truth_is_shown_and_judges(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    images = photographs(tmp_path / "images", Predictions.load(good).files)
    with serve(good, worse, annotations=truth, image_root=images) as client:
        shown = client.read("api/images", count=60)["images"]
        assert {len(image["panels"]) for image in shown} == {3}
        assert {instance[4] for image in shown for instance in image["panels"][1]["instances"]} == {0, 1}
        assert all(len(image["panels"][1]["found"]) == len(image["panels"][0]["instances"]) for image in shown)
    with serve(good, annotations=truth, image_root=images) as client:
        assert client.read("api/runs")["compared"]
        assert client.names(apart=0.001)


def test_a_run_that_is_not_complete(tmp_path: Path) -> None:
    run = make_run(tmp_path, sample_arrays(), finished=False)
    last = run / "shards" / "00002.npz"
    last.rename(tmp_path / "later.npz")
    (run / "shards" / "00001.part.npz").write_text("unfinished")
    with serve(run) as client:
        assert client.read("api/runs")["progress"] == [{"label": "sample", "images": 3, "failed": 1, "total": 4}]
        before = client.read("api/images")["images"][0]["url"]
        assert client.ask(before)[0] == 200
        (tmp_path / "later.npz").rename(last)
        assert len(client.names()) == 3
        assert client.read("api/reload", "POST")["images"] == 4
        assert client.names() == list(FILES)
        assert client.ask(before)[0] == 404  # the number may be another image now
        last.write_text("damaged")
        status, _, body = client.ask("api/reload", "POST")
        assert status == 500
        assert "00002.npz" in json.loads(body)["message"]
        assert client.names() == list(FILES)  # what was shown stays
    assert not list(tmp_path.glob("orch-view-*"))


def test_nothing_is_finished_yet(tmp_path: Path) -> None:
    run = make_run(tmp_path, sample_arrays(), finished=False)
    for shard in (run / "shards").iterdir():
        shard.unlink()
    with pytest.raises(UsageError, match="has no finished images yet"):
        Viewer([run], ViewOptions())


def test_what_cannot_be_shown_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, sample_arrays())
    assert main(["view", str(run), "--image-root", "nothere"]) == 2
    assert "--image-root nothere is not a folder" in capsys.readouterr().err
    assert main(["view", str(tmp_path / "nothing.npz")]) == 2
    with Viewer([run], ViewOptions()) as viewer, ViewServer(viewer, 0) as server:
        port = server.server_address[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
            ViewServer(viewer, port)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path: Path, sent: signal.Signals) -> None:
    run = make_run(tmp_path, sample_arrays(), finished=False)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "orchestrator", "view", str(run), "--no-browser"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors in ("", "Ctrl-C ends it\n")  # the signal can be faster
    assert list(temporary.iterdir()) == []
