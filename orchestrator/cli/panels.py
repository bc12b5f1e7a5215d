"""Help in panels: the parameters of a command, or the commands of a group, under titles; without importing rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup

OTHER = "Other"  # title of the panel with what is in no other panel
LONGEST_SUMMARY = 200


# `Any`: the classes of Click are Typer's own in some of its versions.
class PanelCommand(TyperCommand):
    """A command whose help shows its parameters in `panels`: names of parameters by title."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel; parameters of no panel come last."""
        records = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                name = record[0].partition(" <")[0] if param.param_type_name == "argument" else record[0]
                records[param.name] = (name, record[1])
        _write_panels(formatter, self.panels, records)


class PanelGroup(TyperGroup):
    """A group whose help shows its commands in `panels`, each with the whole first sentence of its help."""

    panels: ClassVar[Mapping[str, Sequence[str]]] = {}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel; commands of no panel come last."""
        records = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                records[name] = (name, command.get_short_help_str(LONGEST_SUMMARY))
        _write_panels(formatter, self.panels, records)


def _write_panels(formatter: Any, panels: Mapping[str, Sequence[str]], records: dict[str, tuple[str, str]]) -> None:
    for title, names in panels.items():
        with formatter.section(title):
            formatter.write_dl([records.pop(name) for name in names if name in records])
    if records:
        with formatter.section(OTHER if panels else "Commands"):
            formatter.write_dl(list(records.values()))
