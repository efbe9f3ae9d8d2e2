"""Generated rows as files: every part is made and written by one task, so memory does not depend on their number.

A part has 64 MiB of rows, a power of two of the generator's blocks, so the rows of a part are the same wherever it is
written; parts that are read again are the rows that ``--rows`` makes, bit for bit.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterglm.data import listing
from clusterglm.data.chunk import GENERATOR_ROWS, one_blas_thread
from clusterglm.data.target import Target
from clusterglm.data.tasks import retried, waited
from clusterglm.errors import ClusterError, UsageError, unknown

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.data.synthetic import Synthetic

FORMATS = ("parquet", "zarr", "npy")
TARGET = "y"
_PART_BYTES = 64 * 2**20
_STORED_BYTES = 16 * 2**20  # of a row group, and of a chunk of Zarr's
_SECONDS_WITHOUT_A_PART = 150.0
_GLANCE = 1.0


def format_of(to: str, format: str | None) -> str:
    """Return the format that is written: what ``format`` says, else what the name of the target ends in, else parquet.

    Raises
    ------
    UsageError
        Not one of ``FORMATS``, or the two differ.
    """
    if format is not None and format not in FORMATS:
        raise unknown("--format", format, FORMATS)
    said = listing.FORMATS.get(PurePosixPath(to).suffix.lower())
    if said is None:
        return format or "parquet"
    if said not in FORMATS:
        raise UsageError("--to", to, f"{said} is not written: one of {', '.join(FORMATS)}")
    if format not in (None, said):
        raise UsageError("--format", format, f"the name of the target says {said}: leave one of them out")
    return said


@dataclass(frozen=True)
class Parts:
    """How generated rows are cut: ``source`` in ``format``, features in ``dtype``, the target float64.

    ``rows`` are those of a part, ``stored`` those of what a reader decodes at once.
    """

    source: Synthetic
    format: str
    dtype: str
    rows: int
    stored: int

    @classmethod
    def of(cls, source: Synthetic, format: str, dtype: str) -> Parts:
        """Return parts of at most 64 MiB, or one block of the generator."""
        row_bytes = _row_bytes(source, dtype)
        return cls(source, format, dtype, _power(_PART_BYTES // row_bytes), _power(_STORED_BYTES // row_bytes))

    @property
    def bytes(self) -> int:
        return self.source.rows * _row_bytes(self.source, self.dtype)

    @property
    def count(self) -> int:
        return -(-self.source.rows // self.rows)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the first row and the one behind the last of every part."""
        return [(i, min(i + self.rows, self.source.rows)) for i in range(0, self.source.rows, self.rows)]

    def name(self, first: int) -> str:
        """Return the name of the part that begins with row ``first``: their order is that of the rows."""
        digits = max(5, len(str(self.count - 1)))
        return f"part-{first // self.rows:0{digits}}.{self.format}"


def _row_bytes(source: Synthetic, dtype: str) -> int:
    return source.columns * np.dtype(dtype).itemsize + 8


def _power(most: int) -> int:
    """Return the largest power of two up to ``most`` that is whole blocks of the generator, or one block."""
    rows = GENERATOR_ROWS
    while 2 * rows <= most:
        rows *= 2
    return rows


def write(client: Client, parts: Parts, target: Target, tell: Callable[[int], object]) -> None:
    """Write all parts on the workers, into the unfinished target.

    ``tell`` is called with the number of rows written so far.

    Raises
    ------
    ClusterError
        The workers cannot write there, or are lost.
    """
    if parts.format == "zarr":
        _make_store(parts, target)
    rows = 0
    for written in written_parts(client, partial(_write_part, parts, target), parts.ranges()):
        rows += written
        tell(rows)


