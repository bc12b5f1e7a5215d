"""Find a checkpoint in an unpacked archive, and explain why one does not fit the model.

This module needs no TensorFlow: the caller reads the checkpoint's variables.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from orch_runner.contract import Fatal

Shape = Tuple[int, ...]
HINT = "orch weights add MODEL PATH, with the published archive or the folder out of it"
MAX_NAMED = 4
"""The most variables named in a message."""
_STEP = re.compile(r"-(\d+)$")
_LATEST = re.compile(r'^model_checkpoint_path:\s*"([^"]+)"', re.MULTILINE)


def find_prefix(folder: str) -> str:
    """Return TensorFlow's prefix of a checkpoint: its files' path without .index and .data-… Raises Fatal.

    Of several, choose the latest by the folder's `checkpoint` file, else the one with the most steps.
    """
    indices = [path for path in sorted(Path(folder).rglob("*.index")) if not path.name.startswith(".")]
    complete = [path.with_suffix("") for path in indices if _list_missing_parts(path.with_suffix("")) == []]
    if not indices:
        raise _make_error(f"no checkpoint in {folder}: expected files NAME.index and NAME.data-…")
    if not complete:
        prefix = indices[0].with_suffix("")
        raise _make_error(f"the checkpoint {prefix.name} in {folder} is not complete: {_list_missing_parts(prefix)[0]}")
    return str(max(complete, key=lambda prefix: (_is_latest(prefix), _read_step(prefix), -len(prefix.parts))))


def _list_missing_parts(prefix: Path) -> List[str]:
    parts = sorted(prefix.parent.glob(f"{_escape_glob(prefix.name)}.data-*-of-*"))
    if not parts:
        return [f"{prefix.name}.data-00000-of-00001 is missing"]
    count = int(parts[0].name.rpartition("-of-")[2])
    expected = [f"{prefix.name}.data-{number:05}-of-{count:05}" for number in range(count)]
    return [f"{name} is missing" for name in expected if not (prefix.parent / name).is_file()]


def _escape_glob(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _is_latest(prefix: Path) -> bool:
    try:
        match = _LATEST.search((prefix.parent / "checkpoint").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False
    return match is not None and match.group(1).rpartition("/")[2] == prefix.name


def _read_step(prefix: Path) -> int:
    match = _STEP.search(prefix.name)
    return int(match.group(1)) if match else -1


def check_variables(model: str, given: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]) -> None:
    """Compare names and shapes of a checkpoint's variables with a network's; extra ones are ignored. Raises Fatal."""
    missing = [name for name in sorted(expected) if name not in given]
    shapes = {name: (tuple(given[name]), tuple(expected[name])) for name in sorted(expected) if name in given}
    reshaped = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    problems = [_describe_missing(missing, len(expected)), _describe_reshaped(reshaped)]
    summary = "; ".join(problem for problem in problems if problem)
    if summary:
        raise _make_error(f"the checkpoint is not one of {model}: {summary}")


def _describe_missing(missing: List[str], count: int) -> Optional[str]:
    return f"{len(missing)} of {count} variables are missing ({_list_some(missing)})" if missing else None


def _describe_reshaped(shapes: Dict[str, Tuple[Shape, Shape]]) -> Optional[str]:
    if not shapes:
        return None
    details = [f"{name} is {list(given)}, must be {list(expected)}" for name, (given, expected) in shapes.items()]
    return f"{len(shapes)} have another shape ({_list_some(details)})"


def _list_some(names: List[str]) -> str:
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _make_error(message: str) -> Fatal:
    return Fatal("weights", 3, message, HINT)
