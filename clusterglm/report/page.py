"""``report.html``: one page that needs nothing but itself, drawn from the files of a run folder alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from clusterglm.errors import ClusterError
from clusterglm.report import words
from clusterglm.report.graph import draw_pass
from clusterglm.report.rounds import rounds
from clusterglm.report.run import Run, number, read_run
from clusterglm.units import format_duration, format_size

MOST_WORKERS = 24  # bars and rows of squares; more are summed up in words
MOST_SQUARES = 60
_SIBLINGS = ("performance-report.html", "task-stream.html", "result.json", "model.json", "plan.json")
_PHASES = (("plan", "#8b62c9"), ("load", "#1f9d78"), ("fit", "#3f78d8"), ("report", "#8a93a3"))


def write_report(folder: Path) -> Path:
    """Draw ``report.html`` in ``folder`` from its result, history, tasks and plan, and return the page's path.

    The page is written whole or not at all.

    Raises
    ------
    UsageError
        ``folder`` is not a run folder.
    DataError
        A file in it cannot be read.
    ClusterError
        The page cannot be written.
    """
    run = read_run(Path(folder))
    from clusterglm.run_folder import write_whole  # numpy and more, not needed to refuse a folder

    page = run.folder / "report.html"
    content = render(run).encode("utf-8", "replace")
    try:
        write_whole(page, content)
    except OSError as error:
        raise ClusterError(str(page), error.strerror, f"{format_size(len(content))} needed: write elsewhere") from None
    return page


def render(run: Run) -> str:
    """Return the page."""
    from bokeh.embed import components
    from bokeh.resources import Resources
    from bokeh.themes import Theme
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    from clusterglm.report import figures, stream

    drawn = stream.blocks(run.tasks)
    plots = {
        "gap": figures.gap(run),
        "error": figures.error(run),
        "coefficients": figures.coefficients(run),
        "against_truth": figures.against_truth(run),
        "stream": stream.stream(drawn),
        "throughput": figures.throughput(run),
    }
    plots = {name: plot for name, plot in plots.items() if plot is not None}
    script, divs = components(plots, theme=Theme(json=figures.THEME))
    environment = Environment(
        loader=PackageLoader("clusterglm.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )

    def source(name: str) -> Markup:
        assert environment.loader is not None
        return Markup(environment.loader.get_source(environment, name)[0])  # our own files  # noqa: S704

    says = _says(run, drawn)
    drawing = draw_pass(run.plan)
    graph = ""
    if drawing is not None:
        width = len(run.result["coefficients"]) + (run.result.get("intercept") is not None)
        graph = environment.get_template("pass.svg.j2").render(
            d=drawing,
            alt=says["pass"],
            solver=words.solver_name(run.result["solver"]),
            numbers=words.counted(width, "number"),
        )
    notes = notes_of(run.result)
    sections = [
        ("convergence", "Convergence"),
        ("coefficients", "Coefficients"),
        *([("inference", "Inference")] if run.result.get("inference") else []),
        *([("rounds", "Who answered when")] if run.result.get("asynchronous") else []),
        ("work", "The cluster at work"),
        ("layout", "The data on the cluster"),
        ("reproduce", "Reproduce"),
        ("table", "Table"),
    ]
    versions = run.result.get("versions") or {}
    return environment.get_template(
        "report.html.j2"
    ).render(
        r=run.result,
        again=run.result.get("command") or words.call(run.result),
        folder=run.folder.resolve().name,
        title=words.title(run.result),
        started=str(run.result.get("started") or "")[:19].replace("T", " ")
        + (" UTC" if run.result.get("started") else ""),
        deck=_deck(run.result),
        status=words.status(run.result),
        proof=words.proof(run.result),
        asked=words.asked(run.result),
        tiles=_tiles(run),
        sections=([("notes", "Warnings and notes")] if notes else []) + sections,
        notes=notes,
        says=says,
        plots={name: Markup(div) for name, div in divs.items()},  # noqa: S704
        keys=stream.legend(drawn)[:12],
        spent=_spent(run.result),
        memory=_memory(run.result),
        spread=_spread(run.result),
        reasons=run.plan.get("reasons") or [],
        pass_=Markup(graph),  # autoescaped above  # noqa: S704
        forecast=_forecast(run),
        facts=_facts(run),
        versions=sorted(versions.items()),
        version=versions.get("clusterglm", ""),
        links=[name for name in _SIBLINGS if (run.folder / name).is_file()],
        known=bool(run.result.get("truth")),
        table=_table(run.result),
        inference=_inference(run.result),
        rounds=rounds(run.result),
        css=source("report.css"),
        theme=source("theme.js"),
        bokeh=Markup(Resources(mode="inline", components=["bokeh"]).render()),  # noqa: S704
        script=Markup(script),  # bokeh escapes what it holds  # noqa: S704
    )


def _deck(result: dict[str, Any]) -> str:
    size = f"{words.counted(result['rows'], 'row')} × {words.counted(result['columns'], 'column')}"
    workers = result.get("workers")
    where = f"on {words.counted(workers, 'worker')}" if workers else "in this process"
    return f"{size}, {words.model(result)}, {where}."


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Return (name, figure, what stands below it)."""
    r = run.result
    seconds = r.get("seconds") or {}
    fit = number(seconds.get("fit"))
    speed = r["rows"] * r["passes"] / fit if fit > 0 else math.nan
    flow = words.bytes_per_pass(run) * r["passes"] / fit if fit > 0 else math.nan
    memory = r.get("memory") or {}
    peak, limit = number(memory.get("peak")), number(memory.get("limit"))
    blas = r.get("blas_threads")
    tiles = [
        ("rows", words.count(r["rows"]), f"{words.counted(r['columns'], 'column')} of {r.get('dtype') or 'float64'}"),
        (
            "fit",
            format_duration(fit) if math.isfinite(fit) else "not known",
            f"after {format_duration(number(seconds['load']))} of loading" if seconds.get("load") is not None else "",
        ),
        (
            "passes over the data",
            words.count(r["passes"]),
            words.counted(r["iterations"], "iteration") if r.get("iterations") else "",
        ),
        ("rows a second", words.large(speed), "every pass counted"),
        (
            "data rate",
            f"{format_size(flow)}/s" if math.isfinite(flow) else "not known",
            f"{format_size(words.bytes_per_pass(run))} a pass",
        ),
    ]
    if math.isfinite(peak):
        aside = f"of {format_size(limit)}, the fullest worker" if limit > 0 else "the fullest worker"
        tiles.append(("peak memory", format_size(peak), aside))
    if r.get("workers"):
        tiles.append(
            (
                "workers",
                words.count(r["workers"]),
                f"{words.counted(r['threads'], 'thread')} in all" if r.get("threads") else "",
            )
        )
    if blas is not None:
        tiles.append(
            ("BLAS threads", str(blas), "as it should be" if blas == 1 else "1 is wanted: threads fight for the cores")
        )
    if r.get("truth_error") is not None:
        tiles.append(
            ("off the generating coefficients", words.short(number(r["truth_error"])), "the largest difference")
        )
    if r.get("cost") is not None:
        tiles.append(("cost", f"${number(r['cost']):.2f}", "for the machines' time"))
    return tiles


