"""Objects behind URLs: found, read and watched as files are, from a server that speaks S3, from memory and by HTTP."""

from __future__ import annotations

import functools
import http.server
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tables import write

from clusterglm.data import remote
from clusterglm.data.files import location
from clusterglm.data.sources import FileSource, local_rows, open_source
from clusterglm.errors import ClusterError, DataError, UsageError

FEATURES = ["a", "b", "yes", "c"]


def opened(url: Path | str, **words: Any) -> FileSource:
    source = open_source(str(url), **({"target": "y"} | words))
    source.open(None)
    return source


def same_rows(one: FileSource, other: FileSource) -> None:
    here, there = local_rows(one).chunk, local_rows(other).chunk
    assert (one.names, one.rows) == (other.names, other.rows)
    np.testing.assert_array_equal(here.X, there.X)
    np.testing.assert_array_equal(here.y, there.y)


@pytest.fixture
def folder(frame: pd.DataFrame, tmp_path: Path, s3: Any) -> Iterator[tuple[Path, str]]:
    """The frame as several parquet and csv files, and the prefix of their copy."""
    for suffix, words in ((".parquet", {"row_group_size": 70}), (".csv", {})):
        for i, (first, last) in enumerate([(0, 300), (300, 301), (301, 700)]):
            path = tmp_path / "d" / suffix[1:] / "year=1" / f"part-{i}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(frame[first:last], path, **words)
    s3.pipe_file("data/d/parquet/_SUCCESS", b"")
    s3.put(str(tmp_path / "d"), "data/", recursive=True)
    yield tmp_path / "d", "s3://data/d"
    s3.rm("data/d", recursive=True)


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_a_prefix_an_object_and_a_pattern_are_what_their_local_copies_are(
    folder: tuple[Path, str], format: str
) -> None:
    here, there = folder
    for place in (
        format,
        f"{format}/",
        f"{format}/year=1/part-0.{format}",
        f"{format}/*/part-[02].{format}",
        f"**/*.{format}",
    ):
        local, source = opened(here / place, weights="w"), opened(f"{there}/{place}", weights="w")
        same_rows(source, local)
        assert [file.name for file in source.files] == [file.name for file in local.files]
        assert [file.size for file in source.files] == [file.size for file in local.files]
        assert source.notes == local.notes
        assert source.locate(0) == local.locate(0)
        assert source.fingerprint() == opened(f"{there}/{place}", weights="w").fingerprint()


def test_parts_travel_and_read_their_own_rows(folder: tuple[Path, str], frame: pd.DataFrame) -> None:
    source = opened(f"{folder[1]}/parquet")
    for bounds in ((0, 64), (288, 320), (640, 700)):
        chunk = pickle.loads(pickle.dumps(source.part(bounds))).chunk(bounds, 16)
        np.testing.assert_array_equal(chunk.y, frame["y"][bounds[0] : bounds[1]])


