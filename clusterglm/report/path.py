"""``path.html``: coefficients along the path and the cross-validated deviance, drawn from ``path.json`` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clusterglm.report import figures, words
from clusterglm.report.page import notes_of
from clusterglm.report.run import number
from clusterglm.units import format_duration

if TYPE_CHECKING:
    from bokeh.plotting import figure

_LONGEST = 20  # of a name beside its line
_MOST_LINES = 60  # columns whose coefficients are drawn, the largest


def render(found: dict[str, Any]) -> str:
    """Return the page of what ``clusterglm.path`` or ``clusterglm.cv`` found."""
    from bokeh.embed import components
    from bokeh.resources import Resources
    from bokeh.themes import Theme
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    plots = {"coefficients": _coefficients(found)}
    if found["folds"] is not None:
        plots["deviance"] = _deviance(found)
    script, divs = components(plots, theme=Theme(json=figures.THEME))
    environment = Environment(
        loader=PackageLoader("clusterglm.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )

    def source(name: str) -> Markup:
        assert environment.loader is not None
        return Markup(environment.loader.get_source(environment, name)[0])  # our own files  # noqa: S704

    return environment.get_template("path.html.j2").render(
        p=found,
        deck=f"{words.counted(found['rows'], 'row')}, {len(found['alpha'])} strengths of {found['penalty']}",
        cost=_cost(found),
        notes=notes_of(found),
        rows=[_line(found, k) for k in range(len(found["alpha"]))],
        plots={name: Markup(div) for name, div in divs.items()},  # noqa: S704
        css=source("report.css"),
        theme=source("theme.js"),
        bokeh=Markup(Resources(mode="inline", components=["bokeh"]).render()),  # noqa: S704
        script=Markup(script),  # bokeh escapes what it holds  # noqa: S704
    )


def _cost(found: dict[str, Any]) -> str:
    one, folds = found["one_fit"], found["folds"]
    models = len(found["alpha"]) * (1 if folds is None else 1 + folds)
    passes, seconds = found["passes"] / max(one["passes"], 1), found["seconds"] / max(one["seconds"], 1e-9)
    return (
        f"{words.count(models)} models took {words.counted(found['passes'], 'passes').removesuffix('s')} and "
        f"{format_duration(found['seconds'])}; one fit took {one['passes']} and {format_duration(one['seconds'])}: "
        f"{passes:.1f} times the passes and {seconds:.1f} times the time."
    ).replace("passe ", "passes ")


def _line(found: dict[str, Any], k: int) -> dict[str, Any]:
    mark = {found["best"]: "best", found["simplest"]: "simplest"}.get(k, "") if found["folds"] is not None else ""
    line = {
        "alpha": f"{found['alpha'][k]:.5g}",
        "nonzero": found["nonzero"][k],
        "explained": f"{found['deviance_explained'][k]:.4f}",
        "error": words.at_most(number(found["error_in_se"][k])),
        "mark": mark,
    }
    if found["folds"] is not None:
        line["cv"] = f"{found['cv_mean'][k]:.6g} ± {found['cv_error'][k]:.2g}"
    return line


def _coefficients(found: dict[str, Any]) -> figure:
    import numpy as np

    plot = figures.new_figure(320, "alpha", "coefficient", x_axis_type="log")
    values = np.array(found["coefficients"], dtype=float)
    order = np.argsort(-np.max(np.abs(values), axis=0), kind="stable")[:_MOST_LINES]
    colours = (figures.BLUE, figures.ORANGE, figures.GREEN, figures.RED, figures.GREY)
    for i, j in enumerate(order):
        # As many names as there are colours: of the columns with the largest coefficients.
        name = str(found["feature_names"][j])
        label = (
            {"legend_label": name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"} if i < len(colours) else {}
        )
        plot.line(found["alpha"], values[:, j], color=colours[i % len(colours)], line_width=1.5, **label)
    plot.add_layout(plot.legend[0], "above")
    plot.legend[0].orientation = "horizontal"
    return plot


def _deviance(found: dict[str, Any]) -> figure:
    import numpy as np

    plot = figures.new_figure(320, "alpha", "mean deviance of rows held out", x_axis_type="log")
    alpha, mean, error = (np.array(found[key], dtype=float) for key in ("alpha", "cv_mean", "cv_error"))
    plot.varea(alpha, mean - error, mean + error, color=figures.BLUE, alpha=0.2)
    plot.line(alpha, mean, color=figures.BLUE, line_width=2)
    for key, colour in (("best", figures.GREEN), ("simplest", figures.ORANGE)):
        figures.add_points(plot, [alpha[found[key]]], [mean[found[key]]], color=colour, size=10)
    return plot
