"""`python -m orchestrator` is `orch`."""

from orchestrator.cli import entry_point

entry_point()
