"""Read which compute capabilities have native code or PTX in a shared object.

A CUDA binary keeps its kernels as fat binaries in a section of the ELF file. Each begins with a header (magic, length)
and lists its entries, one per architecture; an entry's header holds its kind (PTX or native) and architecture. The
payloads, which may be compressed, are not read, so a library of a gigabyte takes a moment.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import FrozenSet, Iterator, List, Sequence, Tuple

MAGIC = struct.pack("<I", 0xBA55ED50)
SECTIONS = (b".nv_fatbin", b"__nv_relfatbin")
_HEADER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes after it
_ENTRY = struct.Struct("<HHIQ")  # kind, version, bytes of this header, bytes after it
_SM_OFFSET = 28  # of the architecture in an entry's header, as in sm_86
PTX, NATIVE = 1, 2


Fatbin = Tuple[FrozenSet[int], FrozenSet[int]]
"""The architectures of one fat binary, which holds about one source file's kernels: (native, PTX), 86 for 8.6."""


def read_fatbins(path: Path) -> List[Fatbin]:
    """Return all fat binaries of a shared object: an empty list without device code or for other files."""
    with path.open("rb") as stream:
        if stream.read(6) != b"\x7fELF\x02\x01":
            return []
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return [fatbin for start, end in _find_sections(content) for fatbin in _find_fatbins(content, start, end)]


def summarize_architectures(fatbins: Sequence[Fatbin]) -> Tuple[List[int], List[int]]:
    """Return the architectures on which most fat binaries run natively, and those for which most have PTX.

    Most, not all: libraries linked into a framework have kernels for only one kind of GPU. Most, not any: they also
    have code for GPUs that the framework's own kernels do not support.
    """
    known = sorted({sm for native, ptx in fatbins for sm in native | ptx})
    half = len(fatbins) / 2
    native = [sm for sm in known if sum(_can_run(code, sm) for code, _ in fatbins) > half]
    stated = {sm for code, _ in fatbins for sm in code}
    return [sm for sm in native if sm in stated], [sm for sm in known if sum(sm in ptx for _, ptx in fatbins) > half]


def _can_run(native: FrozenSet[int], sm: int) -> bool:
    """Return whether native code runs on `sm`: its major number is equal, its minor one not older."""
    return any(own // 10 == sm // 10 and own <= sm for own in native)


def _find_sections(content: mmap.mmap) -> Iterator[Tuple[int, int]]:
    """Yield the start and end of each section with device code."""
    try:
        (table,) = struct.unpack_from("<Q", content, 0x28)
        size, count, names = struct.unpack_from("<HHH", content, 0x3A)
        headers = [struct.unpack_from("<IIQQQQ", content, table + number * size) for number in range(count)]
        names_at = headers[names][4]
    except (struct.error, IndexError):
        return  # truncated, or without sections
    for name, kind, _, _, offset, length in headers:
        start = names_at + name
        if kind != 8 and content[start : content.find(b"\0", start)] in SECTIONS:  # 8: no content in the file
            yield offset, min(offset + length, len(content))


def _find_fatbins(content: mmap.mmap, start: int, end: int) -> Iterator[Fatbin]:
    """Yield the fat binaries of a section, skipping empty ones."""
    at = content.find(MAGIC, start, end)
    while at >= 0:
        _, _, header, length = _HEADER.unpack_from(content, at)
        stop = min(at + header + length, end)
        entries = list(_read_entries(content, at + header, stop))
        if entries:
            yield tuple(frozenset(sm for kind, sm in entries if kind == expected) for expected in (NATIVE, PTX))
        at = content.find(MAGIC, max(stop, at + 1), end)


def _read_entries(content: mmap.mmap, at: int, stop: int) -> Iterator[Tuple[int, int]]:
    while at + _SM_OFFSET + 4 <= stop:
        kind, _, header, length = _ENTRY.unpack_from(content, at)
        (sm,) = struct.unpack_from("<I", content, at + _SM_OFFSET)
        yield kind, sm
        if not header:
            return
        at += header + length
