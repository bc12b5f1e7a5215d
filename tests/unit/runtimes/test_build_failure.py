"""The reason of a failed build is the line that broke it, not the builder's own lines around it."""

from __future__ import annotations

import pytest

from orchestrator.runtimes.build_failure import find_reason

BUILDKIT = """\
#14 [stage-1 8/8] RUN python -c "import predictor; predictor.Predictor()"
#14 0.412 Traceback (most recent call last):
#14 0.412   File "<string>", line 1, in <module>
#14 0.413 TypeError: Can't instantiate abstract class Predictor with abstract method predict
#14 ERROR: process "/bin/sh -c python -c ..." did not complete successfully: exit code: 1
------
 > [stage-1 8/8] RUN python -c "import predictor; predictor.Predictor()":
0.412 Traceback (most recent call last):
0.412   File "<string>", line 1, in <module>
0.413 TypeError: Can't instantiate abstract class Predictor with abstract method predict
------
Dockerfile:31
--------------------
  29 |     COPY --from=files /runner /opt/orch/runner
  31 | >>> RUN python -c "import predictor; predictor.Predictor()"
--------------------
ERROR: failed to solve: process "/bin/sh -c python -c ..." did not complete successfully: exit code: 1
"""
PIP = """\
#12 3.1 Collecting x==9 (from -r /opt/orch/requirements.lock (line 1))
#12 4.0 ERROR: Could not find a version that satisfies the requirement x==9 (from versions: 1, 2)
#12 4.0 ERROR: No matching distribution found for x==9
#12 4.1 [notice] A new release of pip is available: 23.2.1 -> 26.3
#12 ERROR: process "/bin/sh -c pip install" did not complete successfully: exit code: 1
"""
APT = """\
#9 8.4 E: Unable to locate package libfoo
#9 ERROR: process "/bin/sh -c apt-get install" did not complete successfully: exit code: 100
"""
UV = """\
installing
error: Failed to fetch: `https://example.org/x.whl`
  Caused by: Request failed after 3 retries
  Caused by: client error (Connect)
"""
SHELL = """\
#7 0.2 doing this
#7 0.3 /bin/sh: 1: gnumake: not found
#7 ERROR: process "/bin/sh -c gnumake" did not complete successfully: exit code: 127
"""
PODMAN = """\
STEP 5/6: RUN python -c "import y"
Traceback (most recent call last):
  File "<string>", line 1, in <module>
ModuleNotFoundError: No module named 'y'
Error: building at STEP "RUN python -c "import y"": while running runtime: exit status 1
"""


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (BUILDKIT, "TypeError: Can't instantiate abstract class Predictor with abstract method predict"),
        (PIP, "ERROR: No matching distribution found for x==9"),
        (APT, "E: Unable to locate package libfoo"),
        (
            UV,
            "error: Failed to fetch: `https://example.org/x.whl`\n"
            "Caused by: Request failed after 3 retries\nCaused by: client error (Connect)",
        ),
        (SHELL, "doing this\n/bin/sh: 1: gnumake: not found"),
        (PODMAN, "ModuleNotFoundError: No module named 'y'"),
        ("", ""),
    ],
)
def test_the_reason_is_what_broke_the_build(output: str, reason: str) -> None:
    assert find_reason(output.splitlines()) == reason
