"""The README's examples, run as they stand: numbers may differ, words may not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"<!-- test: (?P<what>run|file (?P<file>\S+)) -->\n```(?P<language>\w+)\n(?P<text>.*?)```", re.S)
OUTPUT = re.compile(r"\n+```\n(?P<text>.*?)```", re.S)
NUMBER = re.compile(r"[-+]?\d[\d.,:e+-]*")


def words(text: str) -> list[list[str]]:
    """Return the words of every line, numbers as #, runs of blanks and blank lines away."""
    lines = [NUMBER.sub("#", line).split() for line in text.splitlines()]
    return [line for line in lines if line]


def assert_same_words(shown: str, got: str) -> None:
    """Compare line by line; a line ``...`` stands for any number of lines."""
    pattern = ["..." if line == ["..."] else re.escape(" ".join(line)) for line in words(shown)]
    expression = "".join(r"(?:.*\n)*" if line == "..." else f"{line}\n" for line in pattern)
    text = "".join(" ".join(line) + "\n" for line in words(got))
    assert re.fullmatch(expression, text), f"README:\n{shown}\nrun:\n{got}"


def commands(text: str) -> list[tuple[str, str]]:
    """Return (command, output shown) of a console block."""
    parts = re.split(r"^\$ ", text, flags=re.M)[1:]
    return [(part.split("\n", 1)[0], part.split("\n", 1)[1]) for part in parts]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the table that the README fits."""
    import numpy as np
    import pandas as pd

    folder = tmp_path_factory.mktemp("readme")
    random, n = np.random.default_rng(1), 5000
    table = pd.DataFrame({"age": random.integers(18, 80, n), "income": random.lognormal(10, 0.5, n).round(2)})
    exposure = random.uniform(0.1, 1, n)
    table["visits"] = random.poisson(exposure * np.exp(-1 + 0.02 * table["age"]))
    table["w"], table["logexp"] = random.integers(1, 4, n), np.log(exposure)
    table["city"] = random.choice(["Bern", "Oslo", "Rome"], n)
    table.to_parquet(folder / "visits.parquet")
    return folder


@pytest.mark.slow
def test_every_example_of_the_readme_runs(desk: Path) -> None:
    text = README.read_text()
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "XDG_STATE_HOME": str(desk / "state"),
        "DASK_CONFIG": str(desk / "config"),
    }

    def run(command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=desk, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        return done.stdout

    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= 6
    try:
        for block in blocks:
            if block["file"]:
                (desk / block["file"]).write_text(block["text"])
            elif block["language"] == "console":
                for command, shown in commands(block["text"]):
                    # Words go to stderr and data to stdout; together their order is only nearly that of a terminal.
                    got = run(["sh", "-c", f"{command} 2>err; cat err >all; rm err"])
                    noise = (desk / "all").read_text()
                    assert_same_words(shown, noise + got)
            else:
                script = desk / "example.py"
                script.write_text(block["text"])
                shown = OUTPUT.match(text, block.end())
                assert shown is not None
                assert_same_words(shown["text"], run([sys.executable, str(script)]))
    finally:
        run(["clusterglm", "down", "--all"])


def test_commands_of_the_readme_exist() -> None:
    """Every ``clusterglm COMMAND`` and every ``--option`` that the README names is one."""
    done = subprocess.run(
        [sys.executable, "-m", "clusterglm.cli", "--help"], capture_output=True, text=True, check=True
    )
    known = set(re.findall(r"^  ([a-z-]+) ", done.stdout, re.M))
    text = README.read_text()
    named = set(re.findall(r"`clusterglm ([a-z]+)", text)) | {
        shlex.split(command)[1] for block in BLOCK.finditer(text) for command, _ in commands(block["text"])
    }
    assert named - {"fit"} <= known | {"fit"}
