"""The device code inside a shared object: which compute capabilities have native code, and which have PTX.

A CUDA binary keeps its kernels as fat binaries in a section of the ELF file. Each begins with a header (magic, length)
and lists its entries, one per architecture; an entry's own header says PTX or native and for what. Payloads, which may
be compressed, are not looked at, so a library of a gigabyte takes a moment.
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
"""The architectures of one fat binary, about one source file's kernels: (native, PTX), 86 for 8.6."""


def read(path: Path) -> List[Fatbin]:
    """All fat binaries of a shared object; none where it is no 64-bit ELF file or has no device code."""
    with path.open("rb") as stream:
        if stream.read(6) != b"\x7fELF\x02\x01":
            return []
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return [one for start, end in _sections(content) for one in _fatbins(content, start, end)]


def covered(fatbins: Sequence[Fatbin]) -> Tuple[List[int], List[int]]:
    """The architectures on which most of the fat binaries run natively, and those for which most have PTX.

    Most, not all: libraries linked into a framework have kernels for one kind of GPU only. And not any, because they
    have code for GPUs, too, that the framework's own kernels lack.
    """
    known = sorted({sm for native, ptx in fatbins for sm in native | ptx})
    half = len(fatbins) / 2
    native = [sm for sm in known if sum(_runs(code, sm) for code, _ in fatbins) > half]
    stated = {sm for code, _ in fatbins for sm in code}
    return [sm for sm in native if sm in stated], [sm for sm in known if sum(sm in ptx for _, ptx in fatbins) > half]


def _runs(native: FrozenSet[int], sm: int) -> bool:
    """Native code runs on GPUs of its own major number that are as new or newer."""
    return any(one // 10 == sm // 10 and one <= sm for one in native)


def _sections(content: mmap.mmap) -> Iterator[Tuple[int, int]]:
    """Where the sections with device code begin and end."""
    try:
        (table,) = struct.unpack_from("<Q", content, 0x28)
        size, count, names = struct.unpack_from("<HHH", content, 0x3A)
        headers = [struct.unpack_from("<IIQQQQ", content, table + number * size) for number in range(count)]
        names_at = headers[names][4]
    except (struct.error, IndexError):
        return  # cut off, or without sections
    for name, kind, _, _, offset, length in headers:
        start = names_at + name
        if kind != 8 and content[start : content.find(b"\0", start)] in SECTIONS:  # 8: takes no room in the file
            yield offset, min(offset + length, len(content))


def _fatbins(content: mmap.mmap, start: int, end: int) -> Iterator[Fatbin]:
    """The fat binaries of a section; empty ones are left out."""
    at = content.find(MAGIC, start, end)
    while at >= 0:
        _, _, header, length = _HEADER.unpack_from(content, at)
        stop = min(at + header + length, end)
        entries = list(_entries(content, at + header, stop))
        if entries:
            yield tuple(frozenset(sm for kind, sm in entries if kind == wanted) for wanted in (NATIVE, PTX))
        at = content.find(MAGIC, max(stop, at + 1), end)


def _entries(content: mmap.mmap, at: int, stop: int) -> Iterator[Tuple[int, int]]:
    while at + _SM_OFFSET + 4 <= stop:
        kind, _, header, length = _ENTRY.unpack_from(content, at)
        (sm,) = struct.unpack_from("<I", content, at + _SM_OFFSET)
        yield kind, sm
        if not header:
            return
        at += header + length
