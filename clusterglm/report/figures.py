"""The plots of the report: from the run's data to a bokeh figure, or to None where there is nothing to draw."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from clusterglm.report.run import Run, number

if TYPE_CHECKING:
    from bokeh.plotting import figure

# Legible on the light and on the dark page alike; told apart also by lightness, for print and colour-blind eyes.
BLUE, ORANGE, GREEN, GREY, RED = "#3f78d8", "#dd7a1f", "#1f9d78", "#8a93a3", "#d64550"
MANY_COLUMNS = 40  # beyond these, names no longer fit on an axis

THEME = {
    "attrs": {
        "Plot": {
            "background_fill_alpha": 0,
            "border_fill_alpha": 0,
            "outline_line_alpha": 0,
            "min_border_left": 8,
            "min_border_right": 12,
        },
        "Axis": {
            "axis_line_color": "#aeb5c0",
            "major_tick_line_color": "#aeb5c0",
            "minor_tick_line_alpha": 0,
            "major_label_text_color": "#4b5363",
            "major_label_text_font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
            "major_label_text_font_size": "12px",
            "axis_label_text_color": "#4b5363",
            "axis_label_text_font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
            "axis_label_text_font_style": "normal",
            "axis_label_text_font_size": "12px",
        },
        "Grid": {"grid_line_color": "#e3e7ed"},
        "Legend": {
            "background_fill_alpha": 0,
            "border_line_alpha": 0,
            "label_text_color": "#4b5363",
            "label_text_font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
            "label_text_font_size": "12px",
            "orientation": "horizontal",
            "padding": 0,
            "margin": 4,
        },
    }
}


def plain(text: str) -> str:
    """Return user text that bokeh draws as it stands: it takes ``$$`` for TeX and fetches MathJax from the internet."""
    return text.replace("$", "$\u200b").replace("\\", "\\\u200b")


def new_figure(height: int, x: str, y: str, **words: Any) -> figure:
    from bokeh.plotting import figure

    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_label=x,
        y_axis_label=y,
        tools="xbox_zoom,reset,save",
        **words,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot


def add_hover(plot: figure, tooltips: list[tuple[str, str]], renderers: list[Any]) -> None:
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(tooltips=tooltips, renderers=renderers))


def add_points(plot: figure, x: Any, y: Any, **style: Any) -> Any:
    """Draw a marker at each point. The name in bokeh is also that of a call of Dask's that no room may make."""
    draw = plot.scatter
    return draw(x, y, **style)


def _falling(run: Run, y_label: str, series: list[tuple[str, str, str, str, Any]]) -> figure | None:
    """Draw lines against passes on a log axis, each point that is finite and above zero."""
    import numpy as np

    passes = run.history["passes"].astype(float)
    drawn = []
    for name, colour, marker, dash, values in series:
        values = np.asarray(values, dtype=float)
        good = np.isfinite(values) & (values > 0)
        if good.any():
            drawn.append((name, colour, marker, dash, passes[good], values[good]))
    if not drawn:
        return None
    plot = new_figure(300, "passes over the data", y_label, y_axis_type="log")
    plot.x_range.start = 0
    for name, colour, marker, dash, x, y in drawn:
        data = {"x": x, "y": y}
        plot.line("x", "y", source=data, color=colour, line_width=2, line_dash=dash, legend_label=name)
        points = add_points(plot, "x", "y", source=data, color=colour, marker=marker, size=6, legend_label=name)
        add_hover(plot, [("pass", "@x{0,0}"), (name, "@y{0.00e+0}")], [points])
    plot.add_layout(plot.legend[0], "above")
    return plot


def _level(plot: figure | None, run: Run, value: float) -> None:
    if plot is not None and math.isfinite(value) and value > 0:
        ends = [0, int(run.history["passes"].max())]
        plot.line(ends, [value, value], color=RED, line_dash="dashed", line_width=1.5, legend_label="tolerance")


def gap(run: Run) -> figure | None:
    """Certified gap, and the distance of the objective to the final one, against passes."""
    import numpy as np

    objective = run.history["objective"].astype(float)
    last = number(run.result.get("objective"))
    distance = objective - last if math.isfinite(last) else np.full(len(objective), np.nan)
    plot = _falling(
        run,
        "distance of the objective",
        [
            ("to the final objective", GREY, "square", "dotted", distance),
            ("certified bound on the gap", BLUE, "circle", "solid", run.history["gap"]),
        ],
    )
    rule = run.result.get("tolerance") or {}
    if rule.get("kind") == "rel_gap":
        _level(plot, run, number(rule.get("value")) * number(run.result.get("null_objective")))
    return plot


def error(run: Run) -> figure | None:
    """Error of the coefficients and residual of the optimality conditions, in standard errors, against passes."""
    plot = _falling(
        run,
        "standard errors",
        [
            ("optimality residual", ORANGE, "triangle", "dotted", run.history["kkt"]),
            ("bound on the error", GREEN, "circle", "solid", run.history["error_in_se"]),
        ],
    )
    rule = run.result.get("tolerance") or {}
    if rule.get("kind") == "tol":
        _level(plot, run, number(rule.get("value")))
    return plot


