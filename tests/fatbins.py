"""Shared objects with device code, made byte by byte: the layout that orch_runner.gpu.fatbin reads."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

PTX, NATIVE = 1, 2
Entry = tuple[int, int]
"""Kind and architecture: (NATIVE, 86)."""


def fatbin(*entries: Entry, payload: int = 24) -> bytes:
    """A fat binary: a header, then for each entry a header of 64 bytes and a payload that is nothing."""
    body = b""
    for kind, sm in entries:
        header = struct.pack("<HHIQ", kind, 0x101, 64, payload) + struct.pack("<III", payload, 0, 0)
        body += (header + struct.pack("<I", sm)).ljust(64, b"\0") + b"\xee" * payload
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def elf(sections: Mapping[str, bytes], *, empty: Sequence[str] = ()) -> bytes:
    """A 64-bit ELF file with these sections, and with `empty` ones that claim room that they do not take."""
    names = ["", *sections, *empty, ".shstrtab"]
    strings = b"\0".join(name.encode() for name in names) + b"\0"
    content, headers, at = b"", b"\0" * 64, 64
    for name in names[1:]:
        data = strings if name == ".shstrtab" else sections.get(name, b"")
        offset = strings.index(name.encode() + b"\0")
        kind, size = (8, 1 << 20) if name in empty else (1, len(data))
        headers += struct.pack("<IIQQQQIIQQ", offset, kind, 0, 0, at + len(content), size, 0, 0, 8, 0)
        content += data
    table = at + len(content)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, len(names), len(names) - 1
    )
    return head + content + headers
