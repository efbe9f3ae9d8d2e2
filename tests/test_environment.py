"""environment.yml mirrors pyproject.toml, and the CI runs the README's own test command."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def normal(requirement: str) -> str:
    return re.sub(r"\s+", "", requirement).lower()


def test_environment_yml_holds_the_dependencies_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = f"python{project['requires-python']}"
    assert sorted(map(normal, conda)) == sorted(map(normal, [*project["dependencies"], python, "pip"]))


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = next(
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("python3 -m venv")
    )
    assert command in (ROOT / "README.md").read_text()
    assert "bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
