"""Rows 48, 78 and 79 of the catalogue of wrong inputs, and secrets: where the output goes, and what it may hold."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Clusterglm = Callable[..., subprocess.CompletedProcess[str]]
MODEL = ("--target", "y", "--family", "binomial", "--features", "a,b")


def table(path: Path) -> None:
    random = np.random.default_rng(5)
    columns = {"a": random.random(400), "b": random.random(400), "y": np.arange(400) % 2}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # Arrow opens only paths that are UTF-8
        pq.write_table(pa.table(columns), file)


@pytest.mark.slow
def test_row_48_nobody_reads(shared_client: Any, tmp_path: Path) -> None:
    where = f"--scheduler {shared_client.scheduler.address} --out run"
    line = f"{sys.executable} -m clusterglm.cli fit proximal_gradient --rows 9000 --max-passes 4 {where}"
    shell = f"{line} 2>&1 | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("shell", "code", "says"),
    [
        ("--version > /dev/full", 4, "error: stdout (no space left on device): redirect it to where there is room\n"),
        ("ls --json > /dev/full", 4, "error: stdout (no space left on device): redirect it to where there is room\n"),
        ("ls --json >&-", 0, ""),
        ("status x 2>&-", 2, ""),
        ("status x 2> /dev/full", 2, ""),
    ],
)
def test_row_48_nobody_can_read(tmp_path: Path, shell: str, code: int, says: str) -> None:
    line = f"{sys.executable} -m clusterglm.cli {shell}"
    own = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=own)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", says)


def test_names_of_columns_write_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    from clusterglm.cli import output
    from clusterglm.cli.progress import Display

    name = "a\n\x1b[31mred"
    output.table(["name"], [[name]])
    Display().note(f"warning: column {name}: collinear")
    said = capsys.readouterr()
    assert said.out == "name\na\\n\\x1b[31mred\n"
    assert said.err == "warning: column a\\n\\x1b[31mred: collinear\n"


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", ""), ("TERM", "xterm")])
def test_row_78_who_gets_a_line_that_renews_itself(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    from clusterglm.cli.progress import Display

    leader, follower = pty.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert Display().live == (value == "xterm")
    os.close(leader)


@pytest.mark.slow
def test_row_78_plain_text_on_a_plain_terminal(shared_client: Any, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    line = ["fit", "newton", "--rows", "999", "--scheduler", shared_client.scheduler.address, "--out", "schäfer"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"}
    command = [sys.executable, "-m", "clusterglm.cli", *line]
    done = subprocess.Popen(command, cwd=tmp_path, stdout=follower, stderr=follower, env={**os.environ, **plain})
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # which tells that the other end is closed
        while piece := os.read(leader, 10_000):
            shown += piece
    os.close(leader)
    assert done.wait() == 0
    text = shown.replace(b"\r\n", b"\n").decode("ascii")
    assert "status      optimal" in text
    assert text.replace("\n", "").isprintable()


ODD = [b"a b", b"it's", b'say "x"', b"two\nlines", b"\xff\xfe", "schäfer 雪".encode(), b"-rf", b"$(touch x)", b"%s{0}"]


@pytest.mark.slow
def test_row_79_odd_paths(shared_client: Any, clusterglm: Clusterglm, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"it's\n \xff\xc3\xa4")
    table(folder / "t.parquet")
    where = ("--scheduler", shared_client.scheduler.address)
    line = ("--data", folder / "t.parquet", *MODEL, *where, f"--out={folder / 'run'}")
    done = clusterglm("fit", "newton", *line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "report.html").exists()
    again = clusterglm("fit", "newton", *line, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: --out (")
    assert "holds a run: " in again.stderr
    assert again.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_row_79_odd_paths_from_python(shared_client: Any, tmp_path: Path, name: bytes) -> None:
    import clusterglm

    folder = tmp_path / os.fsdecode(name)
    table(folder / "t.parquet")
    words = {"target": "y", "family": "binomial", "features": "a,b", "solver": "newton"}
    assert clusterglm.fit(shared_client, data=folder / "t.parquet", **words).status == "optimal"


CANARIES = ["AKIAIOSFODNN7EXAMPLE", "hunter2-canary", "correct-horse"]


@pytest.mark.slow
def test_secrets_in_the_arguments_are_not_repeated(
    shared_client: Any, clusterglm: Clusterglm, tmp_path: Path, listing: Any
) -> None:
    key, password, user = CANARIES
    table(tmp_path / f"password={password}" / f"{key}.parquet")
    path = f"password={password}/{key}.parquet"
    where = ("--scheduler", shared_client.scheduler.address)
    lines = [
        ["newton", "--data", path, *MODEL, *where, "--out", "run"],
        ["newton", "--data", f"s3://{user}:{user}@bucket/{key}", *MODEL, *where],
        ["newton", "--data", f"nowhere/{path}", *MODEL, *where],
        [f"token={password}", "--rows", "10"],
        ["newton", "--rows", "10", "--scheduler", f"tcp://{user}:{user}@127.0.0.1:9"],
        ["newton", "--rows", "10", "--no-such-option", f"secret={password}"],
    ]
    codes = []
    for line in lines:
        done = clusterglm("fit", *line, cwd=tmp_path)
        codes.append(done.returncode)
        assert not [canary for canary in CANARIES if canary in done.stdout + done.stderr], done.stderr
    assert codes == [0, 2, 5, 2, 2, 2]
    public = {name: content for name, content in listing(tmp_path / "run").items() if name != "checkpoint.npz"}
    assert not [name for name, content in public.items() for c in CANARIES if content and c.encode() in content]
