"""Who works on what in a run several tasks share: leased claims, one file each, on any shared file system.

A claim says who works where, so that work is not done twice for nothing; it never is what keeps results right: work
done twice leaves the same bytes, renamed into place.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

LEASE_SECONDS = 180.0
"""A claim nobody renewed for so long is anybody's: longer than network file systems keep old times of files (60 s)."""
RENEWALS_PER_LEASE = 6


class Claims:
    """The claims of one holder in a shared folder. As a context manager: renewed, and released in the end."""

    def __init__(self, folder: Path, holder: str, lease: float = LEASE_SECONDS) -> None:
        self._folder, self._holder, self.lease = folder, holder, lease
        self._held: set[str] = set()
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
        self.release(*self.held())
        self._clock.unlink(missing_ok=True)

    def held(self) -> tuple[str, ...]:
        """What this holder has, in order."""
        with self._lock:
            return tuple(sorted(self._held))

    def take(self, name: str) -> bool:
        """Claim what nobody has. O_EXCL: of all who try, on whatever machine, one gets it."""
        try:
            handle = os.open(self._folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as claim:
            claim.write(self._holder)
        with self._lock:
            self._held.add(name)
        return True

    def take_over(self, name: str) -> bool:
        """Claim what somebody had and no longer renews."""
        claim, aside = self._folder / name, self._folder / f".{name}.{self._holder}"
        with self._lock:
            if name in self._held:
                return False
        try:
            if not self.stale([name]):
                return False
            holder = claim.read_text(encoding="utf-8")
            claim.rename(aside)  # of all who try, one gets it
            if aside.read_text(encoding="utf-8") != holder:  # another has it by now: give it back
                with suppress(FileExistsError):
                    os.link(aside, claim)
                return False
        except FileNotFoundError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return self.take(name)

    def stale(self, names: Iterable[str]) -> list[str]:
        """Those of the claims whose lease ran out, by the file system's own clock: nodes' clocks differ."""
        self._clock.touch()
        now = self._clock.stat().st_mtime
        found = []
        for name in names:
            with suppress(FileNotFoundError):
                if now - (self._folder / name).stat().st_mtime > self.lease:
                    found.append(name)
        return found

    def listed(self) -> set[str]:
        """All claims there are, whoever has them."""
        return {name for name in os.listdir(self._folder) if not name.startswith(".")}

    def release(self, *names: str) -> None:
        """Give up claims. What another took over meanwhile stays theirs."""
        for name in names:
            with self._lock:
                self._held.discard(name)
            with suppress(FileNotFoundError):
                if (self._folder / name).read_text(encoding="utf-8") == self._holder:
                    (self._folder / name).unlink()

    def renew(self) -> None:
        """Say that this holder still works on what it has."""
        for name in self.held():
            with suppress(OSError):  # taken over, or the file system is away: then the lease runs out
                os.utime(self._folder / name)

    @property
    def _clock(self) -> Path:
        return self._folder / f".clock.{self._holder}"

    def _renew_until_over(self) -> None:
        while not self._over.wait(self.lease / RENEWALS_PER_LEASE):
            self.renew()
