"""The version of orch, which pyproject.toml repeats."""

__version__ = "0.1.0"
