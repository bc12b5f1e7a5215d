"""Write npz files as a stream, with the same bytes each time, and read them without ever unpickling."""

from __future__ import annotations

import contextlib
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.system import replace_file

# Measured with `python -m bench.collect`: the fastest level whose files are smaller than the pickled layout's at its 6.
LEVEL = 5
# Bytes handed to zlib at a time: fixed, as deflate's output may depend on how its input is cut.
BLOCK = 1 << 20
CHUNK = 1 << 22  # bytes of an array held at a time when it is read piece by piece

# Everything that zipfile, zlib and numpy raise for a damaged or hostile zip.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    SyntaxError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


class ArrayWriter:
    """Writes one array in pieces along its first axis; see `NpzWriter.array`."""

    def __init__(self, stream: IO[bytes], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._stream = stream
        self._name = name
        self._shape = shape
        self._dtype = dtype
        self._rows = 0
        self._pending = bytearray()

    def write(self, chunk: NDArray[Any]) -> None:
        """Append rows. Their dtype must convert to the array's without loss, as a shorter string does."""
        if chunk.ndim != len(self._shape) or chunk.shape[1:] != self._shape[1:]:
            raise ValueError(f"{self._name}: rows of shape {chunk.shape} do not fit in {self._shape}")
        self._rows += len(chunk) if chunk.ndim else 1
        data = np.ascontiguousarray(chunk.astype(self._dtype, casting="safe", copy=False))
        self._pending += data.reshape(-1).view(np.uint8).data
        self._flush(BLOCK)

    def close(self) -> None:
        """Write the rest; ValueError when the number of rows is not the announced one."""
        expected = self._shape[0] if self._shape else 1
        if self._rows != expected:
            raise ValueError(f"{self._name}: {self._rows} rows were written, {expected} announced")
        self._flush(1)

    def _flush(self, at_least: int) -> None:
        written = 0
        with memoryview(self._pending) as view:
            while len(view) - written >= at_least:
                self._stream.write(view[written : written + BLOCK])
                written = min(written + BLOCK, len(view))
        del self._pending[:written]


class NpzWriter:
    """Writes an npz array by array; the same arrays give the same bytes (with the same zlib).

    A context manager: the file appears, complete, when the block succeeds, and not at all otherwise.
    """

    def __init__(self, path: Path, compress: bool, level: int = LEVEL) -> None:
        self._path = path
        self._kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        self._level = level
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> NpzWriter:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(replace_file(self._path))
            self._zip = stack.enter_context(zipfile.ZipFile(stream, "w", self._kind))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def member(self, file_name: str) -> Iterator[IO[bytes]]:
        """Open a member of the archive for writing bytes."""
        info = zipfile.ZipInfo(file_name, date_time=(1980, 1, 1, 0, 0, 0))
        info.compress_type = self._kind
        info.create_system = 3
        info.external_attr = 0o600 << 16
        info._compresslevel = self._level  # type: ignore[attr-defined]  # public only from Python 3.13 on
        with self._zip.open(info, "w", force_zip64=True) as stream:
            yield stream

    @contextlib.contextmanager
    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[ArrayWriter]:
        """Open a writer for the array `name`, whose final shape must be known."""
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise ValueError(f"{name}: object arrays cannot be written")
        with self.member(f"{name}.npy") as stream:
            _write_header(stream, shape, kind)
            writer = ArrayWriter(stream, name, shape, kind)
            yield writer
            writer.close()

    def write_array(self, name: str, array: NDArray[Any]) -> None:
        """Write one whole array."""
        with self.array(name, array.shape, array.dtype) as writer:
            writer.write(array)


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    try:
        npy.write_array_header_1_0(stream, header)
    except ValueError:  # a header over 64 KiB
        npy.write_array_header_2_0(stream, header)


@dataclass(frozen=True)
class Header:
    """Shape, dtype and order from an array's npy header."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the array's data."""
        return math.prod(self.shape) * self.dtype.itemsize


class Arrays(Mapping[str, NDArray[Any]]):
    """The arrays of one npz, each read when it is accessed; see `open_arrays`. Keeps no file open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _report_damage(path), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names):
                raise ValueError("two arrays have one name")
            self._members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
        self._headers: dict[str, tuple[Header, int]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the array
        return name in self._members

    def __getitem__(self, name: str) -> NDArray[Any]:
        with self._open(name) as (stream, header):
            data = _read(stream, header.nbytes)
            _check_end(stream)
            return _make_array(data, header)

    def header(self, name: str) -> Header:
        """Return the header of an array, without reading its data."""
        if name not in self._headers:
            with self._open(name):
                pass
        return self._headers[name][0]

    def chunks(self, name: str, nbytes: int = CHUNK) -> Iterator[NDArray[Any]]:
        """Yield the array in consecutive slices along its first axis, of about `nbytes` each."""
        with self._open(name) as (stream, header):
            if not header.shape or (header.fortran_order and len(header.shape) > 1):
                yield _make_array(_read(stream, header.nbytes), header)
                return
            left, row = header.shape[0], math.prod(header.shape[1:]) * header.dtype.itemsize
            while left:
                count = min(left, max(1, nbytes // max(1, row)))
                part = Header((count, *header.shape[1:]), header.dtype, False)
                yield _make_array(_read(stream, part.nbytes), part)
                left -= count
            _check_end(stream)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[tuple[IO[bytes], Header]]:
        info = self._members[name]
        with _report_damage(self.path, name), self.path.open("rb") as file:
            stream = _open_member(file, info)
            if name in self._headers:
                stream.read(self._headers[name][1])
            else:
                header = _read_header(stream)
                # Checked before anything is allocated: a header can announce any size.
                present = info.file_size - stream.tell()
                if header.nbytes != present:
                    raise ValueError(f"its header announces {header.nbytes} bytes, the file has {present}")
                self._headers[name] = (header, stream.tell())
            yield stream, self._headers[name][0]


class KeptArrays(Mapping[str, NDArray[Any]]):
    """Arrays of a file, or in memory, each of which is read once and kept."""

    def __init__(self, arrays: Arrays | Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self._kept: dict[str, NDArray[Any]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._kept:
            self._kept[name] = self._arrays[name]
        return self._kept[name]

    def header(self, name: str) -> Header:
        """Return the header of an array, without reading its data from a file."""
        if isinstance(self._arrays, Arrays):
            return self._arrays.header(name)
        return Header(self[name].shape, self[name].dtype, False)

    def chunks(self, name: str, nbytes: int = CHUNK) -> Iterator[NDArray[Any]]:
        """Yield the array in consecutive slices: as a whole if it is in memory, else from the file, without keeping."""
        if isinstance(self._arrays, Arrays) and name not in self._kept:
            yield from self._arrays.chunks(name, nbytes)
        else:
            yield self[name]


class RowReader:
    """An array read from its first row to its last, in portions of any length."""

    def __init__(
        self, header: Header, chunks: Iterator[NDArray[Any]], too_short: Callable[[], PredictionsError]
    ) -> None:
        self.length = header.shape[0]
        self._chunks = chunks
        self._too_short = too_short
        self._kept: NDArray[Any] = np.zeros((0, *header.shape[1:]), header.dtype)
        self._start = 0

    def take(self, count: int) -> NDArray[Any]:
        """Return the next `count` rows; PredictionsError when fewer are left."""
        while len(self._kept) - self._start < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise self._too_short()
            left = self._kept[self._start :]
            self._kept = np.concatenate((left, chunk)) if len(left) else chunk
            self._start = 0
        part = self._kept[self._start : self._start + count]
        self._start += count
        return part

    def is_at_end(self) -> bool:
        """Say whether all rows were taken. Reading to the end makes the checksum be compared."""
        return len(self._kept) == self._start and not any(len(chunk) for chunk in self._chunks)


def open_arrays(path: Path) -> Arrays:
    """Open the npz `path` as a mapping that reads each array when it is accessed; nothing is unpickled.

    UsageError when the file does not exist; PredictionsError, now or at an access, when it is not an npz, is damaged,
    or an array holds Python objects.
    """
    return Arrays(path)


@contextlib.contextmanager
def _report_damage(path: Path, name: str | None = None) -> Iterator[None]:
    what = f"array {name!r} of {path}" if name else str(path)
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}", hint="give the predictions.npz of a run directory") from error
    except _DAMAGE as error:
        why = str(error) or type(error).__name__
        raise PredictionsError(f"cannot read {what}", why=why, hint=f"orch validate {path}") from error


def _open_member(file: IO[bytes], info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a member by its directory entry; ZipFile would read the whole directory again each time."""
    file.seek(info.header_offset)
    local = file.read(30)
    if local[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member is not at the offset in the directory")
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    file.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), 1)
    return cast(IO[bytes], zipfile.ZipExtFile(file, "r", info))


def _read_header(stream: IO[bytes]) -> Header:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"unknown npy version {version}")
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded because they can run code")
    if any(side < 0 for side in shape):
        raise ValueError(f"its shape is {shape}")
    return Header(tuple(shape), dtype, fortran_order)


def _read(stream: IO[bytes], nbytes: int) -> bytearray:
    data = bytearray(nbytes)
    with memoryview(data) as view:
        size = 0
        while size < nbytes:
            piece = stream.read(min(BLOCK, nbytes - size))
            if not piece:
                raise EOFError(f"it ends {nbytes - size} bytes too early")
            view[size : size + len(piece)] = piece
            size += len(piece)
    return data


def _check_end(stream: IO[bytes]) -> None:
    # Reading past the data makes zipfile compare the checksum.
    if stream.read(1):
        raise ValueError("data follows the array")


def _make_array(data: bytearray, header: Header) -> NDArray[Any]:
    array: NDArray[Any] = np.ndarray(header.shape, header.dtype, data, order="F" if header.fortran_order else "C")
    return array
