"""`orch import`: predictions of other programs as a predictions file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import JsonOption, check_file, print_json, say

app = typer.Typer(help="Import predictions that were not made by orch.", no_args_is_help=True)


@app.command("coco-results")
def import_coco_results(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="COCO results JSON, of boxes or masks.")],
    annotations: Annotated[
        Path, typer.Option("--annotations", "-a", metavar="COCO.json", help="The annotations that name its images.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", callback=check_file, help="Default: FILE-predictions.npz, beside the file."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Name in tables and reports. Default: FILE's.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a predictions file of COCO results: for orch eval, compare, report and export."""
    from orchestrator.predictions import import_coco_results
    from orchestrator.system import count_of, require_file

    target = output or file.with_name(f"{file.stem}-predictions.npz")
    require_file(target, "--output")
    imported = import_coco_results(file, annotations, target, model or file.stem)
    if json:
        counts = {"images": imported.images, "instances": imported.instances, "masks": imported.has_masks}
        print_json({"output": str(target), **counts, "notes": imported.notes})
        return
    kind = "masks" if imported.has_masks else "boxes"
    say(f"wrote {target}: {count_of(imported.images, 'image')}, {count_of(imported.instances, 'instance')} with {kind}")
    for note in imported.notes:
        say(f"note: {note}")
