"""What the tests of warm workers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.runtimes.warm.warm_samples import FakeWorker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[FakeWorker]:
    """A made-up worker that is up, with a spool of its own."""
    made = FakeWorker(tmp_path / "spool")
    made.lock()
    yield made
    made.close()
