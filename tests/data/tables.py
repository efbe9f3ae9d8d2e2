"""Tables written as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def write(frame: pd.DataFrame, path: Path, **words: Any) -> Path:
    """Write a frame as parquet or csv, by its suffix."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False, **words)
    else:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, **words)
    return path
