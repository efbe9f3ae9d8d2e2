"""Generated rows as files: the rows that ``--rows`` makes, whole or not at all."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clusterglm.data import generate
from clusterglm.data.generate import Parts, format_of, write
from clusterglm.data.sources import local_rows, open_source
from clusterglm.data.synthetic import Synthetic
from clusterglm.data.target import Target
from clusterglm.errors import ClusterError, UsageError

SOURCE = Synthetic(20_000, 4, seed=7, family="gaussian")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_PART_BYTES", 1)
    monkeypatch.setattr(generate, "_STORED_BYTES", 1)


@contextlib.contextmanager
def interrupted(target: Target) -> Iterator[None]:
    """Press Ctrl-C at the end of the block."""
    with contextlib.suppress(KeyboardInterrupt), target.staged():
        yield
        raise KeyboardInterrupt


def made(target: Target, parts: Parts) -> None:
    """Write all parts in this process."""
    if parts.format == "zarr":
        generate._make_store(parts, target)
    for bounds in parts.ranges():
        assert generate._write_part(parts, target, bounds) == bounds[1] - bounds[0]


@pytest.mark.parametrize("format", generate.FORMATS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("where", ["path", "url"])
def test_what_is_read_again_is_what_is_made(tmp_path: Path, s3: Any, format: str, dtype: str, where: str) -> None:
    place = str(tmp_path / "deep" / "g") if where == "path" else f"s3://data/{format}-{dtype}/g"
    parts, target = Parts.of(SOURCE, format, dtype), Target.of(place)
    assert [last - first for first, last in parts.ranges()] == [8192, 8192, 3616]
    target.check(parts.bytes, overwrite=False)
    with target.staged():
        made(target, parts)
        with pytest.raises(Exception, match=r"no such|no .parquet, .* file in it|not readable as zarr"):
            open_source(place, "y").open(None)
        target.publish(overwrite=False)
    source = open_source(place, "y")
    source.open(None)
    assert source.names == SOURCE.names
    assert [file.name for file in source.files] == (
        ["g"] if format == "zarr" else [f"part-{i:05}.{format}" for i in range(3)]
    )
    read, expected = local_rows(source, dtype=dtype).chunk, SOURCE.chunk((0, 20_000), 8192, dtype)
    assert read.X.dtype == expected.X.dtype
    assert read.X.tobytes() == expected.X.tobytes()
    assert read.y.tobytes() == expected.y.tobytes()
    assert [note for note in source.notes if "not stored" in note] == []
    if where == "path":
        assert [item.name for item in (tmp_path / "deep").iterdir()] == ["g"]
        assert not [item for item in (tmp_path / "deep" / "g").rglob("*") if item.name.startswith((".", "_"))]
    else:
        assert not [name for name in s3.find(f"data/{format}-{dtype}") if "_unfinished" in name]


def test_parquet_is_checked_and_cut_into_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_PART_BYTES", 16_384 * 40)
    parts, target = Parts.of(SOURCE, "parquet", "float64"), Target.of(str(tmp_path / "g"))
    with target.staged():
        made(target, parts)
        target.publish(overwrite=False)
    footer = pq.ParquetFile(tmp_path / "g" / "part-00000.parquet").metadata
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [8192, 8192]
    assert footer.row_group(0).column(0).compression == "ZSTD"


def test_sizes_do_not_depend_on_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for columns, rows in ((15, 2**19), (1, 2**22), (4000, 8192)):
        parts = Parts.of(Synthetic(8 * 10**8, columns), "parquet", "float64")
        assert (parts.rows, parts.rows % parts.stored) == (rows, 0)
    assert parts.name(8192 * 7) == "part-00007.parquet"
    names = [Parts.of(Synthetic(10**12, 1), "npy", "float32").name(i * 2**22) for i in (0, 9, 10, 99, 100_000)]
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("to", "format", "found"),
    [
        ("d", None, "parquet"),
        ("d.zarr", None, "zarr"),
        ("s3://b/d.NPY/", None, "npy"),
        ("a.b/d", "npy", "npy"),
        ("d.2024", "zarr", "zarr"),
        ("d.pq", None, "parquet"),
        ("d.csv", None, r"--to \(d.csv\): csv is not written: one of parquet, zarr, npy$"),
        ("d.h5", None, r"--to \(d.h5\): hdf5 is not written: one of"),
        ("d", "parket", r"--format \(parket\): not known: did you mean parquet\? One of parquet, zarr, npy$"),
        ("d.zarr", "npy", r"--format \(npy\): the name of the target says zarr: leave one of them out$"),
    ],
)
def test_the_format_comes_from_the_option_or_the_name(to: str, format: str | None, found: str) -> None:
    if found in generate.FORMATS:
        assert format_of(to, format) == found
    else:
        with pytest.raises(UsageError, match=found):
            format_of(to, format)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("https://host/d", r"^--to \(https://host/d\): cannot be written: name a folder, or a URL such as"),
        ("memory://d", r"^--to \(memory://d\): cannot be written"),
        ("d.zarr::/g", r"^--to \(d.zarr::/g\): names a group in a file: name a folder$"),
        ("s3://b/d[1]", r"^--to \(s3://b/d\[1\]\): holds a letter of patterns"),
        ("", r"^--to \(\): not a path"),
        ("s9://b/d", r"^--to \(s9://b/d\): s9:// is not known"),
    ],
)
def test_targets_that_are_none(to: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Target.of(to)


def test_what_is_there_stays(tmp_path: Path) -> None:
    target = Target.of(str(tmp_path / "g"))
    (tmp_path / "g").mkdir()
    target.check(1, overwrite=False)  # empty
    (tmp_path / "g" / "part-00000.parquet").touch()
    with pytest.raises(UsageError, match=r"^--to \(.*g\): is there and not empty: another name, or --overwrite$"):
        target.check(1, overwrite=False)
    target.check(1, overwrite=True)
    (tmp_path / "g" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"^--to \(.*g\): holds thesis.tex, which is no file of data: another name$"):
        target.check(1, overwrite=True)
    with pytest.raises(UsageError, match=r"^--to \(.*tex\): is a file: name a folder$"):
        Target.of(str(tmp_path / "g" / "thesis.tex")).check(1, overwrite=True)
    inside = Target.of(str(tmp_path / "g" / "thesis.tex" / "g"))
    with pytest.raises(UsageError, match=r"^--to \(.*\): not writable \(file exists\)$"), inside.staged():
        pass
    with pytest.raises(UsageError, match=r"^--to \(/\): "):
        Target.of("/").check(1, overwrite=True)
    with pytest.raises(UsageError, match=r"^--to \(/proc\): "):
        Target.of("/proc").check(1, overwrite=True)
    with pytest.raises(ClusterError, match=r"^--to \(.*h\): 1000000.0 TB needed, .* free: fewer rows, or another "):
        Target.of(str(tmp_path / "h")).check(10**18, overwrite=False)


@pytest.mark.parametrize("where", ["path", "url"])
def test_old_files_are_replaced_as_a_whole_or_not_at_all(tmp_path: Path, s3: Any, where: str) -> None:
    place = str(tmp_path / "g") if where == "path" else "s3://data/replaced"

    def names() -> list[str]:
        if where == "path":
            return sorted(str(item.relative_to(tmp_path / "g")) for item in (tmp_path / "g").rglob("*"))
        return sorted(name.removeprefix("data/replaced/") for name in s3.find("data/replaced"))

    for rows, overwrite in ((20_000, False), (9000, True)):
        target = Target.of(place)
        target.check(1, overwrite)
        with target.staged():
            made(target, Parts.of(Synthetic(rows, 2), "npy", "float64"))
            target.publish(overwrite)
    assert names() == ["part-00000.npy", "part-00001.npy"]
    target = Target.of(place)
    with interrupted(target):
        made(target, Parts.of(Synthetic(9, 2), "npy", "float64"))
    assert names() == ["part-00000.npy", "part-00001.npy"]
    target = Target.of(place)
    with pytest.raises(UsageError, match="is there and not empty"):
        target.check(1, overwrite=False)
    if where == "path":
        assert [item.name for item in tmp_path.iterdir()] == ["g"]
        with pytest.raises(ClusterError, match="directory not empty"), target.staged():  # somebody else was faster
            target.publish(overwrite=False)
        assert [item.name for item in tmp_path.iterdir()] == ["g"]


@pytest.mark.parametrize("format", generate.FORMATS)
@pytest.mark.parametrize("where", ["path", "url"])
def test_a_task_that_ends_after_everything_was_removed_removes_its_part(
    tmp_path: Path, s3: Any, where: str, format: str
) -> None:
    target = Target.of(str(tmp_path / "a" / "g") if where == "path" else "s3://data/late")
    parts = Parts.of(SOURCE, format, "float64")
    written = threading.Event()
    removed = threading.Event()
    leave = Target.leave_if_over

    class Slow(Target):
        def leave_if_over(self) -> None:
            written.set()
            assert removed.wait(30)
            leave(self)

    slow = Slow(target.url, target.path, target.staging)
    caught: list[BaseException] = []

    def task() -> None:
        try:
            generate._write_part(parts, slow, parts.ranges()[0])
        except ClusterError as error:
            caught.append(error)

    thread = threading.Thread(target=task)
    with interrupted(target):
        if format == "zarr":
            generate._make_store(parts, target)
        thread.start()
        assert written.wait(30)
    if where == "path":  # as a store does that finds its folder missing
        Path(target.staging).mkdir(parents=True)
    removed.set()
    thread.join()
    assert "was given up while it was written" in str(caught[0])
    left = [item for item in tmp_path.rglob("*") if not item.is_dir()] if where == "path" else s3.find("data/late")
    assert not left
    assert not Path(str(target.staging)).exists()


def test_a_store_that_is_given_up_between_two_arrays_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr

    target, parts = Target.of(str(tmp_path / "g")), Parts.of(SOURCE, "zarr", "float64")
    put = zarr.Array.__setitem__

    def given_up(array: Any, rows: Any, values: Any) -> None:
        target.remove()
        put(array, rows, values)  # which makes the folders again

    with interrupted(target):
        generate._make_store(parts, target)
        monkeypatch.setattr(zarr.Array, "__setitem__", given_up)
        with pytest.raises(ClusterError, match="was given up while it was written"):
            generate._write_part(parts, target, parts.ranges()[0])
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    import socket

    left = tmp_path / f".g_unfinished-{socket.gethostname()}-999999999"
    (left / "deep").mkdir(parents=True)
    alive = tmp_path / f".g_unfinished-{socket.gethostname()}-1"
    alive.mkdir()
    with Target.of(str(tmp_path / "g")).staged():
        assert not left.exists()
        assert alive.exists()


def test_writing_fails_in_one_line(tmp_path: Path, s3: Any) -> None:
    target = Target.of(str(tmp_path / "g"))
    with pytest.raises(ClusterError, match=r"^--to \(.*g\) \(no such file or directory\): not there on .*: every "):
        target.write("part-00000.npy", b"")
    target, message = Target.of("s3://no-such-bucket/g"), r"^--to \(s3://no-such-bucket/g\): no such bucket: make it "
    with pytest.raises(ClusterError, match=message), target.staged():
        pass


def test_parts_are_written_by_the_workers(client: Any, tmp_path: Path) -> None:
    target, parts = Target.of(str(tmp_path / "g")), Parts.of(Synthetic(90_000, 2), "npy", "float64")
    told: list[int] = []
    with target.staged():
        write(client, parts, target, told.append)
        target.publish(overwrite=False)
    assert told == sorted(told)
    assert told[-1] == 90_000
    source = open_source(str(tmp_path / "g"), "y")
    source.open(None)
    np.testing.assert_array_equal(local_rows(source).chunk.X, parts.source.chunk((0, 90_000), 8192).X)
