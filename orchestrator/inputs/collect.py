"""Collect what a user names as images (folders, files, globs, lists, archives, data sets) into one ordered list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import MachineError, UsageError
from orchestrator.inputs.folders import SkippedFile, SourceImage
from orchestrator.inputs.links import LEADS_OUTSIDE, Links
from orchestrator.inputs.listing import Listing
from orchestrator.inputs.manifest import Images, InputImage, open_inputs, read_inputs
from orchestrator.inputs.remote import fetch_url, is_url, recorded_source, recorded_url
from orchestrator.inputs.signatures import HEAD_BYTES, is_image
from orchestrator.inputs.sources import from_source, make_links
from orchestrator.system import is_archive

__all__ = ["Images", "InputImage", "InputSet", "collect_inputs", "open_inputs", "read_inputs"]


@dataclass(frozen=True)
class InputSet:
    """The images of a run in order, the folders that contain them, and the skipped files."""

    images: Images
    roots: tuple[Path, ...]
    skipped: tuple[SkippedFile, ...]
    notes: tuple[str, ...] = ()
    """Notes for the user on how the sources were read."""

    def digest(self) -> str:
        """Return the digest of the images' names and sizes."""
        return self.images.digest

    def locate(self, image: InputImage) -> Path:
        """Return the path of an image on the host."""
        root, _, rest = image.path.partition("/")
        return self.roots[int(root)] / rest


def collect_inputs(
    sources: Sequence[str],
    unpack_to: Path,
    image_root: Path | None = None,
    follow_links: bool = False,
    offline: bool = False,
) -> InputSet:
    """List the images of all sources; archives are unpacked into `unpack_to` once.

    Sources at http(s) addresses are fetched into the cache where they are new or changed, and not with `offline`.

    Links in folders are followed inside the folders that the sources name; with `follow_links`, to other folders too,
    whose files are then linked or copied below `unpack_to`. Raises UsageError for a missing source, or when there is
    no image at all; MachineError when the list cannot be stored. Memory hardly grows with the number of images: their
    records are kept in unnamed files beside `unpack_to`.
    """
    skipped: list[SkippedFile] = []
    notes: list[str] = []
    beside = unpack_to.parent if unpack_to.parent.is_dir() else None
    links = make_links(sources, image_root, follow_links, unpack_to / "links")
    try:
        listing = Listing(beside, links, skipped)
        for number, source in enumerate(_local(sources, offline)):
            listing.add(_read_source(source, unpack_to / str(number), image_root, links, skipped, notes))
        if not listing.count:
            raise _no_images(sources, skipped)
        images, roots = listing.images(beside, skipped)
    except OSError as error:
        raise MachineError("cannot store the list of images", why=error.strerror or str(error)) from error
    return InputSet(images, roots, tuple(skipped), (*notes, *links.notes()))


def _read_source(
    source: str, unpack_to: Path, image_root: Path | None, links: Links, skipped: list[SkippedFile], notes: list[str]
) -> Iterator[SourceImage]:
    try:
        yield from from_source(source, unpack_to, image_root, links, skipped, notes)
    except OSError as error:
        raise UsageError(f"cannot read {source}", why=error.strerror or str(error)) from error


def _local(sources: Sequence[str], offline: bool) -> Iterator[str]:
    """Yield the sources, files in the cache for addresses."""
    for source in sources:
        if not is_url(source):
            yield source
            continue
        file = fetch_url(source, offline=offline)
        with file.open("rb") as stream:
            if not is_archive(file) and not is_image(stream.read(HEAD_BYTES)):
                raise UsageError(f"{recorded_url(source)} is neither an image nor an archive of images")
        yield str(file)


def _no_images(sources: Sequence[str], skipped: Sequence[SkippedFile]) -> UsageError:
    others = f"{len(skipped)} files skipped: {_examples(skipped)}" if skipped else "no file was found"
    outside = next((item.file for item in skipped if item.reason == LEADS_OUTSIDE), None)
    return UsageError(
        f"no images in {' '.join(map(recorded_source, sources))}",
        why=others,
        hint=None if outside is None else f"{outside} is {LEADS_OUTSIDE}",
    )


def _examples(skipped: Sequence[SkippedFile]) -> str:
    names = [item.file for item in skipped[:3]]
    return ", ".join(names) + (", …" if len(skipped) > 3 else "")