def notes_of(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (kind, text), warnings first."""
    found = []
    for note in result.get("notes") or []:
        kind, _, text = str(note).partition(": ")
        found.append((kind, text) if kind in ("warning", "note") else ("note", str(note)))
    if result.get("columns_dropped"):
        dropped = ", ".join(str(name) for name in result["columns_dropped"])
        found.append(("note", f"columns left out: {dropped}"))
    return sorted(found, key=lambda entry: entry[0] != "warning")


def _says(run: Run, drawn: Any) -> dict[str, str]:
    """Return the sentence beside each figure, which is also its text for those who do not see it."""
    r, tasks = run.result, run.tasks
    certificate = r["certificate"]
    gap, relative, error, kkt = (number(certificate.get(key)) for key in ("gap", "relative_gap", "error_in_se", "kkt"))
    iterations = words.counted(r.get("iterations") or len(run.history["passes"]), "iteration")
    passes = "1 pass" if r["passes"] == 1 else f"{words.count(r['passes'])} passes"
    says = {"convergence": f"{iterations} took {passes} over the data."}
    says["gap"] = (
        f"At the end the proven gap is {words.at_most(gap)}, {words.at_most(relative)} of the null model's objective;"
        f" it comes {words.method(r)}."
        if math.isfinite(gap)
        else "No bound on the gap was proven; shown is the distance of each objective to the last one."
    )
    says["error"] = (
        "An error of 0.01 standard errors is invisible beside the noise in the data. "
        f"At the end: bound {words.at_most(error)}, optimality residual {words.short(kkt, 2)}."
    )
    values = r["coefficients"]
    zeros = sum(value == 0 for value in values)
    says["coefficients"] = words.counted(len(values), "coefficient")
    says["coefficients"] += f", {words.count(zeros)} of them exactly zero" if zeros else ""
    if r.get("truth_error") is not None:
        says["coefficients"] += (
            f"; the farthest lies {words.short(number(r['truth_error']))} from the one that generated the data"
        )
    says["coefficients"] += "."
    total, shown = int(r.get("tasks") or len(tasks["start"])), len(tasks["start"])
    lanes = words.counted(len(drawn.lanes), "worker thread")
    says["stream"] = f"{words.counted(total, 'task')} on {lanes}; the gaps are idle time."
    if r.get("tasks_dropped"):
        says["stream"] += f" The scheduler had forgotten the first {words.count(r['tasks_dropped'])} of them."
    if drawn.joined_below:
        says["stream"] += (
            f" {words.count(shown)} intervals are drawn as {words.count(len(drawn.name))} blocks:"
            f" neighbours of one name closer than {format_duration(drawn.joined_below)} are joined."
        )
    if drawn.left_out:
        says["stream"] += f" The {words.count(drawn.left_out)} shortest are left out."
    says["throughput"] = (
        "Rows read in a second, a bar for each iteration; a wide bar is an iteration of several passes."
    )
    chunks = int(run.plan.get("chunks") or 0)
    which = "The chunk" if chunks == 1 else f"Each of the {words.count(chunks)} chunks"
    says["pass"] = (
        f"{which} is summed where it lies, by one task for all chunks of a worker thread; the sums are added along a"
        " fixed tree, and the solver turns them into new coefficients, which travel back with the next tasks."
    )
    return says


def _spent(result: dict[str, Any]) -> list[tuple[str, str, float, str]]:
    seconds = {name: number((result.get("seconds") or {}).get(name)) for name, _ in _PHASES}
    return [
        (name, format_duration(seconds[name]), round(max(seconds[name], 1e-3), 3), colour)
        for name, colour in _PHASES
        if seconds[name] >= 0
    ]


def _memory(result: dict[str, Any]) -> dict[str, Any] | None:
    """Return a bar for each worker, the fullest first."""
    memory = result.get("memory") or {}
    workers, limit = memory.get("worker") or {}, number(memory.get("limit"))
    if not workers:
        return None
    whole = limit if limit > 0 else max(workers.values())
    ranked = sorted(workers.items(), key=lambda item: -item[1])
    rows = [
        (
            words.place(name),
            f"{format_size(peak)} of {format_size(limit)}" if limit > 0 else format_size(peak),
            round(min(100.0, 100 * peak / whole), 1),
        )
        for name, peak in ranked[:MOST_WORKERS]
    ]
    hidden = len(ranked) - len(rows)
    more = (
        f"And {words.count(hidden)} more workers, each below {format_size(ranked[MOST_WORKERS][1])}." if hidden else ""
    )
    return {"rows": rows, "more": more}


def _spread(result: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row of squares for each worker, as many as it holds chunks, or one for several."""
    chunks = result.get("chunks") or {}
    spread = chunks.get("spread") or {}
    if not spread:
        return None
    per = max(1, -(-max(spread.values()) // MOST_SQUARES))
    ordered = sorted(spread.items())
    rows = [(words.place(name), words.counted(held, "chunk"), -(-held // per)) for name, held in ordered[:MOST_WORKERS]]
    square = "one chunk" if per == 1 else f"{per} chunks"
    size = words.counted(chunks.get("rows") or 0, "row")
    say = f"{words.counted(sum(spread.values()), 'chunk')} of {size}; a square is {square}."
    if len(ordered) > len(rows):
        rest = [held for _, held in ordered[MOST_WORKERS:]]
        say += f" And {words.count(len(rest))} more workers with {min(rest)} to {max(rest)} chunks."
    return {"rows": rows, "say": say}


def _forecast(run: Run) -> list[tuple[str, str, str]]:
    """Return (quantity, planned, measured), where at least one is known."""
    r, plan = run.result, run.plan
    measured, seconds = plan.get("measured") or {}, r.get("seconds") or {}

    def told(value: Any, form: Any) -> str:
        return form(value) if value is not None else "–"

    rows = [
        ("chunks", told(plan.get("chunks"), words.count), told((r.get("chunks") or {}).get("count"), words.count)),
        (
            "tasks",
            told(plan.get("tasks_per_pass"), lambda n: f"{words.count(n)} a pass"),
            told(r.get("tasks"), lambda n: f"{words.count(n)} in all"),
        ),
        (
            "memory of the fullest worker",
            told(plan.get("peak_memory"), format_size),
            told(measured.get("peak_memory", (r.get("memory") or {}).get("peak")), format_size),
        ),
        ("passes", told(plan.get("passes"), words.count), told(measured.get("passes", r["passes"]), words.count)),
        (
            "seconds of loading",
            told(plan.get("seconds_load"), format_duration),
            told(measured.get("seconds_load", seconds.get("load")), format_duration),
        ),
        (
            "seconds a pass",
            told(plan.get("seconds_per_pass"), format_duration),
            told(measured.get("seconds_per_pass"), format_duration),
        ),
        (
            "seconds of fitting",
            told(plan.get("seconds_fit"), format_duration),
            told(measured.get("seconds_fit", seconds.get("fit")), format_duration),
        ),
    ]
    return [row for row in rows if row[1] != "–" or row[2] != "–"] if plan else []


def _inference(result: dict[str, Any]) -> dict[str, Any] | None:
    """Return the table of standard errors, tests and intervals, and what stands beside it."""
    found = result.get("inference")
    if not found:
        return None
    columns = ("estimate", "standard_error", "statistic", "p_value", "low", "high")
    cells = [[words.short(number(v), 5) for v in found[column]] for column in columns]
    rows = [[str(name), *row] for name, *row in zip(found["names"], *cells, strict=True)]
    tail = (1 - number(found["level"])) / 2
    facts = [
        ("observations", f"{number(found['observations']):,.0f}"),
        ("residual degrees of freedom", f"{number(found['df_residual']):,.0f}"),
        ("covariance", found["method"]),
        ("dispersion", words.short(number(found["dispersion"]), 6)),
        ("log-likelihood", words.short(number(found["log_likelihood"]), 8)),
        ("deviance", words.short(number(found["deviance"]), 8)),
        ("null deviance", words.short(number(found["null_deviance"]), 8)),
        ("Pearson chi2", words.short(number(found["pearson"]), 8)),
        ("AIC", words.short(number(found["aic"]), 8)),
        ("BIC", words.short(number(found["bic"]), 8)),
        ("pseudo R-squared (Cox and Snell)", words.short(number(found["pseudo_r2"]), 4)),
    ]
    head = ["estimate", "std err", found["kind"], f"P>|{found['kind']}|", f"{tail:.3g}", f"{1 - tail:.3g}"]
    return {"head": head, "rows": rows, "facts": facts}


def _facts(run: Run) -> list[tuple[str, str]]:
    r = run.result
    certificate, asked = r["certificate"], r.get("request") or {}
    facts = [
        ("data", asked.get("data")),
        ("target", asked.get("target")),
        ("weights", asked.get("weights")),
        ("offset", asked.get("offset")),
        ("solver", words.solver_name(r["solver"])),
        ("model", f"{r['family']}, {words.model(r)}"),
        ("penalised", "the coefficients of the standardised columns" if asked.get("standardize") else None),
        ("objective", words.short(number(r.get("objective")), 12)),
        ("objective of the null model", words.short(number(r.get("null_objective")), 12)),
        ("certified gap", words.at_most(number(certificate.get("gap")))),
        ("how it was proven", words.method(r)),
        ("optimality residual", f"{words.short(number(certificate.get('kkt')), 3)} standard errors"),
        ("stopping rule", words.asked(r)),
        ("started from", words.start(r)),
        ("rows held in", r.get("storage")),
        ("numbers", r.get("dtype")),
        ("seed", r.get("seed")),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _table(result: dict[str, Any]) -> list[dict[str, Any]]:
    truth = result.get("truth") or []
    rows = []
    if result.get("intercept") is not None:
        rows.append({"name": "(intercept)", "estimate": f"{result['intercept']:.8g}", "truth": "", "difference": ""})
    for i, (name, value) in enumerate(zip(result["feature_names"], result["coefficients"], strict=True)):
        row = {"name": str(name), "estimate": f"{value:.8g}", "zero": value == 0, "truth": "", "difference": ""}
        if i < len(truth):
            row |= {"truth": f"{truth[i]:.8g}", "difference": f"{value - truth[i]:+.2e}"}
        rows.append(row)
    return rows
