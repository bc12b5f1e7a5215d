"""Package doors: names that a package offers, imported when first used (PEP 562), so that `orch --help` stays quick."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for `package`; `modules` maps its modules to the names they offer, separated by blanks."""
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def get_export(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get_export
