"""Put small faults into a copy of the code, one at a time, and see whether the tests of its package fail.

`python -m tests.mutants --seed 1 --each 10` draws ten faults in each package and adds the fixed ones of known.py;
results.md is updated. Faults depend on the seed and on the code as it is. `--list` only shows them.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.known import EQUIVALENT, FAULTS
from tests.mutants.sites import find_sites

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.md")
RUNNER = "orch_runner"
KNOWN = "known"
PACKAGES = (
    "evaluation", "reports", "system", "catalog", "hardware", "plan", "cli", "workflows",
    "predictions", "inputs", "runtimes", "dispatch", RUNNER,
)  # fmt: skip
LEAST_TIMEOUT = 120.0  # seconds
TIMEOUT_FACTOR = 6  # of the time that the tests take without a fault


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file` (relative to the repository), `old` at `start` becomes `new`; `line` is the line as it was."""

    package: str
    kind: str
    file: str
    start: int
    old: str
    new: str
    line: str
    tests: tuple[str, ...]

    def describe(self) -> str:
        """Return the text by which it is known in the results."""
        shown = _join(self.line) if self.line == self.old else f"{self.line}` : `{_join(self.old)}"
        return f"{self.kind}, `{self.file}`: `{shown}` → `{_join(self.new)}`"


def _join(text: str) -> str:
    return " ".join(text.split())


def _source_folder(package: str) -> Path:
    return Path("images", "runner", RUNNER) if package == RUNNER else Path("orchestrator", package)


def _test_folders(package: str) -> tuple[str, ...]:
    return ("tests/unit/guest", "tests/contract") if package == RUNNER else (f"tests/unit/{package}",)


def draw(package: str, seed: int, each: int, root: Path = ROOT) -> list[Mutant]:
    """Return the faults of a package that a seed selects: kinds with equal chances, then places of that kind."""
    by_kind: dict[str, list[Mutant]] = {}
    for path in sorted((root / _source_folder(package)).rglob("*.py")):
        source, file = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
        for site in find_sites(source):
            line = source[source.rfind("\n", 0, site.start) + 1 :].partition("\n")[0].strip()
            old = source[site.start : site.end]
            mutant = Mutant(
                package, site.kind, file, site.start, old, site.new, line, _order_tests(package, path.stem, root)
            )
            by_kind.setdefault(site.kind, []).append(mutant)
    generator = random.Random(f"{seed}:{package}")
    drawn: list[Mutant] = []
    while len(drawn) < each and by_kind:
        kind = generator.choice(sorted(by_kind))
        drawn.append(by_kind[kind].pop(generator.randrange(len(by_kind[kind]))))
        by_kind = {kind: places for kind, places in by_kind.items() if places}
    return drawn


def _order_tests(package: str, module: str, root: Path) -> tuple[str, ...]:
    """Return what to test: files named after the module first, as they probably fail first."""
    folders = _test_folders(package)
    named = [path for folder in folders for path in (root / folder).rglob(f"test_{module}*.py")]
    return (*sorted(path.relative_to(root).as_posix() for path in named), *folders)


def known(root: Path = ROOT) -> list[Mutant]:
    """Return the fixed faults. ValueError where the code no longer has the text of one."""
    mutants = []
    for name, file, old, new, tests in FAULTS:
        source = (root / file).read_text(encoding="utf-8")
        if source.count(old) != 1:
            raise ValueError(f"{name}: {file} has {old!r} {source.count(old)} times, must have it once")
        mutants.append(Mutant(KNOWN, name, file, source.index(old), old, new, old, tuple(tests.split())))
    return mutants


