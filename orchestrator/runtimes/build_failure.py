"""Find in a build's output the line that says what broke it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import BuildError
from orchestrator.runtimes.shared_libraries import suggest_library

FALLBACK_LINES = 3
MOST_CAUSES = 4
_TIMES = re.compile(r"^(#\d+ )?\d+\.\d+ ?")
"""What BuildKit writes before each line of a step: its number, and seconds."""
_FRAME = re.compile(
    r"#\d+ |-{3,}| > \[|\S*Dockerfile\S*:\d+$|\s*\d+ \|| *(ERROR|Error): (process |failed to solve|building at STEP)"
    r"|\[?(notice|WARNING|warning)\b|$"
)
"""Lines that frame a failure: the builder's own, and what pip adds after it."""
_EXCEPTION = re.compile(r"([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Exit|Interrupt|Fault)(: |$)")
_ERROR = re.compile(r"(?i)(\S+: )?(fatal )?(error|fatal|e)\b *:")


def build_error(message: str, lines: Sequence[str], log: Path) -> BuildError:
    """Return the error of a build with this output, with the next step where that is known."""
    reason = find_reason(lines)
    return BuildError(message, why=reason, log=log, hint=suggest_library(reason))


def find_reason(lines: Sequence[str]) -> str:
    """Return what broke a build: the last exception, else the last error with its causes, else the last lines."""
    texts = [_TIMES.sub("", line).rstrip() for line in lines]
    texts = [text for text in texts if not _FRAME.match(text)]
    for text in reversed(texts):
        if _EXCEPTION.match(text):
            return text
    for number in range(len(texts) - 1, -1, -1):
        if _ERROR.match(texts[number]):
            causes = [text.strip() for text in texts[number + 1 :] if text.startswith(" ")]
            return "\n".join([texts[number], *causes[:MOST_CAUSES]])
    return "\n".join(texts[-FALLBACK_LINES:])
