"""Arrays as sources: .npy, Zarr and HDF5."""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterglm.data import arrays
from clusterglm.data.files import DataFile, location
from clusterglm.data.sources import FileSource, local_rows, open_source
from clusterglm.errors import ClusterError, DataError, UsageError

FEATURES = ["a", "b", "yes", "c"]


def opened(url: Path | str, **words: Any) -> FileSource:
    source = open_source(str(url), **({"target": "y"} | words))
    source.open(None)
    return source


def check(source: FileSource, frame: pd.DataFrame) -> None:
    """All of the rows, and some ranges of them made elsewhere, are those of the frame."""
    expected = frame[source.names].to_numpy(dtype=np.float64)
    chunk = local_rows(source, intercept=True).chunk
    assert chunk.X.flags.c_contiguous
    np.testing.assert_array_equal(chunk.X[:, 1:], expected)
    np.testing.assert_array_equal(chunk.y, frame["y"])
    for first, last in ((0, 64), (288, 448), (640, 700)):
        part = pickle.loads(pickle.dumps(source.part((first, last)))).chunk((first, last), 16, dtype="float32")
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(part.X, expected[first:last].astype(np.float32))
        np.testing.assert_array_equal(part.y, frame["y"][first:last])


def structured(frame: pd.DataFrame, path: Path) -> Path:
    records = frame.to_records(index=False)
    np.save(path, np.array(records, records.dtype.descr))
    return path


def zarr_group(frame: pd.DataFrame, path: Path | str, rows: int = 100, **words: Any) -> Path | str:
    group = zarr.open_group(str(path), mode="w", **words)
    for i, name in enumerate(frame):
        group.create_array(name, data=frame[name].to_numpy(), chunks=(rows + 10 * i,))
    return path


def hdf5_group(frame: pd.DataFrame, path: Path, where: str = "/") -> Path:
    with h5py.File(path, "w") as file:
        group = file.require_group(where)
        for i, name in enumerate(frame):
            words = {"chunks": (min(90 + 7 * i, len(frame)),), "compression": "gzip"} if i % 2 else {}
            group.create_dataset(name, data=frame[name].to_numpy(), **words)
    return path


WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "t.npy": structured,
    "t.zarr": zarr_group,
    "t2.zarr": lambda frame, path: zarr_group(frame, path, zarr_format=2),
    "t.h5": hdf5_group,
}


@pytest.mark.parametrize("name", WRITERS)
def test_columns_of_every_type(frame: pd.DataFrame, tmp_path: Path, name: str) -> None:
    WRITERS[name](frame, tmp_path / name)
    source = opened(tmp_path / name, weights="w", offset="o")
    assert source.names == (FEATURES if name == "t.npy" else sorted(FEATURES))
    chunk = local_rows(source).chunk
    np.testing.assert_array_equal(chunk.weights, frame["w"])
    np.testing.assert_array_equal(chunk.offset, frame["o"])
    assert not source.notes
    assert source.whole == ["b", "w"]
    check(source, frame)
    check(opened(tmp_path / name, features=["c", "a"]), frame)
    assert source.locate(699) == f"{name}, row 700"
    assert source.fingerprint() == opened(tmp_path / name, weights="w", offset="o").fingerprint()


@pytest.mark.parametrize("name", WRITERS)
def test_several_files_are_one_table(frame: pd.DataFrame, tmp_path: Path, name: str) -> None:
    suffix = Path(name).suffix
    for i, (first, last) in enumerate([(0, 300), (300, 301), (301, 700)]):
        WRITERS[name](frame[first:last], tmp_path / f"part-{i}{suffix}")
    source = opened(tmp_path)
    assert [file.name for file in source.files] == [f"part-{i}{suffix}" for i in range(3)]
    check(source, frame)
    check(opened(tmp_path / f"part-*{suffix}"), frame)
    assert source.locate(300) == f"part-1{suffix}, row 1"


def matrix(frame: pd.DataFrame) -> np.ndarray:
    return frame[["a", "c", "y"]].to_numpy()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
def test_a_matrix_has_numbered_columns(frame: pd.DataFrame, tmp_path: Path, order: Any, dtype: str) -> None:
    np.save(tmp_path / "m.npy", np.asarray(matrix(frame), dtype=dtype, order=order))
    source = opened(tmp_path / "m.npy", target="x2")
    assert source.names == ["x0", "x1"]
    check(source, frame.rename(columns={"a": "x0", "c": "x1"}))


