"""``clusterglm report RUN`` as its user meets it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import typer
from made_up import make_run
from typer.testing import CliRunner

from clusterglm.cli import report
from clusterglm.errors import UsageError


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)  # a command with a name, as in the whole command line
    report.register(app)
    return app


def test_it_draws_the_page_and_prints_its_path(app: typer.Typer, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert (result.exit_code, result.stdout) == (0, f"{folder / 'report.html'}\n")
    assert (folder / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    begun = time.monotonic()
    result = CliRunner().invoke(app, ["report", str(tmp_path / "nothing")])
    assert isinstance(result.exception, UsageError)
    assert "no such folder" in str(result.exception)
    assert time.monotonic() - begun < 0.3
