"""The page of `orch view` in a real browser: wide and narrow, light and dark, by keys, with hostile names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.chromium import Page, find_chromium
from tests.unit.evaluation.compare_samples import changed
from tests.unit.predictions.predictions_samples import Arrays, sample_arrays, save
from tests.unit.reports.view_samples import Client, make_run, serve

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=alert(1)>&amp;.jpg"
NO_IMAGE = "/picture/1/2/400"  # the third image's file
VIEWS = [(width, height, scheme) for width, height in ((1280, 900), (390, 844)) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = find_chromium()
    assert program is not None
    with Page(program) as opened:
        yield opened


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    arrays = _with_hostile_texts(sample_arrays())
    other = save(changed(arrays, model="other"), tmp_path / "other.npz")
    with serve(make_run(tmp_path, arrays), other) as client:
        yield client


def _with_hostile_texts(arrays: Arrays) -> Arrays:
    arrays["image_file"] = np.array([HOSTILE, *arrays["image_file"][1:].tolist()])
    arrays["error"] = np.array(["", "", f"<b>{HOSTILE}</b>", ""])
    categories = [{"id": 0, "name": HOSTILE}, {"id": 5, "name": "hat"}, {"id": 7, "name": "bag"}]
    return changed(arrays, categories=categories)


def open_page(page: Page, client: Client, width: int, height: int, scheme: str) -> None:
    page.requested.clear()
    page.complaints.clear()
    page.show_as(width, height, scheme)
    page.call("Page.navigate", url=client.url)
    page.wait_for("document.querySelectorAll('.card').length === 4")


@pytest.mark.parametrize(("width", "height", "scheme"), VIEWS)
def test_the_page_fits_and_follows_the_colour_scheme(
    page: Page, client: Client, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    open_page(page, client, width, height, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(250, 250, 248)", "dark": "rgb(19, 21, 25)"}[scheme]
    side_by_side = page.evaluate(
        "(([a, b]) => a.getBoundingClientRect().top === b.getBoundingClientRect().top)"
        "(document.querySelectorAll('.card .panel'))"
    )
    assert side_by_side == (width > 600)
    assert [text for text in page.complaints if NO_IMAGE not in text] == []
    assert page.requested
    assert all(address.startswith((client.url, "data:")) for address in page.requested)
    page.take_picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000


def test_foreign_texts_are_texts(page: Page, client: Client) -> None:
    open_page(page, client, 1280, 900, "light")
    assert page.evaluate("document.querySelectorAll('img, .missing b').length") == 0
    assert page.evaluate("document.querySelector('.card h3 button').textContent") == HOSTILE
    assert page.evaluate("document.querySelector('.missing').textContent") == f"failed: <b>{HOSTILE}</b>"
    assert page.evaluate("document.getElementById('category').options[1].textContent") == HOSTILE


def test_a_picture_and_what_is_drawn_over_it(page: Page, client: Client) -> None:
    open_page(page, client, 1280, 900, "light")
    pixel = "[...document.querySelectorAll('canvas')[2].getContext('2d').getImageData(25, 45, 1, 1).data]"
    page.wait_for(f"{pixel}[3] === 255")  # the second image, whose photograph is (60, 80, 120)
    assert all(abs(a - b) < 12 for a, b in zip(page.evaluate(pixel), (60, 80, 120, 255), strict=True))
    assert page.evaluate("document.querySelectorAll('.card')[1].querySelectorAll('rect').length") == 6


def test_filters_and_arrow_keys(page: Page, client: Client) -> None:
    open_page(page, client, 1280, 900, "light")
    page.evaluate(
        "((box) => { box.value = 'b.jpg'; box.dispatchEvent(new Event('input')); })(document.getElementById('search'))"
    )
    page.wait_for("document.getElementById('count').textContent === '1–2 of 2 images'")
    page.evaluate("document.querySelector('.card h3 button').click()")
    page.wait_for("document.getElementById('large').open")
    page.press("ArrowRight")
    page.wait_for("document.getElementById('large-name').textContent === 'other/b.jpg (2 of 2)'")
    page.press("ArrowRight")  # there is no third
    page.press("ArrowLeft")
    page.wait_for("document.getElementById('large-name').textContent === 'sub/b.jpg (1 of 2)'")
    assert page.evaluate("document.querySelectorAll('#large .panel').length") == 2
    assert [text for text in page.complaints if NO_IMAGE not in text] == []