@pytest.mark.parametrize("named", [None, ["a", "c", "y"]])
@pytest.mark.parametrize("chunks", [(128, 3), (100, 2), (700, 1)])
def test_the_matrix_of_a_store_may_name_its_columns(
    frame: pd.DataFrame, tmp_path: Path, named: list[str] | None, chunks: tuple[int, int]
) -> None:
    alone = zarr.create_array(str(tmp_path / "z.zarr"), data=matrix(frame), chunks=chunks)
    with h5py.File(tmp_path / "h.h5", "w") as file:
        inside = file.create_dataset("deep/er/m", data=matrix(frame), chunks=chunks)
        if named:
            alone.attrs["columns"] = named
            inside.attrs["columns"] = named
    for place in ("z.zarr", "h.h5::/deep/er/m"):
        source = opened(tmp_path / place, target="y" if named else "x2")
        assert source.names == (["a", "c"] if named else ["x0", "x1"])
        check(source, frame if named else frame.rename(columns={"a": "x0", "c": "x1"}))


def test_a_group_has_the_columns_of_its_matrix_and_of_its_vectors(frame: pd.DataFrame, tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "s.zarr"), mode="w").create_group("train")
    X = group.create_array("X", data=matrix(frame), chunks=(64, 3))
    X.attrs["columns"] = ["a", "c", "copy"]
    group.create_array("y", data=frame["y"].to_numpy(), chunks=(256,))
    (tmp_path / "s.zarr" / "train" / "README").touch()
    group.create_array("images", data=np.zeros((700, 2, 2)), chunks=(700, 2, 2))
    source = opened(f"{tmp_path}/s.zarr::/train")
    assert source.names == ["a", "c", "copy"]
    assert "note: s.zarr: array images (3 dimensions): left out" in source.notes
    check(source, frame.assign(copy=frame["y"]))
    assert {piece.rows % 256 for piece in source.files[0].pieces[:-1]} <= {0}
    with pytest.raises(DataError, match=r"^s.zarr: no 1-D array and no matrix X in it: name a group"):
        opened(tmp_path / "s.zarr")
    with pytest.raises(DataError, match=r"^s.zarr \(::/nowhere\): no such group or array in it$"):
        opened(f"{tmp_path}/s.zarr::/nowhere")
    structured(frame, tmp_path / "t.npy")
    with pytest.raises(DataError, match=r"^--data \(.*t.npy::/g\): a .npy file has no groups: leave ::/g out$"):
        opened(f"{tmp_path}/t.npy::/g")


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_a_matrix_are_copied_once(frame: pd.DataFrame, tmp_path: Path, order: Any) -> None:
    """The features are a view of what was read, in one piece, whatever holds the target."""
    np.save(tmp_path / "m.npy", np.asarray(matrix(frame), order=order))
    structured(frame[["y", "a", "c", "b"]], tmp_path / "s.npy")
    for name, features in (("m.npy", ["x0", "x1"]), ("s.npy", ["a", "c"])):
        source = opened(tmp_path / name, target={"m.npy": "x2"}.get(name, "y"), features=features)
        [batch] = source._reader.batches(source.files[0], source.kinds)
        view = batch.slice(100, 50).matrix(features)
        assert view is not None
        assert not view.flags.owndata
        np.testing.assert_array_equal(view, frame[["a", "c"]].to_numpy()[100:150])
        assert batch.matrix(features[::-1]) is None


