"""What the cluster did during a fit: its task stream and its performance report, as files that need no network.

The scheduler keeps the last tasks in a ring and drops older ones without a word; the ring's own counter tells how many.
Functions that run on the scheduler are closures, so that they travel by value: the scheduler may be somebody else's and
need not have clusterglm, nor bokeh, which draws the performance report there.
"""

from __future__ import annotations

import html
import io
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterglm.errors import redact
from clusterglm.run_folder import write_whole

if TYPE_CHECKING:
    from distributed import Client

LIMIT = 10.0  # seconds for everything that is asked of the cluster after a fit
MOST_DRAWN = 20_000  # tasks on a page: 5 MB and 1.4 s of the scheduler's time on a slow core

_FAVICON = re.compile(r'<link rel="shortcut icon"[^>]*>')  # dask's template fetches it from the internet


@dataclass
class Capture:
    """What was seen, for ``result.json``; complete when the ``with`` block has ended without an exception.

    Attributes
    ----------
    tasks, tasks_dropped : int
        Tasks that ran, and how many of them the scheduler had forgotten when it was asked.
    memory : dict of str to int
        Each worker's highest memory in bytes, by address, as its own monitor saw it twice a second.
    notes : list of str
        What could not be recorded and why, each starting with ``note: ``.
    seconds : float
        What recording took after the fit had ended.
    """

    tasks: int = 0
    tasks_dropped: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


@contextmanager
def capture(client: Client, folder: Path, what: str = "") -> Iterator[Capture]:
    """Record what the cluster of ``client`` does in the block, and write it into ``folder`` on a clean exit.

    Writes ``tasks.parquet``, ``task-stream.html`` and ``performance-report.html``, each whole or not at all, within
    ``LIMIT`` seconds. Nothing here makes a fit fail: what cannot be recorded becomes a note. An exception in the block
    passes through at once and nothing is written.

    Parameters
    ----------
    client : Client
    folder : Path
        An existing folder.
    what : str
        Stands on the performance report where Dask would print the caller's source code.
    """
    seen = Capture()
    _try(seen, "the profile: of more than this fit", lambda: _cut_profiles(client, LIMIT))
    opened = _try(seen, "the task stream: not recorded", lambda: _ask(client, _mark(), LIMIT))
    yield seen
    begun = time.monotonic()

    def left() -> float:
        return max(0.5, LIMIT - (time.monotonic() - begun))

    if opened is None:
        return
    index, samples, start = opened
    collected = _try(seen, "the task stream: lost", lambda: _ask(client, _collect(index), left()))
    if collected is not None:
        seen.tasks, messages = collected
        seen.tasks_dropped = seen.tasks - len(messages)
        if seen.tasks_dropped:
            seen.notes.append(
                f"note: the scheduler kept the last {len(messages):,} of {seen.tasks:,} tasks: "
                "the task stream shows these"
            )
        if len(messages) > MOST_DRAWN:
            start = max(interval["stop"] for interval in messages[-MOST_DRAWN]["startstops"])
        _try(seen, "tasks.parquet: not written", lambda: _write_tasks(folder / "tasks.parquet", messages))
        _try(seen, "task-stream.html: not written", lambda: _draw_stream(folder / "task-stream.html", messages))
    seen.memory = _try(seen, "memory of the workers: not recorded", lambda: _ask(client, _memory(start), left())) or {}
    _try(seen, "the profile: not up to the end", lambda: _cut_profiles(client, left()))
    text = _calling_text(what, seen)
    page = _try(
        seen,
        "performance-report.html: not drawn",
        lambda: client.sync(
            client.scheduler.performance_report,
            start=start,
            last_count=samples,
            code=text,
            mode="inline",
            callback_timeout=left(),
        ),
    )
    if page is not None:
        content = _FAVICON.sub("", page).encode()
        _try(
            seen,
            "performance-report.html: not written",
            lambda: write_whole(folder / "performance-report.html", content),
        )
    seen.seconds = time.monotonic() - begun


