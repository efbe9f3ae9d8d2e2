"""Starts from a sample: which rows are drawn, and what the answer owes to them: nothing."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clusterglm
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm import kernels
from clusterglm.glm import start as start_module
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.kernels import Piece, in_share
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.penalties import elastic_net
from clusterglm.glm.problem import Problem
from clusterglm.glm.sample import Drawn, SampleRows, draw, hessian_every, sample_rows
from clusterglm.glm.scan import scan
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.start import look_at_fit, null_intercept, null_loss, sample_start
from clusterglm.glm.trace import Tolerance


def piece(start: int, stop: int) -> Piece:
    index = np.arange(start, stop, dtype=float)
    return Piece(np.column_stack([index, -index]), index, index + 1, None, start)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4999), max_size=6), st.integers(1, 6000))
def test_the_same_rows_are_drawn_however_they_are_cut(cuts: list[int], stretch: int) -> None:
    edges = sorted({0, 5000, *cuts})
    parts = [draw(piece(a, b), stretch)[0] for a, b in itertools.pairwise(edges)]
    together = parts[0]
    for part in parts[1:]:
        together = together + part
    whole = draw(piece(0, 5000), stretch)[0]
    ours, theirs = SampleRows(together), SampleRows(whole)
    assert ours.rows == theirs.rows
    if ours.rows:
        carried = pickle.loads(pickle.dumps(together))
        assert len(carried.pieces) == 1
        np.testing.assert_array_equal(carried.pieces[0].X, ours._blocks[0].X)
        for a, b in zip(ours._blocks, theirs._blocks, strict=True):
            np.testing.assert_array_equal(a.X, b.X)
            np.testing.assert_array_equal(a.weights, b.y + 1)
    assert ours.rows in (5000 // stretch, -(-5000 // stretch))


@pytest.mark.parametrize(
    ("rows", "columns", "count"),
    [
        (8_000_000, 15, 30_000),
        (8_000_000, 1, 2000),
        (10**9, 100, 41943),
        (10_000, 15, 500),
        (5000, 15, 0),
        (10**9, 4000, 0),
    ],
)
def test_how_many_rows_are_drawn(rows: int, columns: int, count: int) -> None:
    assert sample_rows(rows, columns) == count


def test_sums_over_a_sample_are_sums_over_its_rows() -> None:
    sample = SampleRows(draw(piece(0, 50_000), 2)[0])
    assert len(sample._blocks) > 1
    beta = np.array([1e-5, 2e-5])
    got = sample.sum(kernels.hessian, FAMILIES["gaussian"], beta)
    X, y, w = (np.concatenate([getattr(b, name) for b in sample._blocks]) for name in ("X", "y", "weights"))
    residual = X @ beta - y
    np.testing.assert_allclose(got[0], w @ (residual**2) / 2)
    np.testing.assert_allclose(got[1], X.T @ (w * residual))
    np.testing.assert_allclose(got[2], (X * w[:, None]).T @ X)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("weights", "offset"), [(False, False), (True, True)])
def test_a_sample_is_a_better_start_and_changes_no_answer(
    make_table: Any, family: str, solver: str, weights: bool, offset: bool
) -> None:
    table = make_table(family, 8000, 4, 3, weights=weights, offset=offset)
    penalty = "l2" if SOLVERS[solver].smooth_only else "elastic-net"
    model = Model(FAMILIES[family], penalty, 0.02)
    found = {
        start: fit(table.rows(512, 1024), table.names, model, SOLVERS[solver], Limits(Tolerance(1e-7), start=start))
        for start in ("auto", "null")
    }
    sampled, null = found["auto"], found["null"]
    assert (null.start, sampled.start[:6]) == ("null model", "fit on")
    assert sampled.status == null.status == "optimal"
    np.testing.assert_allclose(sampled.coefficients, null.coefficients, atol=1e-8)
    assert sampled.null_objective == pytest.approx(null.null_objective, rel=1e-9)
    assert sampled.iterations[0].point.objective < null.iterations[0].point.objective


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("offset", [False, True])
def test_the_loss_of_the_null_model_without_its_pass(make_table: Any, family: str, offset: bool) -> None:
    table = make_table(family, 300, 2, weights=True, offset=offset)
    if family == "binomial":
        table.y[:40] = 0.3
    rows, model = table.rows(), Model(FAMILIES[family])
    (seen,) = rows.sum(scan, model.family)
    level = null_intercept(rows, model, seen)
    want = rows.sum(kernels.loss, model.family, np.array([level, 0.0, 0.0]))[0] / seen.weight
    before = rows.reads
    assert null_loss(rows, model, seen, level) == pytest.approx(want, rel=1e-12)
    assert rows.reads - before == offset


def test_a_sample_of_one_class_or_of_nothing_is_no_start(make_table: Any) -> None:
    table = make_table("binomial", 2000, 2)
    table.y[:] = 0.0
    table.y[-1] = 1.0
    model = Model(FAMILIES["binomial"])
    (drawn,) = table.rows().sum(draw, 100)
    assert sample_start(drawn, table.names, model, 0.0, fit) is None
    assert sample_start(Drawn(()), table.names, model, 0.0, fit) is None


def test_a_separated_sample_is_no_start(make_table: Any) -> None:
    table = make_table("binomial", 4000, 1, intercept=False)
    table.y = (table.A[:, 0] > 0).astype(float)
    (drawn,) = table.rows().sum(draw, 20)
    assert sample_start(drawn, table.names, Model(FAMILIES["binomial"], intercept=False), 0.0, fit) is None


@pytest.mark.parametrize("solver", ["proximal_newton", "admm"])
def test_columns_that_a_sample_took_for_different_are_left_out_all_the_same(make_table: Any, solver: str) -> None:
    table = make_table("binomial", 8000, 3)
    table.A[:, 3] = table.A[:, 2]
    found = fit(table.rows(512, 1024), table.names, Model(FAMILIES["binomial"]), SOLVERS[solver])
    alone = fit(table.rows(512, 1024), table.names, Model(FAMILIES["binomial"]), SOLVERS[solver], Limits(start="null"))
    assert found.dropped == alone.dropped == ["x2"]
    assert found.status == "optimal"
    np.testing.assert_allclose(found.coefficients, alone.coefficients, atol=1e-3)


def test_ctrl_c_while_the_sample_is_fitted_ends_the_fit(make_table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table("binomial", 8000, 3)

    def interrupted(self: SampleRows, kernel: Any, *args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(SampleRows, "sum", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(table.rows(512, 1024), table.names, Model(FAMILIES["binomial"]), SOLVERS["admm"])


def rare(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return twelve rare dummies, of some of which a sample has far too many."""
    random = np.random.default_rng(seed)
    group = random.integers(0, 2000, 50_000)
    return np.stack([(group == j) * 1.0 for j in range(12)], axis=1), (random.random(50_000) < 0.1) * 1.0


