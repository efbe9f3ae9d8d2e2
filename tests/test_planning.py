"""A plan with its forecast, before a fit and beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import clusterglm
from clusterglm import planning
from clusterglm.data import chunks
from clusterglm.data.forecast import Speeds
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.errors import UsageError
from clusterglm.glm.solvers import SOLVERS
from clusterglm.request import Request
from clusterglm.scheduler import known_workers

ROWS = 200_000


@pytest.mark.parametrize("start", ["auto", "null"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", ["binomial", "gaussian"])
@pytest.mark.parametrize("tolerance", [{}, {"rel_gap": 1e-8}])
def test_the_passes_of_every_solver_are_foreseen(
    solver: str, family: str, start: str, tolerance: dict[str, Any]
) -> None:
    """Within a third, or two passes: whoever asks wants to know whether it will be five or fifty."""
    options = {"solver": solver, "family": family, "start": start, **tolerance}
    request = Request(rows=ROWS, **options)
    work = planning.expected_work(request, request.method, ROWS, 15)
    assert work is not None
    smooth = request.method.smooth_only
    fitted = clusterglm.fit(
        data=local_rows(Synthetic(ROWS, 15, family=family)), lamduh=None if smooth else 1.0, **options
    )
    assert fitted.status == "optimal"
    assert abs(work.passes + 1 - fitted.passes) <= max(2, fitted.passes / 3)


@pytest.mark.parametrize("solver", ["proximal_newton", "newton", "proximal_gradient", "admm"])
def test_what_a_start_saved_is_what_a_fit_from_the_null_model_takes(solver: str) -> None:
    data = local_rows(Synthetic(ROWS, 15))
    how: dict[str, Any] = {"data": data, "solver": solver, "family": "binomial", "penalty": "none", "rel_gap": 1e-8}
    found, null = (clusterglm.fit(start=start, **how) for start in ("auto", "null"))
    assert null.start_saved is None
    worth = found.start_saved
    assert worth is not None
    assert worth["passes"] == found.passes
    assert worth["saved"] == worth["foreseen_from_null"] - found.passes > 0
    assert abs(worth["foreseen_from_null"] - null.passes) <= max(2, null.passes / 3)
    optimum = found.objective - found.certificate["gap"]
    begun = (found.history["objective"][0] - optimum) / (found.null_objective - optimum)
    assert 0 < worth["distance"] < 0.01
    assert worth["distance"] == pytest.approx(begun, rel=1e-3)


def test_a_solver_from_a_file_has_no_pace(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def own(problem, start, stop, trace): ...\n")
    request = Request(rows=1000, solver=f"{tmp_path}/own.py:own")
    assert planning.expected_work(request, request.method, 1000, 15) is None


def test_speeds_of_this_machine_are_measured(tmp_path: Path) -> None:
    made = chunks.plan(solver="admm", rows=10**7, columns=16)
    request = Request(rows=10**7, intercept=True)
    speeds = planning.here(Synthetic(10**7), made, request.family_used, True)
    assert isinstance(speeds, Speeds)
    for seconds in (speeds.make, speeds.scan, speeds.gradient, speeds.hessian):
        assert 1e-10 < seconds < 1e-3


def test_a_disk_that_cannot_be_written_has_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit that needs it says so; a plan is no reason to end one."""
    monkeypatch.setattr(planning, "scratch", lambda: tmp_path / "rows")
    assert set(planning._disk()) == {"read", "write", "cached"}
    assert not list((tmp_path / "rows").iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setattr(planning, "scratch", lambda: tmp_path / "file" / "rows")
    assert planning._disk() == {}


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["memory", "stream", "disk"])
def test_a_fit_writes_the_forecast_beside_what_happened(tmp_path: Path, storage: str) -> None:
    found = clusterglm.fit(rows=ROWS, workers=2, memory="1GB", out=tmp_path / "run", storage=storage, solver="admm")
    assert found.storage == storage
    written = json.loads((tmp_path / "run" / "plan.json").read_text())
    for name in ("passes", "seconds_load", "seconds_fit", "seconds_per_pass", "peak_memory"):
        assert written[name] > 0
        assert written["measured"][name] > 0
    assert written["storage"] == storage
    assert written["speeds"]["measured"] is True
    assert written["speeds"]["readers"] == 2
    assert abs(written["passes"] - written["measured"]["passes"]) <= 2
    assert 0.5 < written["peak_memory"] / written["measured"]["peak_memory"] < 2


def test_a_worker_that_comes_while_speeds_are_measured_is_no_trouble(
    shared_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = chunks.plan(solver="admm", rows=10**5, columns=16, workers=1, threads=1, memory=10**9)
    first, *_ = known_workers(shared_client).items()
    monkeypatch.setattr(planning, "known_workers", lambda client: dict([first]))
    request = Request(rows=10**5, intercept=True)
    assert planning.on_workers(shared_client, Synthetic(10**5), made, request.family_used, True).measured


def test_hessians_for_which_this_machine_has_no_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = chunks.plan(solver="admm", rows=10**7, columns=1000)
    admm, newton = (SOLVERS[name] for name in ("admm", "proximal_newton"))
    assert planning.client_memory(admm, made) > made.local_problems * 1000**2 * 8
    assert planning.client_memory(newton, made) == 0
    # Of so many columns nobody forms a Hessian.
    assert planning.client_memory(admm, chunks.plan(solver="own", rows=10**6, columns=6000)) == 0
    monkeypatch.setattr(planning, "_free", lambda: 10**10)
    planning.refuse_client_memory(newton, made)
    line = (
        r"^admm: the Hessians of 1221 local problems of 1000 columns take .* GB of memory here, and 10.0 GB are free: "
    )
    with pytest.raises(UsageError, match=line):
        planning.refuse_client_memory(admm, made)
    with pytest.raises(UsageError, match=line):  # before any worker is started
        clusterglm.fit(rows=10**7, columns=1000, intercept=False, solver="admm", workers=1)


@pytest.mark.slow
def test_rows_of_an_earlier_fit_are_nobodys_memory(shared_client: Any, tmp_path: Path) -> None:
    """Workers keep freed memory; a plan counts it once, for the rows that will lie there."""
    said = []
    for name in ("first", "second"):
        clusterglm.fit(shared_client, rows=4 * 10**6, dtype="float32", solver="lbfgs", out=tmp_path / name)
        said.append(json.loads((tmp_path / name / "plan.json").read_text())["peak_memory"])
    assert said[1] < said[0] + 60e6  # of 136 MB a worker
