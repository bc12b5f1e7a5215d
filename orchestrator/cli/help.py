"""Help of commands with many options: in panels, followed by examples, without importing rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand

OTHER = "Other"


class PanelCommand(TyperCommand):
    """A command whose help shows its parameters in panels. Subclasses say which parameter is in which panel."""

    panels: Mapping[str, Sequence[str]]  # names of parameters by the title of their panel, in order

    # `Any`: the classes of Click are Typer's own in some of its versions.
    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel; parameters of no panel come last."""
        records = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                name = record[0].partition(" <")[0] if param.param_type_name == "argument" else record[0]
                records[param.name] = (name, record[1])
        for title, names in self.panels.items():
            with formatter.section(title):
                formatter.write_dl([records.pop(name) for name in names if name in records])
        with formatter.section(OTHER):
            formatter.write_dl(list(records.values()))