def test_the_columns_of_a_row_group_come_at_once(folder: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = remote.read

    def counting(url: str, ranges: Any) -> list[bytes]:
        asked.append(len(ranges))
        return read(url, ranges)

    source = opened(f"{folder[1]}/parquet/year=1/part-0.parquet", features=["a", "c"])
    monkeypatch.setattr(remote, "read", counting)
    source.chunk((0, 300), 4)
    assert asked == [1, *[3] * 5]  # the footer, and the columns a, c and y of five row groups
    monkeypatch.setattr(remote, "_MOST_HELD", 0)
    np.testing.assert_array_equal(source.chunk((0, 300), 4).y, source.chunk((0, 300), 4).y)


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_an_object_that_changes_or_goes_is_noticed(folder: tuple[Path, str], s3: Any, format: str) -> None:
    source = opened(f"{folder[1]}/{format}")
    name = f"data/d/{format}/year=1/part-1.{format}"
    content = s3.cat_file(name)
    s3.pipe_file(name, content[:-1] + b"?")
    assert s3.info(name)["size"] == len(content)
    with pytest.raises(DataError, match=rf"^year=1/part-1.{format} \(changed\): the fit mixes two versions"):
        local_rows(source)
    s3.rm(name)
    with pytest.raises(DataError, match=rf"^year=1/part-1.{format} \(gone\): it was there when the fit began"):
        local_rows(source)
    assert opened(f"{folder[1]}/{format}").fingerprint() != source.fingerprint()


def test_broken_objects_are_refused_as_broken_files_are(folder: tuple[Path, str], s3: Any) -> None:
    content = s3.cat_file("data/d/parquet/year=1/part-0.parquet")
    s3.pipe_file("data/d/cut.parquet", content[:-20])
    with pytest.raises(DataError, match=r"^cut.parquet \(footer\): not readable as parquet: copy it again$"):
        opened("s3://data/d/cut.parquet")
    group = pq.ParquetFile(folder[0] / "parquet/year=1/part-0.parquet").metadata.row_group(1)
    start = group.column(0).data_page_offset
    s3.pipe_file("data/d/cut.parquet", content[: start + 60] + bytes(40) + content[start + 100 :])
    with pytest.raises(DataError, match=r"^cut.parquet \(row groups 0 to 4\): not readable as parquet"):
        local_rows(opened("s3://data/d/cut.parquet"))


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("s3://data/nothing.parquet", DataError, r"^--data \(s3://data/nothing.parquet\): no such key$"),
        ("s3://no-such-bucket/a.csv", DataError, r"^--data \(s3://no-such-bucket/a.csv\): no such bucket$"),
        ("s3://data/d/*.pq", DataError, r"^--data \(s3://data/d/\*.pq\): matches 0 files$"),
        ("s3://data/text/", DataError, r"^--data \(s3://data/text/\): no .parquet, .* file in it \(2 others: .txt\)$"),
        (
            "s3://data/text/a.txt",
            DataError,
            r"^--data \(s3://data/text/a.txt\): no .parquet, .csv, .npy, .zarr or .h5 ",
        ),
        ("s3://data/text/a.csv::/g", DataError, r"^--data \(.*\): "),
    ],
)
def test_what_is_no_object_of_data_is_refused(s3: Any, url: str, error: type[Exception], message: str) -> None:
    s3.pipe({"data/text/a.txt": b"x,y\n1,2\n", "data/text/b.txt": b""})
    with pytest.raises(error, match=message):
        opened(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket/key.csv", r"^--data \(gs://bucket/key.csv\): gs:// needs the package gcsfs: pip install gcsfs$"),
        (
            "s9://bucket/key",
            r"^--data \(s9://bucket/key\): s9:// is not known: a path, or a URL such as s3://BUCKET/KEY$",
        ),
        ("s3://", r"^--data \(s3://\): names nothing"),
        (
            "s3://key:secret@bucket/a.csv",
            r"^--data \(s3://\[redacted\]@bucket/a.csv\): holds somebody's password; leave it out",
        ),
        ("https://user:word@host/a.csv", r"^--data \(https://\[redacted\]@host/a.csv\): holds somebody's password"),
    ],
)
def test_urls_that_cannot_be_read_here(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        location(url)


def forbid(s3: Any, answers: str) -> None:
    """Let the server answer so many more requests before it asks for permissions, which nobody has."""
    from urllib.request import Request, urlopen

    text = {"Content-Type": "text/plain"}
    urlopen(Request(f"{s3.endpoint}/moto-api/reset-auth", data=answers.encode(), headers=text)).close()


def test_what_credentials_may_not_read(folder: tuple[Path, str], s3: Any) -> None:
    source = opened(f"{folder[1]}/csv")
    forbid(s3, "0")
    try:
        with pytest.raises(ClusterError, match=r"^s3://data/d/csv \(403\): these credentials may not read it$") as one:
            opened(f"{folder[1]}/csv")
        with pytest.raises(ClusterError, match=r"^s3://data/d/csv/year=1/part-0.csv \(403\): these ") as other:
            local_rows(source)
    finally:
        forbid(s3, "inf")
    for caught in (one, other):
        assert "AKIA" not in str(caught.value)
        assert "not-a-secret" not in str(caught.value)


def test_no_credentials(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(
        ClusterError, match=r"^s3://data/a.csv \(no credentials\): set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
    ):
        opened("s3://data/a.csv")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ClusterError, match=r"^s3://data/a.csv \(no credentials\): set AWS_PROFILE"):
        opened("s3://data/a.csv")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_an_endpoint_that_is_none_or_never_answers_is_given_up(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_READ_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for server, reason in ((closed, "EndpointConnectionError"), (silent, "ReadTimeoutError")):
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            since = time.monotonic()
            with pytest.raises(
                ClusterError, match=rf"^s3://data/a.csv \({reason}: .*\): no good answer: check the network"
            ):
                opened("s3://data/a.csv")
            assert time.monotonic() - since < 20
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_memory_within_one_process(frame: pd.DataFrame, tmp_path: Path) -> None:
    local = write(frame, tmp_path / "t.parquet", row_group_size=100)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/here/t.parquet", local.read_bytes())
    try:
        source = opened("memory://here/t.parquet")
        same_rows(source, opened(local))
        memory.pipe_file("/here/t.parquet", local.read_bytes())
        with pytest.raises(DataError, match=r"t.parquet \(changed\)"):
            local_rows(source)
    finally:
        memory.rm("/here", recursive=True)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, with ranges of bytes where ``ranges`` says so; 403 for what is called secret."""

    ranges = True

    def do_GET(self) -> None:
        if "secret" in self.path:
            self.send_error(403)
            return
        wanted = self.headers.get("Range")
        if not (wanted and self.ranges):
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = (int(place) for place in wanted.removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Length", str(len(content[first : last + 1])))
        self.end_headers()
        self.wfile.write(content[first : last + 1])

    def do_HEAD(self) -> None:
        if "secret" in self.path:
            self.send_error(403)
        else:
            super().do_HEAD()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_of_a_web_server(frame: pd.DataFrame, tmp_path: Path, web: str, suffix: str) -> None:
    local = write(frame, tmp_path / f"t{suffix}")
    source = opened(f"{web}/t{suffix}")
    same_rows(source, opened(local))
    write(frame[:600], local)
    with pytest.raises(DataError, match=rf"t{suffix} \(changed\)"):
        local_rows(source)
    local.unlink()
    with pytest.raises(DataError, match=rf"^--data \({web}/t{suffix}\): no such object$"):
        opened(f"{web}/t{suffix}")
    with pytest.raises(ClusterError, match=rf"^{web}/secret{suffix} \(403\): these credentials may not read it$"):
        opened(f"{web}/secret{suffix}")
    with pytest.raises(ClusterError, match=rf"secret{suffix}\?api_key=\[redacted\] \(403\): these credentials may not"):
        opened(f"{web}/secret{suffix}?api_key=abc")


def test_an_address_of_ip_version_6_names_no_group() -> None:
    assert location("http://[::1]:8000/t.zarr::/g") == ("http://[::1]:8000/t.zarr", "g")
    assert location("http://[::1]:8000/t.csv") == ("http://[::1]:8000/t.csv", "")


def test_a_web_server_without_ranges_is_refused(
    frame: pd.DataFrame, tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(frame, tmp_path / "t.parquet", row_group_size=100)
    monkeypatch.setattr(Handler, "ranges", False)
    with pytest.raises(ClusterError, match=r"t.parquet \(no ranges of bytes\): its server sends whole files only"):
        local_rows(opened(f"{web}/t.parquet"))
