"""Name the Debian package of a shared library that an import misses, and the package that does without it."""

from __future__ import annotations

import re

_MISSING = re.compile(r"(?P<library>lib[\w.+-]+\.so[\w.]*): cannot open shared object file")
_OPENCV = "opencv-python-headless in place of opencv-python needs none of these"
_X11 = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libxcb.so.1": "libxcb1",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
}
"""Libraries of a screen, which packages with a graphical interface are linked with."""
_OTHERS = {
    "libgomp.so.1": "libgomp1",
    "libgfortran.so.5": "libgfortran5",
    "libstdc++.so.6": "libstdc++6",
    "libopenblas.so.0": "libopenblas0",
    "libjpeg.so.62": "libjpeg62-turbo",
    "libturbojpeg.so.0": "libturbojpeg0",
    "libtiff.so.6": "libtiff6",
    "libgeos_c.so.1": "libgeos-c1v5",
}


def suggest_library(text: str) -> str | None:
    """Return the next step for an error about a missing shared library; None for any other text."""
    found = _MISSING.search(text)
    if found is None:
        return None
    library = found["library"]
    if library == "libcuda.so.1":  # the driver's own, which no package of an image may bring
        return "this is the driver's library: choose a variant for the CPU, or run on a machine with a GPU"
    package = {**_X11, **_OTHERS}.get(library)
    if package is None:
        search = f"apt-file search {library}"
        return f"find the Debian package of {library} ({search}) and install it in the stack's Dockerfile"
    line = f"apt-get install -y --no-install-recommends {package}"
    where = f"RUN apt-get update && {line} in the stack's Dockerfile; with --runtime venv, {line} on this machine"
    return f"{where}; {_OPENCV}" if library in _X11 else where
