"""Finding a checkpoint in an unpacked archive, and saying what is wrong with one that does not fit.

Needs no TensorFlow: whoever calls it has read the checkpoint's variables.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from orch_runner.contract import Fatal

Shape = Tuple[int, ...]
HINT = "orch weights add MODEL PATH, with the published archive or the folder out of it"
NAMED = 4
"""At most so many variables are named in a message."""
_STEP = re.compile(r"-(\d+)$")
_LATEST = re.compile(r'^model_checkpoint_path:\s*"([^"]+)"', re.MULTILINE)


def find_prefix(folder: str) -> str:
    """What TensorFlow calls a checkpoint: its files' path without .index and .data-… Raises Fatal.

    Of several, the one that the folder's own `checkpoint` file calls the latest, else the one of most steps.
    """
    indices = [path for path in sorted(Path(folder).rglob("*.index")) if not path.name.startswith(".")]
    whole = [path.with_suffix("") for path in indices if _missing_parts(path.with_suffix("")) == []]
    if not indices:
        raise _unusable(f"there is no checkpoint in {folder}: a file NAME.index and others NAME.data-… were expected")
    if not whole:
        prefix = indices[0].with_suffix("")
        raise _unusable(f"the checkpoint {prefix.name} in {folder} is not complete: {_missing_parts(prefix)[0]}")
    return str(max(whole, key=lambda prefix: (_is_latest(prefix), _steps(prefix), -len(prefix.parts))))


def _missing_parts(prefix: Path) -> List[str]:
    parts = sorted(prefix.parent.glob(f"{_escaped(prefix.name)}.data-*-of-*"))
    if not parts:
        return [f"{prefix.name}.data-00000-of-00001 is missing"]
    count = int(parts[0].name.rpartition("-of-")[2])
    expected = [f"{prefix.name}.data-{number:05}-of-{count:05}" for number in range(count)]
    return [f"{name} is missing" for name in expected if not (prefix.parent / name).is_file()]


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _is_latest(prefix: Path) -> bool:
    try:
        found = _LATEST.search((prefix.parent / "checkpoint").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False
    return found is not None and found.group(1).rpartition("/")[2] == prefix.name


def _steps(prefix: Path) -> int:
    found = _STEP.search(prefix.name)
    return int(found.group(1)) if found else -1


def check_variables(model: str, there: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> None:
    """Compare the variables of a checkpoint, names and shapes, with a network's. Raises Fatal; more is no fault."""
    missing = [name for name in sorted(wanted) if name not in there]
    other = {name: (tuple(there[name]), tuple(wanted[name])) for name in sorted(wanted) if name in there}
    other = {name: shapes for name, shapes in other.items() if shapes[0] != shapes[1]}
    problems = [_about_missing(missing, len(wanted)), _about_shapes(other)]
    told = "; ".join(problem for problem in problems if problem)
    if told:
        raise _unusable(f"the checkpoint is not one of {model}: {told}")


def _about_missing(missing: List[str], count: int) -> Optional[str]:
    return f"{len(missing)} of {count} variables are missing ({_some(missing)})" if missing else None


def _about_shapes(other: Dict[str, Tuple[Shape, Shape]]) -> Optional[str]:
    if not other:
        return None
    told = [f"{name} is {list(there)}, must be {list(wanted)}" for name, (there, wanted) in other.items()]
    return f"{len(other)} have another shape ({_some(told)})"


def _some(names: List[str]) -> str:
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _unusable(message: str) -> Fatal:
    return Fatal("weights", 3, message, HINT)