class Counting:
    """An array in stored chunks, which counts how often each is decoded."""

    def __init__(self, values: np.ndarray, chunk: int) -> None:
        self.values, self.chunks, self.attrs, self.decoded = values, (chunk, *values.shape[1:]), {}, {}
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, cut: Any) -> np.ndarray:
        rows = cut[0] if isinstance(cut, tuple) else cut
        for i in range(rows.start // self.chunks[0], -(-rows.stop // self.chunks[0])):
            self.decoded[i] = self.decoded.get(i, 0) + 1
        return self.values[cut]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_stored_chunk_is_decoded_twice(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 300))
    random = np.random.default_rng(rows)
    held = {"X": Counting(random.random((rows, 3)), data.draw(st.integers(1, 40)))}
    held["y"] = Counting(random.random(rows), data.draw(st.integers(1, 400)))
    file = DataFile(Path("t"), "t", 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_PIECE_BYTES", data.draw(st.integers(1, 9000)))
        seen = arrays.look(file, held).file
    got = list(arrays.batches(seen, held, {"x0": "number", "x1": "number", "x2": "number", "y": "number"}))
    np.testing.assert_array_equal(np.concatenate([b.matrix(["x0", "x1", "x2"]) for b in got]), held["X"].values)
    np.testing.assert_array_equal(np.concatenate([b.column("y") for b in got]), held["y"].values)
    for array in held.values():
        assert array.decoded == dict.fromkeys(range(math.ceil(rows / array.chunks[0])), 1)


def test_chunks_too_large_to_be_read_together_are_read_by_the_largest() -> None:
    parts = [Counting(np.zeros((10**6, 40)), 70_001), Counting(np.zeros(10**6), 99_991)]
    look = arrays.look(DataFile(Path("t"), "t", 1, 1), dict(zip(("X", "y"), parts, strict=True)))
    assert look.file.pieces[0].rows == 99_991


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 80), st.sampled_from(["C", "F"]), st.data())
def test_any_bounds_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: int, chunk: int, order: Any, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    values = np.asarray(np.random.default_rng(rows).random((rows, 3)), order=order)
    np.save(folder / "m.npy", values)
    zarr.create_array(str(folder / "m.zarr"), data=values, chunks=(chunk, 2))
    bounds = [0, *(16 * c for c in sorted(data.draw(st.sets(st.integers(1, 13), max_size=5))) if 16 * c < rows), rows]
    for name in ("m.npy", "m.zarr"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(arrays, "_PIECE_BYTES", data.draw(st.integers(1, 3000)))
            source = opened(folder / name, target="x2")
        made = [source.part(b).chunk(b, 16) for b in pairwise(bounds)]
        np.testing.assert_array_equal(np.concatenate([c.X for c in made]), values[:, :2])
        np.testing.assert_array_equal(np.concatenate([c.y for c in made]), values[:, 2])


@pytest.mark.parametrize("name", WRITERS)
def test_what_changes_is_noticed(frame: pd.DataFrame, tmp_path: Path, name: str) -> None:
    WRITERS[name](frame, tmp_path / name)
    source = opened(tmp_path / name)
    if name.endswith("zarr"):  # one chunk of many, and none of the metadata
        zarr.open_group(str(tmp_path / name), mode="r+")["c"][650:] = 0.5
    else:
        WRITERS[name](frame[:699], tmp_path / name)
    with pytest.raises(DataError, match=rf"^{name} \(changed.*\): the fit mixes two versions: start again$"):
        source.chunk((0, 16), 16)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("o.npy", np.array([{}, 1], dtype=object), r"^o.npy: holds Python objects, which could run anything: save an "),
        ("v.npy", np.zeros(5), r"^v.npy \(shape \(5,\)\): give a matrix of rows by columns, or a structured array$"),
        ("c.npy", np.zeros((5, 2, 2)), r"^c.npy \(shape \(5, 2, 2\)\): give a matrix"),
        ("s.npy", np.zeros((5, 2), complex), r"^column x0 \(complex\): neither number nor category"),
        ("u.npy", np.array([["a", "b"]]), r"^--target x1 \(string\): not a number"),
        ("d.npy", np.zeros((5, 2), "M8[s]"), r"^column x0 \(datetime\): neither number nor category"),
        ("e.npy", np.zeros((0, 2)), r"^--data \(.*e.npy\): no rows$"),
        (
            "n.npz",
            None,
            r"^--data \(.*n.npz\): several arrays in a zip file: save them as one .npy, ",
        ),
    ],
)
def test_arrays_that_are_no_table(tmp_path: Path, name: str, value: Any, message: str) -> None:
    if value is None:
        np.savez(tmp_path / name, X=np.zeros((3, 2)))
    else:
        np.save(tmp_path / name, value, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / name, target="x1")


@pytest.mark.parametrize("name", ["t.npy", "t.h5"])
def test_files_that_are_cut_or_nonsense(frame: pd.DataFrame, tmp_path: Path, name: str) -> None:
    whole = WRITERS[name](frame, tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"nonsense" * 99):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"^{name}.*: not readable as (npy|HDF5): copy it again$"):
            opened(tmp_path / name)


