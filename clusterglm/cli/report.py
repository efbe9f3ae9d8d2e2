"""``clusterglm report RUN``: the page of a run folder, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clusterglm.cli import output


def register(app: typer.Typer) -> None:
    """Add ``report``."""

    @app.command()
    def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as fit writes it.")]) -> None:
        """Draw report.html of a run again, from its own files, and print where it is."""
        from clusterglm.report.page import write_report

        output.data(str(write_report(run)))
