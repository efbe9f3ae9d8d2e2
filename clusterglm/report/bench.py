"""``bench.html``: the solvers side by side, on one page that needs nothing but itself, drawn from ``bench.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clusterglm.report import figures
from clusterglm.units import format_duration, format_size

if TYPE_CHECKING:
    from bokeh.plotting import figure

NEAR = 1e-6  # a relative distance below which an objective counts as reached
_LEAST = 1e-16  # what the log axis shows of a distance that is nothing but rounding
_STYLES = (
    (figures.BLUE, "circle"),
    (figures.ORANGE, "square"),
    (figures.GREEN, "triangle"),
    (figures.RED, "diamond"),
    (figures.GREY, "inverted_triangle"),
)


def render(found: dict[str, Any]) -> str:
    """Return the page of what ``clusterglm.bench.bench`` found."""
    from bokeh.embed import components
    from bokeh.resources import Resources
    from bokeh.themes import Theme
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    script, plot = components(race(found), theme=Theme(json=figures.THEME))
    environment = Environment(
        loader=PackageLoader("clusterglm.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )

    def source(name: str) -> Markup:
        assert environment.loader is not None
        return Markup(environment.loader.get_source(environment, name)[0])  # our own files  # noqa: S704

    contenders = found["contenders"]
    return environment.get_template("bench.html.j2").render(
        b=found,
        deck=_deck(found),
        verdict=_verdict(contenders),
        rows=[_line(contender) for contender in contenders],
        seconds=_bars(contenders, lambda c: c["seconds"]["fit"], format_duration),
        memory=_bars(contenders, lambda c: c["peak_memory"], format_size),
        plot=Markup(plot),  # noqa: S704
        css=source("report.css"),
        theme=source("theme.js"),
        bokeh=Markup(Resources(mode="inline", components=["bokeh"]).render()),  # noqa: S704
        script=Markup(script),  # bokeh escapes what it holds  # noqa: S704
    )


def race(found: dict[str, Any]) -> figure:
    """Distance to the best objective against seconds of fitting: a line for ours, whose every iteration is known."""
    import numpy as np

    best = min(contender["objective"] for contender in found["contenders"])
    plot = figures.new_figure(
        380, "seconds of fitting", "relative distance to the best objective", x_axis_type="log", y_axis_type="log"
    )
    for i, contender in enumerate(found["contenders"]):
        colour, marker = _STYLES[i % len(_STYLES)]
        name, end = figures.plain(contender["name"]), contender["seconds"]["fit"]
        history = contender["history"]
        if history:
            distance = np.maximum((np.array(history["objective"]) - best) / best, _LEAST)
            plot.line(history["seconds"], distance, color=colour, line_width=2, legend_label=name)
        data = {"x": [end], "y": [max(contender["relative_distance"], _LEAST)], "name": [name]}
        points = figures.add_points(
            plot, "x", "y", source=data, color=colour, marker=marker, size=11, legend_label=name
        )
        figures.add_hover(plot, [("solver", "@name"), ("seconds", "@x{0.00}"), ("distance", "@y{0.0e+0}")], [points])
    plot.add_layout(plot.legend[0], "below")
    plot.legend[0].ncols = 3
    return plot


def _deck(found: dict[str, Any]) -> str:
    p, machine = found["problem"], found["machine"]
    return (
        f"{p['rows']:,} rows × {p['columns']} columns with seed {p['seed']}, an L1 penalty with lamduh "
        f"{p['lamduh']:g}, no intercept; one run on one machine with {machine['cores']} cores."
    )


def _verdict(contenders: list[dict[str, Any]]) -> str:
    near = [c for c in contenders if c["relative_distance"] <= NEAR]
    first = min(near, key=lambda c: c["seconds"]["fit"])
    seconds = format_duration(first["seconds"]["fit"])
    text = f"{first['name']} is the first to end within {NEAR:g} of the best objective: {seconds}"
    others = [c for c in near if c["by"] != first["by"]]
    if others:
        other = min(others, key=lambda c: c["seconds"]["fit"])
        text += f"; of {other['by']}'s, {other['name']} needs {format_duration(other['seconds']['fit'])}"
    return f"{text}."


def _line(contender: dict[str, Any]) -> dict[str, str]:
    distance = contender["relative_distance"]
    return {
        "name": contender["name"],
        "by": contender["by"],
        "truth": f"{contender['truth_error']:.4g}",
        "distance": f"{distance:.1e}" if distance else "best",
        "passes": "" if contender["passes"] is None else f"{contender['passes']:,}",
        "fit": f"{contender['seconds']['fit']:.2f}",
        "load": f"{contender['seconds']['load']:.2f}",
        "memory": format_size(contender["peak_memory"]),
    }


def _bars(contenders: list[dict[str, Any]], value: Any, form: Any) -> list[tuple[str, str, float]]:
    """Return (name, figure, share of the largest in percent)."""
    most = max(value(c) for c in contenders)
    return [(c["name"], form(value(c)), round(100 * value(c) / most, 2)) for c in contenders]
