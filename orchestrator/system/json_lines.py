"""Incremental reader of JSON lines, for growing files and for streams of bytes that a guest may have written."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20


class LineSplitter:
    """Cut blocks of bytes into lines. A line longer than `max_bytes` is skipped, so that memory stays bounded."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._unfinished = bytearray()
        self._is_too_long = False

    def feed(self, block: bytes) -> list[bytes]:
        """Return the lines that `block` completes, without their newlines."""
        first, *others = block.split(b"\n")
        self._append(first)
        if not others:
            return []
        lines = self.flush()
        *whole, last = others
        lines += [line for line in whole if len(line) <= self._max_bytes]
        self._append(last)
        return lines

    def flush(self) -> list[bytes]:
        """Return the unfinished last line as a list of one, or nothing where it is too long, and forget it."""
        lines = [] if self._is_too_long else [bytes(self._unfinished)]
        self._unfinished, self._is_too_long = bytearray(), False
        return lines

    def _append(self, part: bytes) -> None:
        if self._is_too_long or len(self._unfinished) + len(part) > self._max_bytes:
            self._unfinished, self._is_too_long = bytearray(), True
        else:
            self._unfinished += part


def split_lines(blocks: Iterable[bytes], *, keep_unfinished: bool) -> Iterator[bytes]:
    """Yield the lines of a stream without their newlines; `keep_unfinished`: also a last line without newline."""
    splitter = LineSplitter()
    for block in blocks:
        yield from splitter.feed(block)
    if keep_unfinished:
        yield from filter(None, splitter.flush())


def parse_object(line: bytes | str) -> dict[str, Any] | None:
    """Return the JSON object that a line holds, or None for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets, which no writer of ours makes
        return None
    return value if isinstance(value, dict) else None


class JsonLinesFile:
    """A file of JSON objects, one a line, that may grow or not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._splitter = LineSplitter()

    def read_new(self) -> Iterator[dict[str, Any]]:
        """Yield the objects of the lines completed since the last call; any other line is skipped.

        Only a regular file is read, and only as far as it reached when the call began: a link, a FIFO or an endless
        writer cannot hold up the reader.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return
            while self._position < status.st_size:
                wanted = min(_BLOCK_BYTES, status.st_size - self._position)
                block = os.pread(descriptor, wanted, self._position)
                if not block:
                    return
                self._position += len(block)
                yield from filter(None, map(parse_object, self._splitter.feed(block)))
        except OSError:  # a network file system that is away for a moment: the next call reads on
            return
        finally:
            os.close(descriptor)