def one_far_out(seed: int, where: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a column with one value that no sample is likely to have."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((20_000, 1))
    y = random.poisson(np.exp(0.5 * x[:, 0])).astype(float)
    x[5], y[5] = where, 0.0
    return x, y


def one_large_count(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a rare dummy with one huge target: far out on the sample where all rows are near."""
    random = np.random.default_rng(seed)
    dummy = (random.random(50_000) < 2e-3).astype(float)
    y = random.poisson(0.5, 50_000).astype(float)
    y[np.flatnonzero(dummy)[3]] = 1e6
    return np.column_stack([random.standard_normal(50_000), dummy]), y


@pytest.mark.parametrize(
    ("data", "family", "solver"),
    [
        (rare(0), "binomial", "proximal_newton"),
        (rare(1), "binomial", "proximal_newton"),
        (rare(0), "binomial", "admm"),
        (one_far_out(1, 3000), "poisson", "proximal_newton"),
        (one_far_out(1, 800), "poisson", "admm"),
        (one_large_count(0), "poisson", "proximal_newton"),
    ],
)
def test_a_sample_that_misleads_costs_passes_and_no_answer(data: Any, family: str, solver: str) -> None:
    rows = clusterglm.from_arrays(*data, intercept=True)
    words = {"data": rows, "family": family, "solver": solver, "penalty": "l1", "lamduh": 0.1}
    sampled, null = (clusterglm.fit(start=start, **words) for start in ("auto", "null"))
    assert sampled.status == null.status == "optimal"
    assert sampled.objective == pytest.approx(null.objective, rel=1e-8)
    assert sampled.null_objective == pytest.approx(null.null_objective, rel=1e-9)


@pytest.mark.parametrize("mean", [1e6, 1e9])
def test_the_null_loss_of_a_target_far_from_zero(mean: float) -> None:
    random = np.random.default_rng(1)
    X = random.standard_normal((20_000, 2))
    rows = clusterglm.from_arrays(X, mean + X[:, 0] + random.standard_normal(20_000), intercept=True)
    sampled, null = (clusterglm.fit(data=rows, family="gaussian", start=start) for start in ("auto", "null"))
    assert sampled.null_objective == pytest.approx(null.null_objective, rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "columns", "every"),
    [(8e6, 15, 2), (8e8, 15, 4), (1e5, 15, 1), (8e6, 4, 1), (4e6, 200, 2), (1e6, 1000, 1), (8e8, 200, 16)],
)
def test_a_hessian_of_a_share_is_taken_where_that_saves_and_loses_little(rows: float, columns: int, every: int) -> None:
    assert hessian_every(int(rows), columns) == every


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("solver", ["proximal_newton"])
@pytest.mark.parametrize("every", [2, 5])
def test_a_hessian_of_a_share_of_the_rows_leads_to_the_same_optimum_with_a_proof(
    make_table: Any, solver: str, family: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(family, 3000, 4, weights=True, offset=True)
    model = Model(FAMILIES[family], "l2", 0.01)
    exact = fit(table.rows(), table.names, model, SOLVERS["newton"], Limits(Tolerance(1e-9)))
    seen: list[str] = []

    def count(problem: Any) -> None:
        seen.append(problem.every)

    monkeypatch.setattr(start_module, "hessian_every", lambda rows, columns: every)
    found = fit(table.rows(), table.names, model, SOLVERS[solver], Limits(Tolerance(1e-6), on_pass=count))
    assert seen[0] == every
    assert found.status == "optimal"
    assert found.certificate.method == "curvature"
    assert found.certificate.error_in_se <= 1e-6
    np.testing.assert_allclose(found.coefficients, exact.coefficients, atol=1e-6)


@pytest.mark.parametrize("every", range(1, 17))
def test_a_share_is_one_of_every_k_micro_blocks_and_has_no_period(every: int) -> None:
    taken = np.array([in_share(i, every) for i in range(2000 * every)])
    assert taken[0]
    np.testing.assert_array_equal(taken.reshape(-1, every).sum(axis=1), 1)  # so that few blocks have their share, too
    for period in range(2, 3 * every):
        counts = np.bincount(np.flatnonzero(taken) % period, minlength=period)
        assert counts.min() > 0.5 * 2000 / period


def test_periodic_rows_do_not_mislead_a_share(make_table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dummy that is 1 in every second micro-block: the share knows it, and no pass goes into learning that."""
    table = make_table("binomial", 6400, 3)
    table.A[:, 3] = np.repeat(np.arange(200) % 2, 32)
    passes = []
    for every in (1, 2):
        monkeypatch.setattr(start_module, "hessian_every", lambda rows, columns, every=every: every)
        told: list[int] = []
        limits = Limits(start="null", on_pass=lambda problem, told=told: told.append(problem.every))
        found = fit(table.rows(), table.names, Model(FAMILIES["binomial"]), SOLVERS["proximal_newton"], limits)
        assert found.status == "optimal"
        passes.append(found.passes)
    assert told[-1] == 2
    assert passes[1] <= passes[0] + 2


def test_where_the_share_does_not_tell_columns_apart_all_rows_are_asked(
    make_table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dummy that is 0 in every row of the share; and one that repeats it, which goes."""
    table = make_table("binomial", 640, 4)
    table.A[:, 3:] = np.repeat([not in_share(i, 2) for i in range(20)], 32)[:, None]  # in micro-blocks of 32 rows
    monkeypatch.setattr(start_module, "hessian_every", lambda rows, columns: 2)
    found = fit(
        table.rows(), table.names, Model(FAMILIES["binomial"]), SOLVERS["proximal_newton"], Limits(start="null")
    )
    assert found.status == "optimal"
    assert found.dropped == ["x3"]
    assert found.coefficients[2] != 0
    assert found.passes == found.iterations[-1].read


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("start", ["auto", "null"])
@pytest.mark.parametrize("ratio", [1e-2, 1e-5])
def test_a_share_that_hardly_knows_a_column_costs_few_passes(
    make_table: Any, family: str, start: str, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column is small in every row of the share, so its curvature there is ratio^2 of what it is."""
    table = make_table(family, 6400, 4)
    table.A[np.repeat([in_share(i, 2) for i in range(200)], 32), 3] *= ratio  # in micro-blocks of 32 rows
    monkeypatch.setattr(start_module, "hessian_every", lambda rows, columns: 2)
    model, limits = Model(FAMILIES[family]), Limits(Tolerance(rel_gap=1e-8), start=start)
    found = fit(table.rows(), table.names, model, SOLVERS["proximal_newton"], limits)
    assert found.status == "optimal"
    assert found.passes <= 25


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", ["proximal_newton", "newton", "proximal_gradient", "lbfgs"])
def test_rows_that_were_drawn_beforehand_save_a_pass_and_change_no_answer(family: str, solver: str) -> None:
    source = Synthetic(100_000, 6, family=family)
    rows, model = local_rows(source, intercept=True), Model(FAMILIES[family])
    drawn = Drawn((Piece(*source.first(2000, "float64", True)),))
    seen = look_at_fit(rows, source.names, model, SOLVERS[solver], drawn, fit)
    limits = Limits(Tolerance(rel_gap=1e-9))
    found = fit(rows, source.names, model, SOLVERS[solver], limits, seen=seen)
    usual = fit(rows, source.names, model, SOLVERS[solver], limits)
    assert found.status == usual.status == "optimal"
    assert found.start == "fit on 2000 sampled rows"
    assert found.passes <= usual.passes + 3  # another sample, another way
    np.testing.assert_allclose(found.coefficients, usual.coefficients, atol=1e-3)
    told = Problem(rows, model.family, elastic_net(0.0, 0.0, np.zeros(7), None), seen.scan.weight)
    assert seen.met is not None
    told.know(seen.met.kernel, seen.met.args, seen.met.sums)
    again = Problem(rows, model.family, told.penalty, seen.scan.weight)
    for problem in (told, again):
        problem.every = hessian_every(100_000, 7) if solver == "proximal_newton" else 1
    ahead, point = told.at(seen.met.beta, hessian=True), again.at(seen.met.beta, hessian=True)
    assert (told.passes, again.passes) == (0, 1)
    np.testing.assert_array_equal(ahead.hessian, point.hessian)
    np.testing.assert_array_equal(ahead.gradient, point.gradient)


def test_rows_drawn_beforehand_that_mislead_cost_passes_and_no_answer() -> None:
    source = Synthetic(50_000, 4)
    rows, model = local_rows(source, intercept=True), Model(FAMILIES["binomial"])
    X, y, *rest = source.first(1000, "float64", True)
    seen = look_at_fit(rows, source.names, model, SOLVERS["newton"], Drawn((Piece(X, 1 - y, *rest),)), fit)
    found = fit(rows, source.names, model, SOLVERS["newton"], seen=seen)
    assert (found.status, found.start) == ("optimal", "null model")
    one_class = Drawn((Piece(X, np.zeros(1000), *rest),))
    assert look_at_fit(rows, source.names, model, SOLVERS["newton"], one_class, fit).met is None