def written_parts(client: Client, write: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Yield what ``write`` returns for every item, as the workers finish them.

    Raises
    ------
    ClusterError
        The workers cannot write there, or are lost.
    """
    stem = f"write-{time.time_ns():x}"
    keys = [f"{stem}-{i}" for i in range(len(items))]
    futures = client.map(write, items, key=keys, pure=False)
    address = client.scheduler.address if client.scheduler else None
    pending, since = set(futures), time.monotonic()
    try:
        while pending:
            if not waited(pending, _GLANCE, "FIRST_COMPLETED"):
                if time.monotonic() - since > _SECONDS_WITHOUT_A_PART:
                    cure = f"no part was written in {_SECONDS_WITHOUT_A_PART:.0f} s: see the workers' logs"
                    raise ClusterError("cluster", address, cure)
                continue
            done = {future for future in pending if future.done()}
            yield from client.gather(list(done))
            pending -= done
            since = time.monotonic()
    except retried() as error:
        cure = f"writing failed: {type(error).__name__}: see the workers' logs"
        raise ClusterError("cluster", address, cure) from error
    finally:
        client.cancel(futures, force=True)


def _write_part(parts: Parts, target: Target, bounds: tuple[int, int]) -> int:
    """Write the rows of one part, on a worker, and return their number."""
    try:
        with one_blas_thread():
            {"parquet": _parquet, "npy": _npy, "zarr": _zarr}[parts.format](parts, target, bounds)
    finally:  # what was given up may fail in any way, and zarr makes folders again that were removed
        target.leave_if_over()
    return bounds[1] - bounds[0]


def _parquet(parts: Parts, target: Target, bounds: tuple[int, int]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, last = bounds
    names = [*parts.source.names, TARGET]
    types = [pa.from_numpy_dtype(np.dtype(parts.dtype))] * parts.source.columns + [pa.float64()]
    schema = pa.schema(list(zip(names, types, strict=True)))
    # Numbers that hardly ever repeat gain nothing from a dictionary; targets are often two.
    words: dict[str, Any] = {"compression": "zstd", "use_dictionary": [TARGET], "write_page_checksum": True}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **words) as writer:
        for start in range(first, last, parts.stored):
            chunk = parts.source.chunk((start, min(start + parts.stored, last)), GENERATOR_ROWS, parts.dtype)
            columns = np.ascontiguousarray(chunk.X.T)
            writer.write_table(pa.table([*map(pa.array, columns), pa.array(chunk.y)], schema=schema))
    target.write(parts.name(first), sink.getvalue())


def _npy(parts: Parts, target: Target, bounds: tuple[int, int]) -> None:
    chunk = parts.source.chunk(bounds, GENERATOR_ROWS, parts.dtype)
    rows, split = len(chunk), chunk.X.shape[1] * chunk.X.itemsize
    stored = np.empty((rows, split + 8), np.uint8)
    stored[:, :split] = chunk.X.view(np.uint8)
    stored[:, split:] = chunk.y.view(np.uint8).reshape(rows, 8)
    fields = [(name, parts.dtype) for name in parts.source.names] + [(TARGET, "float64")]
    content = io.BytesIO()
    np.save(content, stored.view(np.dtype(fields))[:, 0])
    target.write(parts.name(bounds[0]), content.getbuffer())


def _zarr(parts: Parts, target: Target, bounds: tuple[int, int]) -> None:
    from clusterglm.data import zarr

    chunk = parts.source.chunk(bounds, GENERATOR_ROWS, parts.dtype)
    try:
        group = zarr.package().open_group(zarr.store(target.staging), mode="r+")
        for name, values in (("X", chunk.X), (TARGET, chunk.y)):
            group[name][slice(*bounds)] = values
    except OSError as error:
        raise target.refusal(error) from error


def _make_store(parts: Parts, target: Target) -> None:
    """Write the metadata of the Zarr store: chunks of whole parts, so that no two tasks write the same."""
    from clusterglm.data import zarr

    rows, columns = parts.source.rows, parts.source.columns
    group = zarr.package().open_group(zarr.store(target.staging), mode="a")
    X = group.create_array("X", shape=(rows, columns), chunks=(parts.stored, columns), dtype=parts.dtype)
    X.attrs["columns"] = parts.source.names
    group.create_array(TARGET, shape=(rows,), chunks=(parts.stored,), dtype="float64")
