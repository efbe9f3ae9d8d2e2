"""What the workers are asked about themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusterglm.clusters import workers


def test_rows_that_may_be_removed_count_as_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next fit of the same rows, which are there already, is refused where it fills half of the disk."""
    free = shutil._ntuple_diskusage(10**9, 10**9, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    homes = [tmp_path / "one", tmp_path / "two", tmp_path / "none"]
    for home, size in zip(homes, (300, 20, 0), strict=True):
        home.mkdir()
        (home / "spilled").write_bytes(bytes(5))
        if size:
            (home / "rows" / "key").mkdir(parents=True)
            (home / "rows" / "key" / "0-1.rows").write_bytes(bytes(size))

    def run(function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        return {str(home): function(*args, dask_worker=SimpleNamespace(local_directory=str(home))) for home in homes}

    assert workers.free_disk(SimpleNamespace(run=run), "rows") == 1320  # type: ignore[arg-type]


def test_workers_are_asked_again_where_one_goes_meanwhile() -> None:
    answers = iter([OSError("gone"), OSError("gone"), {"a": 3, "b": 4}])

    def run(function: Callable[..., Any]) -> dict[str, int]:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert workers.peak_memory(SimpleNamespace(run=run, status="running")) == {"a": 3, "b": 4}  # type: ignore[arg-type]
    answers = iter([OSError("gone")])
    with pytest.raises(OSError, match="gone"):
        workers.peak_memory(SimpleNamespace(run=run, status="closed"))  # type: ignore[arg-type]