class Copy:
    """A copy of the working tree in which one fault at a time is tested."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)

    def test(self, tests: tuple[str, ...], timeout: float) -> tuple[str, float]:
        """Return "passed", "failed" or "timed out", and the seconds taken."""
        # Without bytecode of mutated files: it is told from the original's only by size and whole seconds.
        environment = {
            **os.environ, "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{self.root}{os.pathsep}{self.root / 'images' / 'runner'}",
        }  # fmt: skip
        # A temporary folder of its own: other sessions that clean up the common one can make pytest fail.
        temporary = f"--basetemp={self.root.with_name(f'{self.root.name}-tmp')}"
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", temporary, *tests]
        started = time.monotonic()
        with (self.root / "output.txt").open("wb") as output, subprocess.Popen(
            command, cwd=self.root, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                outcome = "passed" if process.wait(timeout) == 0 else "failed"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                outcome = "timed out"
        return outcome, time.monotonic() - started

    def try_mutant(self, mutant: Mutant, timeout: float) -> str:
        """Return "killed" or "survived"."""
        path = self.root / mutant.file
        source, state = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(
            source[: mutant.start] + mutant.new + source[mutant.start + len(mutant.old) :], encoding="utf-8"
        )
        try:
            return "survived" if self.test(mutant.tests, timeout)[0] == "passed" else "killed"
        finally:
            path.write_text(source, encoding="utf-8")
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def judge(mutants: list[Mutant], killed: set[str], copies: queue.SimpleQueue[Copy], jobs: int) -> list[str]:
    """Return a result for each of a package's mutants; `killed` are known to be.

    Raises RuntimeError when the tests fail without any fault.
    """
    if all(mutant.describe() in killed for mutant in mutants):
        return ["killed"] * len(mutants)
    tests = tuple(sorted({path for mutant in mutants for path in mutant.tests}))
    copied = copies.get()
    outcome, seconds = copied.test(tests, 3600)
    copies.put(copied)
    if outcome != "passed":
        raise RuntimeError(f"{' '.join(tests)} {outcome} without a fault:\n{(copied.root / 'output.txt').read_text()}")
    timeout = max(LEAST_TIMEOUT, TIMEOUT_FACTOR * seconds)

    def try_one(mutant: Mutant) -> str:
        if mutant.describe() in killed:
            return "killed"
        copied = copies.get()
        try:
            result = copied.try_mutant(mutant, timeout)
        finally:
            copies.put(copied)
        if result == "survived" and mutant.describe() in EQUIVALENT:
            result = "equivalent"
        print(f"{result:10} {mutant.describe()}", flush=True)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(try_one, mutants))


def record(package: str, title: str, mutants: list[Mutant], results: list[str]) -> None:
    """Replace a package's section of results.md, and the sum at its top."""
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", _read_results(), re.MULTILINE | re.DOTALL))
    lines = [f"- {result}: {mutant.describe()}" for mutant, result in zip(mutants, results, strict=True)]
    for index, mutant in enumerate(mutants):
        if results[index] == "equivalent":
            lines[index] += f" ({EQUIVALENT[mutant.describe()]})"
    sections[package] = "\n".join([f"{title}.", "", *lines, "", ""])
    counts = {
        result: sum(len(re.findall(rf"^- {result}: ", section, re.MULTILINE)) for section in sections.values())
        for result in ("killed", "survived", "equivalent")
    }
    head = (
        "# Small faults and whether the tests catch them\n\n"
        "Written by `python -m tests.mutants`. Each entry: kind, file, line as it was, the changed part if shorter, "
        "its new text.\n\n"
        f"{sum(counts.values())} faults: {counts['killed']} killed, {counts['survived']} survived, "
        f"{counts['equivalent']} equivalent (no observable difference).\n\n"
    )
    body = "\n\n".join(f"## {name}\n{sections[name].strip()}" for name in (KNOWN, *PACKAGES) if name in sections)
    RESULTS.write_text(f"{head}{body}\n", encoding="utf-8")


def _read_results() -> str:
    return RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""


def main() -> int:
    """Return 1 if a fixed fault survives, more than one in ten of the drawn ones, or tests fail without a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--package", action="append", choices=(KNOWN, *PACKAGES), help="default: all")
    parser.add_argument("--each", type=int, default=10, help="faults drawn in each package")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=2)
    parser.add_argument("--list", action="store_true", help="only show the faults")
    parser.add_argument("--again", action="store_true", help="skip those that results.md records as killed")
    options = parser.parse_args()
    killed = set(re.findall(r"^- killed: (.*)$", _read_results(), re.MULTILINE)) if options.again else set()
    survived, total, is_known_caught, is_complete = 0, 0, True, True
    with tempfile.TemporaryDirectory(prefix="orch-mutants-") as folder:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(0 if options.list else options.jobs):
            copies.put(Copy(Path(folder, str(number))))
        if not options.list:
            os.nice(15)
        # The copy is what is tested, even if the working tree changes meanwhile.
        root = ROOT if options.list else Path(folder, "0")
        for package in options.package or (KNOWN, *PACKAGES):
            mutants = known(root) if package == KNOWN else draw(package, options.seed, options.each, root)
            if options.list:
                print("\n".join(f"{package}: {mutant.describe()}" for mutant in mutants))
                continue
            try:
                results = judge(mutants, killed, copies, options.jobs)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                is_complete = False
                continue
            title = "The fixed list of known.py" if package == KNOWN else f"Seed {options.seed}, {len(mutants)} drawn"
            record(package, title, mutants, results)
            if package == KNOWN:
                is_known_caught = "survived" not in results
            else:
                survived += results.count("survived")
                total += len(results) - results.count("equivalent")
    return int(not (is_complete and is_known_caught) or survived * 10 > total)


if __name__ == "__main__":
    sys.exit(main())
