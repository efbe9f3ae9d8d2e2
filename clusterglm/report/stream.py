"""The task stream: what each worker thread did when, thinned to what an eye can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clusterglm.report.figures import BLUE, GREEN, GREY, ORANGE, RED, add_hover, new_figure, plain
from clusterglm.report.run import Table
from clusterglm.report.words import place

if TYPE_CHECKING:
    from bokeh.plotting import figure

MOST_DRAWN = 20_000
_COLOURS = (BLUE, GREEN, ORANGE, "#8b62c9", "#c2559d", "#5c8f2e", "#2f9fb8", "#a0763f")
_MOVING = {"transfer": RED, "disk-read": "#b8860b", "disk-write": "#b8860b", "deserialize": GREY}


@dataclass(frozen=True)
class Blocks:
    """Neighbouring tasks of one name on one thread, as one rectangle each. Times in seconds since the first task."""

    name: list[str]
    lane: list[int]
    start: list[float]
    stop: list[float]
    tasks: list[int]
    lanes: list[tuple[str, int]]
    joined_below: float  # seconds; gaps shorter than this were closed
    left_out: int


def blocks(tasks: Table, most: int = MOST_DRAWN) -> Blocks:
    """Return at most ``most`` rectangles.

    Tasks of one name on one thread are joined where the gap between them is too short to be seen, a longer and longer
    one until the rectangles are few enough; should that not do, the shortest rectangles are left out.
    """
    import numpy as np

    if not len(tasks["start"]):
        return Blocks([], [], [], [], [], [], 0.0, 0)
    action = tasks["action"].astype(str)
    name = np.where(action == "compute", tasks["name"].astype(str), action)
    lanes = sorted(set(zip(tasks["worker"].astype(str).tolist(), tasks["thread"].tolist(), strict=True)))
    row = {lane: i for i, lane in enumerate(lanes)}
    lane = np.array(
        [row[pair] for pair in zip(tasks["worker"].astype(str).tolist(), tasks["thread"].tolist(), strict=True)]
    )
    first = float(tasks["start"].min())
    start, stop = tasks["start"] - first, tasks["stop"] - first
    order = np.lexsort((start, lane))
    name, lane, start, stop = name[order], lane[order], start[order], stop[order]
    same = (name[1:] == name[:-1]) & (lane[1:] == lane[:-1])
    pause = start[1:] - np.maximum.accumulate(stop)[:-1] if len(lanes) == 1 else start[1:] - stop[:-1]
    span, joined = float(stop.max()) or 1.0, 0.0
    cut = np.ones(len(name), dtype=bool)
    while cut.sum() > most and joined < span / 300:
        joined = span / 4000 if joined == 0 else joined * 2
        cut[1:] = ~(same & (pause < joined))
    heads = np.flatnonzero(cut)
    tails = np.append(heads[1:], len(name))
    ends = np.maximum.reduceat(stop, heads)
    chosen = np.arange(len(heads))
    if len(heads) > most:
        chosen = np.sort(np.argsort(ends - start[heads])[-most:])
    return Blocks(
        name=name[heads][chosen].tolist(),
        lane=lane[heads][chosen].tolist(),
        start=start[heads][chosen].tolist(),
        stop=ends[chosen].tolist(),
        tasks=(tails - heads)[chosen].tolist(),
        lanes=lanes,
        joined_below=joined,
        left_out=len(heads) - len(chosen),
    )


def legend(drawn: Blocks) -> list[tuple[str, str]]:
    """Return (name, colour) of what is drawn, the most time-consuming first; names beyond the palette are grey."""
    time: dict[str, float] = {}
    for name, start, stop in zip(drawn.name, drawn.start, drawn.stop, strict=True):
        time[name] = time.get(name, 0.0) + stop - start
    ranked = sorted(time, key=lambda name: -time[name])
    computed = [name for name in ranked if name not in _MOVING]
    colour = dict.fromkeys(computed, GREY) | dict(zip(computed, _COLOURS, strict=False)) | _MOVING
    return [(name, colour[name]) for name in ranked]


def stream(drawn: Blocks) -> figure | None:
    """Draw one row a worker thread, time running to the right."""
    from bokeh.models import FixedTicker

    if not drawn.name:
        return None
    colour = dict(legend(drawn))
    data: dict[str, Any] = {
        "name": [plain(name) for name in drawn.name],
        "colour": [colour[name] for name in drawn.name],
        "alpha": [0.55 if name in _MOVING else 0.9 for name in drawn.name],
        "start": drawn.start,
        "stop": drawn.stop,
        "lasted": [stop - start for start, stop in zip(drawn.start, drawn.stop, strict=True)],
        "tasks": drawn.tasks,
        "bottom": [lane + 0.92 for lane in drawn.lane],
        "top": [lane + 0.08 for lane in drawn.lane],
    }
    lanes = len(drawn.lanes)
    thick = max(8, min(34, 560 // lanes))
    plot = new_figure(90 + thick * lanes, "seconds since the first task", "", y_range=(lanes, 0))
    bars = plot.quad(
        left="start", right="stop", bottom="bottom", top="top", source=data, fill_color="colour", fill_alpha="alpha",
        line_color="colour", line_alpha="alpha", line_width=0.5,
    )  # fmt: skip
    plot.x_range.range_padding = 0.01
    plot.ygrid.visible = False
    # One label a worker, beside the middle of its threads.
    threads: dict[str, list[int]] = {}
    for i, (worker, _) in enumerate(drawn.lanes):
        threads.setdefault(worker, []).append(i)
    labelled = {sum(rows) / len(rows) + 0.5: plain(place(worker)) for worker, rows in threads.items()}
    if len(labelled) <= 32:
        plot.yaxis.ticker = FixedTicker(ticks=list(labelled))
        plot.yaxis.major_label_overrides = labelled
    else:
        plot.yaxis.axis_label = f"{len(labelled)} workers"
        plot.yaxis.ticker = FixedTicker(ticks=[])
    add_hover(plot, [("task", "@name"), ("lasted", "@lasted{0.0000} s"), ("tasks", "@tasks{0,0}")], [bars])
    return plot