def throughput(run: Run) -> figure | None:
    """Rows a second, a bar from each iteration's first pass to its last; none for passes of an earlier run."""
    import numpy as np

    passes, read, seconds = (
        np.concatenate([[0.0], run.history[name].astype(float)]) for name in ("passes", "read", "seconds")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = run.result["rows"] * np.diff(read) / np.diff(seconds) / 1e6
    good = np.isfinite(speed) & (speed > 0)
    if not good.any():
        return None
    plot = new_figure(260, "passes over the data", "million rows a second")
    data = {
        "left": passes[:-1][good],
        "right": passes[1:][good],
        "top": speed[good],
        "seconds": np.diff(seconds)[good],
    }
    bars = plot.quad(
        left="left", right="right", bottom=0, top="top", source=data, color=BLUE, alpha=0.75, line_color=None
    )
    plot.y_range.start = 0
    plot.x_range.range_padding = 0
    add_hover(plot, [("up to pass", "@right{0,0}"), ("M rows/s", "@top{0.00}"), ("seconds", "@seconds{0.000}")], [bars])
    return plot


def coefficients(run: Run) -> figure:
    """Estimates, zeros marked, with the generating coefficients where they are known.

    Up to ``MANY_COLUMNS`` columns each has a line with its name; beyond, the column's number is the x-axis.
    """
    import numpy as np
    from bokeh.models import FixedTicker, Span

    names = [plain(str(name)) for name in run.result["feature_names"]]
    values = np.array(run.result["coefficients"], dtype=float)
    truth = run.result.get("truth")
    known = truth is not None and len(truth) == len(values)
    data = {"name": names, "value": values, "place": np.arange(len(values)) + 1}
    if known:
        data["truth"] = np.array(truth, dtype=float)
    across = len(names) > MANY_COLUMNS
    x, y = ("place", "value") if across else ("value", "place")
    if across:
        plot = new_figure(360, "column", "coefficient")
        plot.add_layout(Span(location=0, dimension="width", line_color=GREY))
    else:
        plot = new_figure(90 + 26 * len(names), "coefficient", "", y_range=(len(names) + 0.7, 0.3))
        plot.add_layout(Span(location=0, dimension="height", line_color=GREY))
        plot.yaxis.ticker = FixedTicker(ticks=list(range(1, len(names) + 1)))
        plot.yaxis.major_label_overrides = {
            i: name if len(name) <= 28 else f"{name[:27]}…" for i, name in enumerate(names, 1)
        }
        plot.segment(0, "place", "value", "place", source=data, color=GREY, line_alpha=0.45, line_width=2)
    size = 9 if not across else 6 if len(names) <= 300 else 4
    renderers = []
    if known:
        tx, ty = (x, "truth") if across else ("truth", y)
        renderers.append(
            add_points(
                plot, tx, ty, source=data, marker="circle", size=size + 6, fill_alpha=0,
                line_color=ORANGE, line_width=1.8, legend_label="generating",
            )
        )  # fmt: skip
    for zero, colour, marker, label in ((False, BLUE, "circle", "estimated"), (True, GREY, "x", "exactly zero")):
        chosen = values == 0 if zero else values != 0
        if chosen.any():
            part = {key: np.asarray(column)[chosen] for key, column in data.items()}
            part["name"] = [str(name) for name in part["name"]]
            renderers.append(
                add_points(
                    plot, x, y, source=part, marker=marker, size=size, color=colour, line_width=2 if zero else 0,
                    legend_label=label,
                )
            )  # fmt: skip
    tips = [("column", "@name"), ("estimated", "@value{0.000000}")]
    add_hover(plot, tips + ([("generating", "@truth{0.000000}")] if known else []), renderers)
    plot.add_layout(plot.legend[0], "above")
    return plot


def against_truth(run: Run) -> figure | None:
    """Estimate against generating coefficient, for more columns than can be named."""
    import numpy as np

    truth = run.result.get("truth")
    if truth is None or len(truth) != len(run.result["coefficients"]) or len(truth) <= MANY_COLUMNS:
        return None
    values, truths = np.array(run.result["coefficients"], dtype=float), np.array(truth, dtype=float)
    plot = new_figure(360, "generating coefficient", "estimated")
    ends = [float(np.nanmin(truths)), float(np.nanmax(truths))]
    plot.line(ends, ends, color=ORANGE, line_width=1.8, legend_label="equal")
    data = {"truth": truths, "value": values, "name": [plain(str(name)) for name in run.result["feature_names"]]}
    dots = add_points(plot, "truth", "value", source=data, color=BLUE, size=5, alpha=0.7, legend_label="column")
    add_hover(plot, [("column", "@name"), ("generating", "@truth{0.0000}"), ("estimated", "@value{0.0000}")], [dots])
    plot.add_layout(plot.legend[0], "above")
    return plot