def test_a_store_that_is_broken(frame: pd.DataFrame, tmp_path: Path) -> None:
    zarr_group(frame, tmp_path / "t.zarr")
    chunk = tmp_path / "t.zarr" / "c" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(DataError, match=r"^t.zarr \(rows 1 to 700\): not readable as zarr: copy it again$"):
        local_rows(opened(tmp_path / "t.zarr"))
    (tmp_path / "t.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match=r"^t.zarr.*: not readable as zarr: copy it again$"):
        opened(tmp_path / "t.zarr")
    (tmp_path / "t.zarr" / "zarr.json").unlink()
    with pytest.raises(DataError, match=r"^t.zarr: not readable as zarr: copy it again$"):
        opened(tmp_path / "t.zarr")
    (tmp_path / "file.zarr").touch()
    with pytest.raises(DataError, match=r"^--data \(.*file.zarr\): not a folder: a Zarr store is one$"):
        opened(tmp_path / "file.zarr")


def test_chunks_that_are_not_stored_are_mentioned(frame: pd.DataFrame, tmp_path: Path) -> None:
    zarr_group(frame[["a", "y"]], tmp_path / "t.zarr")
    (tmp_path / "t.zarr" / "a" / "c" / "3").unlink()
    source = opened(tmp_path / "t.zarr")
    assert source.notes == ["note: t.zarr/a: 1 of 7 chunks are not stored: read as 0.0, the value that fills them"]
    assert not local_rows(source).chunk.X[300:400].any()


def test_pickled_chunks_are_never_opened(tmp_path: Path) -> None:
    store = tmp_path / "t.zarr"
    zarr.create_array(str(store), shape=(4, 2), chunks=(4, 2), dtype="f8", zarr_format=2)
    metadata = json.loads((store / ".zarray").read_text())
    for place, value in (("compressor", {"id": "pickle", "protocol": 5}), ("filters", [{"id": "pickle"}])):
        (store / ".zarray").write_text(json.dumps(metadata | {place: value}))
        with pytest.raises(
            DataError, match=r"^t.zarr.*: (holds pickled objects, which could run any|not readable as z)"
        ):
            opened(store, target="x1")


def test_values_of_an_hdf5_file_lie_in_that_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    hdf5_group(frame, tmp_path / "other.h5")
    layout = h5py.VirtualLayout(shape=(700,), dtype="f8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "c", shape=(700,))
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["y"] = frame["y"].to_numpy()
        file["a"] = frame["a"].to_numpy()
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/c")
    assert opened(tmp_path / "t.h5").names == ["a"]
    with h5py.File(tmp_path / "t.h5", "a") as file:
        file.create_virtual_dataset("v", layout)
    with pytest.raises(DataError, match=r"^t.h5 \(/v\): its values lie in other files: copy them into this one$"):
        opened(tmp_path / "t.h5")


def test_lengths_and_names_must_agree(frame: pd.DataFrame, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["y"], file["z"] = np.zeros(700), np.zeros(3)
    with pytest.raises(DataError, match=r"^t.h5: column z has 3 rows, y 700: give a group of arrays of one length$"):
        opened(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["X"], file["x0"] = np.zeros((7, 2)), np.zeros(7)
    with pytest.raises(DataError, match=r"^t.h5: column x0 is there twice: rename one$"):
        opened(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["X"] = np.zeros((7, 2))
        file["X"].attrs["columns"] = ["a"]
    with pytest.raises(DataError, match=r"^t.h5: 1 names in the attribute columns of a matrix of 2: give one for "):
        opened(tmp_path / "t.h5")


@pytest.mark.parametrize("name", ["t.npy", "f.npy", "t.zarr", "t2.zarr"])
def test_arrays_behind_a_url(frame: pd.DataFrame, tmp_path: Path, s3: Any, name: str) -> None:
    if name == "f.npy":
        np.save(tmp_path / name, np.asfortranarray(matrix(frame)))
    else:
        WRITERS[name](frame, tmp_path / name)
    s3.put(str(tmp_path / name), f"data/{name}", recursive=name.endswith("zarr"))
    words: dict[str, Any] = {"target": "x2"} if name == "f.npy" else {}
    source, local = opened(f"s3://data/{name}", **words), opened(tmp_path / name, **words)
    assert (source.names, source.rows, source.notes) == (local.names, local.rows, local.notes)
    check(source, frame.rename(columns={"a": "x0", "c": "x1"}) if name == "f.npy" else frame)
    if name.endswith("zarr"):
        s3.rm(f"data/{name}/a/" + ("c/3" if name == "t.zarr" else "3"))
    else:
        s3.pipe_file(f"data/{name}", (tmp_path / name).read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match=rf"^{name} \(changed\): the fit mixes two versions"):
        local_rows(source)
    s3.rm(f"data/{name}", recursive=True)
    with pytest.raises(DataError, match=rf"^{name} \(gone\): it was there when the fit began"):
        local_rows(source)


def test_hdf5_is_read_from_paths_alone(s3: Any, frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--data \(s3://data/t.h5\): HDF5 is read from paths alone: copy it here"):
        location("s3://data/t.h5")
    s3.put(str(hdf5_group(frame, tmp_path / "t.h5")), "data/several/t.h5")
    with pytest.raises(DataError, match=r"HDF5 is read from paths alone: copy it here, or write it as Zarr$"):
        opened("s3://data/several")
    s3.rm("data/several", recursive=True)


def test_a_missing_package_is_named(frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, writer in (("t.zarr", zarr_group), ("t.h5", hdf5_group)):
        writer(frame, tmp_path / name)
        package = "zarr" if name == "t.zarr" else "h5py"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ClusterError, match=rf"^{package}: not installed where the workers run: pip install "):
                opened(tmp_path / name)
