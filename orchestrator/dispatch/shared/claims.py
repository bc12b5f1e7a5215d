"""Leased claims: which task works on what, one file per claim, on any shared file system.

Claims only prevent that work is done twice; results do not depend on them, because work done twice leaves the same
bytes, renamed into place.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

LEASE_SECONDS = 180.0
"""A claim not renewed for this long may be taken over; network file systems cache a file's time for up to 60 s."""
RENEWALS_PER_LEASE = 6


class Claims:
    """The claims of one holder in a shared folder. As a context manager: renews them, and releases them at the end."""

    def __init__(self, folder: Path, holder: str, lease: float = LEASE_SECONDS) -> None:
        self._folder, self._holder, self.lease = folder, holder, lease
        self._own: set[str] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_over, daemon=True)
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Claims:
        self._renewer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._renewer.join()
        self.release(*self.list_own())
        self._clock.unlink(missing_ok=True)

    def list_own(self) -> tuple[str, ...]:
        """Return the names of this holder's claims, sorted."""
        with self._lock:
            return tuple(sorted(self._own))

    def take(self, name: str) -> bool:
        """Create the claim file; False if it exists. O_EXCL lets exactly one contender succeed, on any machine."""
        try:
            handle = os.open(self._folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as claim:
            claim.write(self._holder)
        with self._lock:
            self._own.add(name)
        return True

    def take_over(self, name: str) -> bool:
        """Take a claim whose lease ran out; False if it was renewed, or another holder was faster."""
        claim, aside = self._folder / name, self._folder / f".{name}.{self._holder}"
        with self._lock:
            if name in self._own:
                return False
        try:
            if not self.find_stale([name]):
                return False
            holder = claim.read_text(encoding="utf-8")
            claim.rename(aside)  # exactly one contender succeeds
            if aside.read_text(encoding="utf-8") != holder:  # it changed hands since it was read: give it back
                with suppress(FileExistsError):
                    os.link(aside, claim)
                return False
        except FileNotFoundError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return self.take(name)

    def find_stale(self, names: Iterable[str]) -> list[str]:
        """Return the claims whose lease ran out, by the file system's own clock: the nodes' clocks differ."""
        self._clock.touch()
        now = self._clock.stat().st_mtime
        stale = []
        for name in names:
            with suppress(FileNotFoundError):
                if now - (self._folder / name).stat().st_mtime > self.lease:
                    stale.append(name)
        return stale

    def list_all(self) -> set[str]:
        """Return the names of all holders' claims."""
        return {name for name in os.listdir(self._folder) if not name.startswith(".")}

    def release(self, *names: str) -> None:
        """Give up claims. One that another holder took over meanwhile stays that holder's."""
        for name in names:
            with self._lock:
                self._own.discard(name)
            with suppress(FileNotFoundError):
                if (self._folder / name).read_text(encoding="utf-8") == self._holder:
                    (self._folder / name).unlink()

    def renew(self) -> None:
        """Update the time of each claim, so that its lease starts again."""
        for name in self.list_own():
            with suppress(OSError):  # taken over, or the file system does not answer: then the lease runs out
                os.utime(self._folder / name)

    @property
    def _clock(self) -> Path:
        return self._folder / f".clock.{self._holder}"

    def _renew_until_over(self) -> None:
        while not self._over.wait(self.lease / RENEWALS_PER_LEASE):
            self.renew()
