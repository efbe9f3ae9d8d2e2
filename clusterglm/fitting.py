"""A fit from end to end: load -> chunks -> solve -> certify -> report, given a client or in a cluster of its own.

The module is not called ``fit``, because ``clusterglm.fit`` is the function.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterglm import groups
from clusterglm.data import chunks
from clusterglm.data.chunk import one_blas_thread
from clusterglm.data.columns import rounded
from clusterglm.data.files import location
from clusterglm.data.rows import Here, Rows
from clusterglm.errors import ClusterError, ClusterglmError, DataError, Interrupted, UsageError, quoted
from clusterglm.glm.fit import fit as fit_rows
from clusterglm.glm.model import Fit
from clusterglm.glm.problem import OtherRows, Problem, Recorded
from clusterglm.glm.sample import Drawn
from clusterglm.glm.start import Look, look, look_at_fit
from clusterglm.here import fit_here, rows_from_python
from clusterglm.options import checked
from clusterglm.progress import Progress, Silent
from clusterglm.request import CLASSES, Request
from clusterglm.result import Result
from clusterglm.run_folder import RunFolder, claim, load_checkpoint, shell_word, versions, write_data, write_run
from clusterglm.signals import interruptible
from clusterglm.solving import solve
from clusterglm.units import format_duration

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.data.collections import Collections
    from clusterglm.data.sources import Source

AskFor = Callable[[int], object]
_WORTH_MENTIONING = 5.0  # seconds


def fit(
    client: Client | None = None,
    *,
    data: Any = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    threads_per_worker: int | None = None,
    memory: int | None = None,
    timeout: float | None = None,
    ask_for: AskFor | None = None,
    most_workers: int | None = None,
    hourly: float | None = None,
    progress: Progress | None = None,
    command: str | None = None,
    **options: Any,
) -> Result:
    """Fit a generalized linear model and return the result that ``clusterglm fit`` writes.

    Parameters
    ----------
    client : distributed.Client, optional
        The cluster. Without one, a LocalCluster of ``workers`` processes is started and ended; a script must then call
        ``fit`` under ``if __name__ == "__main__":``.
    data : path, frame, dict, tuple or LocalRows, optional
        Files to read on the workers. A frame or a dict of columns in which ``target``, ``features``, ``weights`` and
        ``offset`` are names; or a tuple (X, y[, weights[, offset]]) of arrays, X (rows, features), the others (rows,).
        What is of Dask is made on the workers by its own graph; what is of pandas and numpy, and rows of
        ``clusterglm.from_arrays``, is fitted in this process, without a cluster.
    out : path, optional
        A run folder to write; without one nothing is written.
    resume : path, optional
        The run folder of an interrupted fit, to be finished with the same bits.
    overwrite : bool
        Replace the run that ``out`` holds.
    workers, threads_per_worker, memory : int, optional
        Of the cluster that is started where there is no client; memory in bytes per worker.
    timeout : float, optional
        Seconds in which its workers must arrive.
    ask_for : callable, optional
        Brings the cluster's workers (back) to a number; for clients of clusters that can.
    hourly : float, optional
        Dollars that an hour of the cluster costs.
    most_workers : int, optional
        The most that it is asked for, as far as there are chunks for them; by default as many as there are now.
    progress : Progress, optional
    command : str, optional
        How to run this again, for the report.
    **options
        The fields of ``clusterglm.request.Request``: solver, rows, columns, seed, target, features, categorical,
        weights, offset, missing, family, link, power, theta, penalty, alpha, lamduh, l1_ratio, penalty_factors,
        bounds, penalty_groups, summary, covariance, groups, weights_are, level, intercept, standardize, dtype, storage,
        chunk_rows, tol, rel_gap, max_passes, start.

    Raises
    ------
    UsageError, DataError, ClusterError
        What was refused, before anything was left behind.
    Interrupted
        Ctrl-C; ``resumable`` says that ``out`` holds a checkpoint.
    """
    return conduct(  # type: ignore[no-any-return]
        _Fitting,
        fit_here,
        client,
        data=data,
        out=out,
        resume=resume,
        overwrite=overwrite,
        workers=workers,
        threads_per_worker=threads_per_worker,
        memory=memory,
        timeout=timeout,
        ask_for=ask_for,
        most_workers=most_workers,
        hourly=hourly,
        progress=progress,
        command=command,
        **options,
    )


def conduct(
    make: Callable[..., _Fitting],
    here: Callable[[Here, dict[str, Any], Progress], Any],
    client: Client | None,
    *,
    data: Any,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    threads_per_worker: int | None = None,
    memory: int | None = None,
    timeout: float | None = None,
    ask_for: AskFor | None = None,
    most_workers: int | None = None,
    hourly: float | None = None,
    progress: Progress | None = None,
    command: str | None = None,
    **options: Any,
) -> Any:
    """Return what ``here`` makes of rows in this process, or ``make(...).run()`` on a cluster; the rest as ``fit``."""
    options = checked(options)
    source: Collections | None = None
    if data is not None and not isinstance(data, str | Path):
        found = rows_from_python(data, options)
        if not isinstance(found, Here):
            source, options["data"] = found, found.label
            if isinstance(data, tuple):
                options["target"] = "y"
        else:
            elsewhere = {"client": client, "out": out, "resume": resume, "workers": workers, "memory": memory}
            for name, value in elsewhere.items():
                if value is not None:
                    raise UsageError(name, None, "has no effect on rows in this process: leave it out")
            return here(found, options, progress or Silent())
    elif data is not None:
        options["data"] = str(data)
    journal, saved = load_checkpoint(Path(resume)) if resume is not None else ([], {})
    if saved:
        if source is None:
            from clusterglm.data.from_python import LABELS

            if (label := saved["request"].get("data")) in LABELS:
                raise UsageError("--resume", resume, f"made with {label} from Python: give the same data again")
        given = {name for name, value in options.items() if value is not None}
        if "solver" not in given and ":" in (own := str(saved["request"].get("solver"))):
            # A checkpoint is data: it names no program to run that its reader has not named too.
            raise UsageError("--resume", resume, f"made with a solver of its own: name {own} too")
        known = Request(**saved["request"])
        request = (replace(known, **{n: options[n] for n in given})).resumed_from(saved["request"], given, resume)
    else:
        request = Request(**options)
    if request.data is not None and source is None:
        location(request.data)  # which refuses a URL that cannot be read
    if client is None:
        from clusterglm.clusters.embedded import shape

        request.check_memory(*shape(workers, threads_per_worker, memory))
    folder: contextlib.AbstractContextManager[RunFolder | None] = contextlib.nullcontext()
    if resume is not None or out is not None:
        folder = claim(Path(resume or out or ""), resume=resume is not None, overwrite=overwrite)
    progress = progress or Silent()
    with interruptible(), folder as run:
        try:
            with contextlib.ExitStack() as stack:
                if client is None:
                    from clusterglm.clusters.embedded import embedded

                    progress.phase("starting a local cluster")
                    client, ask_for = stack.enter_context(embedded(workers, threads_per_worker, memory, timeout))
                fitting = make(request, client, ask_for, run, progress, journal, saved, command, source)
                fitting.most_workers, fitting.hourly = most_workers, hourly
                try:
                    return fitting.run()
                except Exception as error:  # while the client still says how its cluster is
                    lost = _lost(error, client) or error
                    if isinstance(lost, ClusterError) and run is not None and run.resumable:
                        lost = ClusterError(lost.what, lost.value, f"{lost.cure}: {_again(request, run)}")
                    if lost is error:
                        raise
                    raise lost from error
        except KeyboardInterrupt:
            if run is not None and run.resumable:
                raise Interrupted("interrupted", None, f"go on with: {_again(request, run)}", resumable=True) from None
            raise Interrupted("interrupted") from None


def _lost(error: Exception, client: Client) -> ClusterError | None:
    """Return the error of a fit whose cluster or environment failed it; None for any other."""
    if isinstance(error, ClusterError):
        return error
    if isinstance(error, ClusterglmError):
        return None
    address = client.scheduler.address if client.scheduler else None  # a closed client has none
    if isinstance(error, RuntimeError) and "deserialization of the task graph" in str(error):  # Dask's own words
        cure = "it cannot read our tasks: install the same versions of clusterglm and its libraries there"
        return ClusterError("cluster", address, cure)
    if client.status == "running":
        from distributed.comm import CommClosedError

        if isinstance(error, CommClosedError):
            return ClusterError("cluster", address, "a worker died while it was asked how it is: try again")
        return None
    # Whatever was asked of the scheduler when it went: each call has its own words for that.
    return ClusterError("cluster", address, "the scheduler is gone")


def _again(request: Request, run: RunFolder) -> str:
    """Return the command that goes on from the checkpoint, on one line whatever the folder is called."""
    own = [shell_word(request.solver)] if ":" in request.solver else []
    return " ".join(["clusterglm fit", *own, "--resume", shell_word(run.path)])


class _Fitting:
    """One fit on one cluster."""

    def __init__(
        self,
        request: Request,
        client: Client,
        ask_for: AskFor | None,
        run: RunFolder | None,
        progress: Progress,
        journal: Sequence[Recorded],
        saved: dict[str, Any],
        command: str | None,
        source: Collections | None,
    ) -> None:
        self.request, self.client, self.ask_for, self.folder = request, client, ask_for, run
        self.progress, self.journal, self.saved, self.command = progress, journal, saved, command
        self.source = source
        self.problem: Problem | None = None
        self.most_workers: int | None = None
        self.hourly: float | None = None
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    def run(self) -> Result:
        from clusterglm.clusters import workers as measured

        with self.timed("plan"):
            blas = max(measured.limit_blas(self.client).values(), default=1)
            if blas > 1:
                self.note(f"warning: BLAS ran {blas} threads on the workers: set to 1 for this fit")
                blas = max(measured.blas_threads(self.client).values(), default=1)
            source = self.open()
            columns = len(source.names) + self.request.model.intercept
            self.solver = self.request.chosen(columns)
            for text in self.request.notes(columns):
                self.note(text)
            plan = self.plan(source, columns)
        with self.captured(source) as seen:
            fitted, rows, spread = self.solve(source, plan)
        for text in [*fitted.notes, *seen.notes]:
            self.note(text)
        for text in rows.troubles:
            self.note(f"note: a round was tried again: {text}")
        found = measured.workers(self.client)
        peak = measured.peak_memory(self.client)
        result = Result.of(
            self.request,
            fitted,
            groups.names(source.names, source.coding, self.request.groups),
            plan.rows,
            self.seconds,
            notes=self.notes,
            nbytes=plan.bytes,
            truth=source.truth,
            **groups.coding(source.coding, self.request.groups),
            chunks={"count": plan.chunks, "rows": plan.chunk_rows, "spread": spread},
            tasks=rows.tasks,
            tasks_dropped=seen.tasks_dropped,
            workers=len(found),
            threads=sum(worker.threads for worker in found),
            blas_threads=blas,
            storage=plan.storage,
            memory={"limit": plan.memory, "peak": max(peak.values(), default=0), "worker": peak},
            seed=self.request.seed if self.request.rows is not None else None,
            resumed=bool(self.saved),
            command=self.command,
            started=self.started,
            cost=None if self.hourly is None else self.hourly * sum(self.seconds.values()) / 3600,
        )
        if self.folder is not None:
            write_run(self.folder, result, self.planned(plan))
        return result

    def open(self) -> Source:
        """Open the data on the workers; a resumed fit must find what it left."""
        from clusterglm.data.sources import open_source
        from clusterglm.data.synthetic import Synthetic

        request = self.request
        source: Source
        if request.row_count is not None:
            source = Synthetic(request.row_count, request.columns, request.seed, request.family_used.name)
        else:
            assert request.data is not None
            assert request.target is not None
            self.progress.phase(f"looking at {quoted(request.data)}")
            source = self.source or open_source(
                request.data,
                request.target,
                request.columns_read,
                request.weights,
                request.offset,
                request.categorical or (),
                request.missing,
                request.family == CLASSES,
            )
        source.open(self.client)
        for text in source.notes:
            self.note(text)
        self.fingerprint = {"data": source.fingerprint(), "request": request.options(), "version": versions()}
        if self.saved and self.saved["data"] != self.fingerprint["data"]:
            raise self.other_data()
        return source

    def other_data(self) -> UsageError:
        assert self.folder is not None
        return UsageError("--resume", self.folder.path, "made with other data: start again with a new --out")

    def plan(self, source: Source, columns: int) -> chunks.Plan:
        from clusterglm import planning
        from clusterglm.clusters import workers as measured
        from clusterglm.data.disk import FOLDER
        from clusterglm.data.forecast import typical
        from clusterglm.data.synthetic import Synthetic

        found = measured.workers(self.client)
        plan = chunks.plan(
            solver=self.solver.name,
            rows=source.rows,
            columns=columns,
            dtype=self.request.dtype,
            storage=self.request.storage,
            workers=max(len(found), 1),
            threads=max(sum(worker.threads for worker in found), 1),
            memory=min((worker.memory for worker in found), default=0),
            disk=measured.free_disk(self.client, FOLDER),
            chunk_rows=self.request.rows_per_chunk,
            extra_columns=source.extra_columns,
            data=self.request.data,
            stored=source.stored,
        )
        planning.refuse_client_memory(self.solver, plan)
        for reason in plan.reasons:
            if reason.startswith(("note:", "warning:")):
                self.note(reason)
        model, classes = self.request.model, source.coding.get("classes")
        family = model.family if classes is None else replace(model.family, classes=len(classes))  # type: ignore[call-arg]
        # What Dask is to make may be dear, and is made once: the kernels are measured on other rows of this shape.
        shape = Synthetic(plan.rows, len(source.names), family=model.family.name)
        probed = source if self.source is None else shape
        speeds = planning.on_workers(self.client, probed, plan, family, model.intercept)
        if self.source is not None:
            speeds = speeds._replace(make=typical(plan.columns, generated=False).make)
        self.speeds, self.forecast = speeds, planning.planned(self.request, self.solver, plan, speeds)
        return plan

    def solve(self, source: Source, plan: chunks.Plan) -> tuple[Fit, Any, dict[str, int]]:
        from clusterglm.data.dask_rows import DaskRows

        make = source.make(plan, self.request.model.intercept)
        names = groups.names(source.names, source.coding, self.request.groups)
        rows = DaskRows(
            self.client, make, plan, source.locate, self.ask_for, self.progress.rows, most=self.most_workers
        )
        try:
            with self.timed("load"):
                expected = _about(self.forecast.seconds_load)
                self.progress.phase(f"loading {plan.rows:,} rows in {plan.chunks} chunks{expected}")
                rows.load()
                # Bad values are refused before anything is fitted.
                seen = self.look(source, plan, groups.model_rows(rows, source.names, names))
            target = self.request.target or "y"
            sizes = dict(zip(names, seen.scan.magnitude[-len(names) :], strict=True))
            sizes[target] = max(-seen.scan.target_smallest, seen.scan.target_largest)
            for text in rounded({name: sizes[name] for name in source.whole if name in sizes}):
                self.note(text)
            spread = rows.spread()
            with self.timed("fit"), one_blas_thread():
                self.progress.phase(f"fitting by {self.solver.name}{_about(self.forecast.seconds_fit)}")
                try:
                    fitted = self.fit(rows, source, names, target, seen)
                except OtherRows as error:
                    raise self.other_data() from error
            self.checkpoint_now()
            if fitted.status == "interrupted" and self.folder is not None:
                told = {"notes": self.notes, "nbytes": plan.bytes, **groups.coding(source.coding, self.request.groups)}
                result = Result.of(self.request, fitted, names, plan.rows, self.seconds, **told)
                # No pages: whoever pressed Ctrl-C does not wait for them.
                write_data(self.folder, result, self.planned(plan))
                raise KeyboardInterrupt
            return fitted, rows, spread
        except KeyboardInterrupt:
            self.checkpoint_now()
            raise
        finally:
            self.problem = None  # which knows this object, and would be in memory until the garbage collector looks
            rows.close()

    def fit(self, rows: Any, source: Source, names: list[str], target: str, seen: Look) -> Fit:
        return solve(
            rows, source.names, names, self.request, self.progress, self.journal, self.checkpoint, target, seen
        )

    def look(self, source: Source, plan: chunks.Plan, rows: Rows) -> Look:
        """Return the first look at the rows, with what is at the fit of a sample where there is one beforehand."""
        from clusterglm import planning

        model = self.request.model
        if count := planning.sampled_before(self.request, plan.rows, plan.columns):
            drawn = Drawn((source.first(count, plan.dtype, model.intercept),))  # type: ignore[attr-defined]
            return look_at_fit(rows, source.names, model, self.solver, drawn, fit_rows)
        return look(rows, model, plan.columns, self.request.start)

    def planned(self, plan: chunks.Plan) -> dict[str, Any]:
        """Return the plan and its forecast, fit for JSON."""
        return plan.as_dict() | asdict(self.forecast) | {"speeds": self.speeds._asdict()}

    def checkpoint(self, problem: Problem) -> None:
        self.problem = problem
        # The first look alone is saved when a signal comes: a checkpoint removes the run that is overwritten.
        if self.folder is not None and problem.passes > 1:
            self.folder.save(problem.journal, self.fingerprint)

    def checkpoint_now(self) -> None:
        if self.folder is not None and self.problem is not None:
            self.folder.save(self.problem.journal, self.fingerprint, now=True)

    @contextlib.contextmanager
    def captured(self, source: Source) -> Iterator[Any]:
        """Record what the cluster does, for the report; nothing to record without a run folder."""
        from clusterglm.report.capture import Capture, capture

        if self.folder is None:
            yield Capture()
            return
        what = self.command or f"clusterglm.fit(solver={self.request.solver!r}, ...)"
        with capture(self.client, self.folder.path, f"{what}\n{source.rows:,} rows") as seen:
            yield seen
        self.seconds["report"] = seen.seconds

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - began

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.progress.note(text)


def _about(seconds: float | None) -> str:
    """Return the words for a time that is worth mentioning."""
    return "" if seconds is None or seconds < _WORTH_MENTIONING else f", about {format_duration(seconds)}"


__all__ = ["DataError", "Progress", "fit"]