def _try(seen: Capture, what: str, act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns, or None and a note: a fit that has succeeded is not undone by its pictures."""
    try:
        return act()
    except ModuleNotFoundError as error:
        seen.notes.append(f"note: {what}: the scheduler has no {(error.name or 'bokeh').split('.')[0]}")
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        seen.notes.append(redact(f"note: {what}: {reason}"))
    return None


def _ask(client: Client, function: Callable[..., Any], limit: float) -> Any:
    """Run ``function`` on the scheduler and return its result; TimeoutError after ``limit`` seconds."""

    async def run() -> Any:
        return await client.run_on_scheduler(function)

    return client.sync(run, callback_timeout=limit)


def _cut_profiles(client: Client, limit: float) -> None:
    """Let every worker end its current stretch of profile: Dask shows whole ones, of ten seconds here."""

    def cut(dask_worker: Any = None) -> None:
        dask_worker.cycle_profile()

    async def run() -> None:
        await client.run(cut)

    client.sync(run, callback_timeout=limit)


def _mark() -> Callable[..., tuple[int, int, float]]:
    def mark(dask_scheduler: Any = None) -> tuple[int, int, float]:
        import time

        dask_scheduler.get_task_stream(start=0, stop=0)  # starts the recording where nobody has yet
        return dask_scheduler.plugins["task-stream"].index, dask_scheduler.monitor.count, time.time()

    return mark


def _collect(index: int) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    def collect(dask_scheduler: Any = None) -> tuple[int, list[dict[str, Any]]]:
        plugin = dask_scheduler.plugins["task-stream"]
        count = plugin.index - index
        kept = min(count, len(plugin.buffer))
        wanted = ("key", "worker", "thread", "status", "nbytes", "startstops")
        last = list(plugin.buffer)[len(plugin.buffer) - kept :]
        return count, [{name: message.get(name) for name in wanted} for message in last]

    return collect


def _memory(start: float) -> Callable[..., Coroutine[Any, Any, dict[str, int]]]:
    async def memory(dask_scheduler: Any = None) -> dict[str, int]:
        found = await dask_scheduler.get_worker_monitor_info()
        peaks = {}
        for address, info in found.items():
            samples = info["range_query"]
            values = [m for t, m in zip(samples["time"], samples["memory"], strict=True) if t >= start and m]
            if values:
                peaks[address] = int(max(values))
        return peaks

    return memory


def _write_tasks(path: Path, messages: list[dict[str, Any]]) -> None:
    """Write one row per interval: a task that had to fetch its input first has two."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from dask.utils import key_split

    rows = [
        (
            key_split(message["key"]),
            str(message["key"]),
            str(message["worker"]),
            int(message["thread"] or 0),
            float(interval["start"]),
            float(interval["stop"]),
            interval["action"],
            int(message["nbytes"] or 0) if interval["action"] == "compute" else 0,
        )
        for message in messages
        for interval in message["startstops"] or ()
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(_SCHEMA)
    fields = [pa.field(name, getattr(pa, kind)()) for name, kind in _SCHEMA]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, fields, strict=True)]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), content)
    write_whole(path, content.getvalue())


_SCHEMA = (
    ("name", "string"),
    ("key", "string"),
    ("worker", "string"),
    ("thread", "int64"),
    ("start", "float64"),
    ("stop", "float64"),
    ("action", "string"),
    ("nbytes", "int64"),
)


def _draw_stream(path: Path, messages: list[dict[str, Any]]) -> None:
    """Write Dask's own picture of the last tasks, its time axis starting at 0 and bokeh inlined."""
    from bokeh.embed import file_html
    from bokeh.models import HelpTool, TapTool
    from bokeh.resources import INLINE
    from distributed.dashboard.components.scheduler import task_stream_figure
    from distributed.diagnostics.task_stream import rectangles

    drawn = rectangles(messages[-MOST_DRAWN:])
    source, figure = task_stream_figure(sizing_mode="stretch_both")
    if drawn["start"]:
        first = min(middle - length / 2 for middle, length in zip(drawn["start"], drawn["duration"], strict=True))
        drawn["start"] = [middle - first for middle in drawn["start"]]
    source.data.update(drawn)
    # These two lead out of the page: to a running dashboard and to the internet.
    figure.toolbar.tools = [tool for tool in figure.toolbar.tools if not isinstance(tool, TapTool | HelpTool)]
    figure.title.text = "Task stream"
    if len(messages) > MOST_DRAWN:
        figure.title.text += f": the last {MOST_DRAWN:,} of {len(messages):,} tasks"
    page = file_html(figure, INLINE, title="Task stream")
    write_whole(path, page.encode())


def _calling_text(what: str, seen: Capture) -> str:
    lines = [redact(what) or "a fit of clusterglm"]
    if seen.tasks - seen.tasks_dropped > MOST_DRAWN:
        lines.append(f"This page shows the last {MOST_DRAWN:,} of {seen.tasks:,} tasks; tasks.parquet holds more.")
    return html.escape("\n".join(lines))
