"""Finding files, and refusing what is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import write

from clusterglm.data.sources import FileSource, local_rows, open_source
from clusterglm.errors import DataError


def opened(url: Path | str) -> FileSource:
    source = open_source(str(url), "y", ["c"])
    source.open(None)
    return source


def names(source: FileSource) -> list[str]:
    return [file.name for file in source.files]


def test_a_folder_is_searched_to_its_depth_in_the_order_of_names(frame: pd.DataFrame, tmp_path: Path) -> None:
    for name in (
        "b.parquet",
        "a/2.parquet",
        "a/10.parquet",
        "c/x.PQ",
        "_metadata",
        ".hidden.parquet",
        ".git/x.parquet",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(frame[:3], tmp_path / name)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "README.txt").touch()
    assert names(opened(tmp_path)) == ["a/10.parquet", "a/2.parquet", "b.parquet", "c/x.PQ"]
    assert names(opened(tmp_path / "*.parquet")) == ["b.parquet"]
    assert names(opened(tmp_path / "**" / "*.parquet")) == ["a/10.parquet", "a/2.parquet", "b.parquet"]
    assert names(opened(tmp_path / "[ac]")) == ["a/10.parquet", "a/2.parquet", "c/x.PQ"]


def test_relative_paths_mean_the_users_folder(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(frame, tmp_path / "d.parquet")
    monkeypatch.chdir(tmp_path)
    source = open_source("d.parquet", "y")
    monkeypatch.chdir("/")
    source.open(None)
    assert source.rows == 700


def test_values_in_names_of_folders_are_not_read_and_that_is_said(frame: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "year=2020").mkdir()
    write(frame, tmp_path / "year=2020" / "d.parquet")
    assert opened(tmp_path).notes == ["note: --data (year=2020): values in folders' names are not read as columns"]


def test_links_are_followed_and_loops_are_not(frame: pd.DataFrame, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    write(frame, tmp_path / "elsewhere" / "d.parquet")
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    (data / "inner" / "loop").symlink_to(data)
    (data / "file.parquet").symlink_to(tmp_path / "elsewhere" / "d.parquet")
    assert names(opened(data)) == ["file.parquet", "linked/d.parquet"]


@pytest.mark.parametrize("name", ["with space", "qu'o\"te", "new\nline", "[1]*?", os.fsdecode(b"\xff\xfe"), "é漢"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_any_name_that_the_system_allows(frame: pd.DataFrame, tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / name / f"{name}{suffix}"
    path.parent.mkdir()
    shutil.copy(write(frame, tmp_path / f"plain{suffix}"), path)
    for url in (path, path.parent):
        source = opened(url)
        np.testing.assert_array_equal(local_rows(source).chunk.y, frame["y"])
        assert source.locate(0).isprintable()
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        local_rows(source)
    assert str(caught.value).isprintable()


def test_percent_signs_belong_to_urls_only(frame: pd.DataFrame, tmp_path: Path) -> None:
    write(frame, tmp_path / "a%20b.csv")
    write(frame[:9], tmp_path / "a b.csv")
    assert opened(tmp_path / "a%20b.csv").rows == 700
    assert opened(f"file://{tmp_path}/a%20b.csv").rows == 9


@pytest.mark.parametrize(
    ("make", "url", "message"),
    [
        ("", "a.parquet", r"^--data \(a.parquet\): no such file$"),
        ("touch f", "f/a.parquet", r"^--data \(f/a.parquet\): not a regular file: not a directory$"),
        ("ln -s nowhere a.csv", "a.csv", r"^--data \(a.csv\): no such file$"),
        ("mkdir d; ln -s nowhere d/a.csv", "d", r"^--data \(/.*d/a.csv\): no such file$"),
        ("ln -s b.csv a.csv; ln -s a.csv b.csv", "a.csv", r"^--data \(a.csv\): not a regular file: too many levels"),
        ("mkfifo pipe", "pipe", r"^--data \(pipe\): not a regular file$"),
        ("mkdir d; mkfifo d/pipe.csv", "d", r"^--data \(/.*d/pipe.csv\): not a regular file$"),
        ("mkfifo pipe.parquet", "*.parquet", r"^--data \(/.*pipe.parquet\): not a regular file$"),
        ("", "/dev/zero", r"^--data \(/dev/zero\): not a regular file$"),
        ("mkdir d", "d", r"^--data \(d\): no .parquet, .csv, .npy, .zarr or .h5 file in it$"),
        (
            "mkdir d; touch d/a.txt d/b.txt d/LICENSE",
            "d",
            r"no .parquet, .csv, .npy, .zarr or .h5 file in it \(3 others: .txt, LICENSE\)$",
        ),
        ("mkdir d", "d/*.parquet", r"^--data \(d/\*.parquet\): matches 0 files$"),
        ("", "nowhere/*", r"^--data \(nowhere/\*\): matches 0 files$"),
        ("mkdir d; touch d/a.csv d/b.parquet", "d", r"^--data \(d\): holds .parquet and .csv files: name one kind"),
        ("echo x,y > a.txt", "a.txt", r"^--data \(a.txt\): no .parquet, .csv, .npy, .zarr or .h5 file"),
        ("", "x" * 300, "no such file: file name too long"),
    ],
)
def test_what_is_no_file_of_data_is_refused_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str, url: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["sh", "-c", make], check=True, cwd=tmp_path)
    with pytest.raises(DataError, match=message):
        opened(url)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can enter, which tmp_path is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


FORBIDDEN = """
import os, sys
from clusterglm.data.sources import local_rows, open_source
from clusterglm.errors import ClusterError
warm, file, folder = sys.argv[1:]
source = open_source(warm, "y", ["c"])
source.open(None), local_rows(source)  # everything is imported before the rights are given up
if os.geteuid() == 0:
    os.seteuid(65534)
os.chmod(warm, 0) if os.geteuid() != 65534 else None
for url in (file, folder, warm):
    try:
        other = open_source(url, "y", ["c"])
        other.open(None)
        print("opened", url)
    except ClusterError as error:
        print(error.exit_code, error)
"""


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_may_not_be_read_is_named_with_the_user_and_the_host(
    frame: pd.DataFrame, open_folder: Path, suffix: str
) -> None:
    warm = write(frame, open_folder / f"warm{suffix}")
    file = write(frame, open_folder / f"part-002{suffix}")
    file.chmod(0)
    (open_folder / "closed").mkdir(mode=0)
    if os.geteuid() == 0:
        warm.chmod(0o600)
    command = [sys.executable, "-c", FORBIDDEN, str(warm), str(file), str(open_folder / "closed")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == 3
    for line, path in zip(lines, (file.name, str(open_folder / "closed"), warm.name), strict=True):
        assert line.startswith("4 ")
        assert path in line
        assert "permission denied" in line
        assert "make it readable by user" in line
