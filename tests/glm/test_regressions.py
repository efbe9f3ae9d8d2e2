"""One test for every mistake of dask-glm 0.4.0 that a GLM library can repeat, named after what it prevents.

The numbers are those of the list that the formulas came with (D1 to D26). Those about estimators, labels, chunks of
columns and lazy data belong to other files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import clusterglm
from clusterglm.data.synthetic import Synthetic
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.trace import Tolerance

KINKED = [name for name, solver in SOLVERS.items() if not solver.smooth_only]
LIMITS = Limits(Tolerance(1e-8), 600)


def fitted(table: Any, family: str, solver: str = "proximal_newton", limits: Limits = LIMITS, **words: Any) -> Fit:
    model = Model(FAMILIES[family], intercept=table.intercept, **words)
    return fit(table.rows(), table.names, model, SOLVERS[solver], limits)


@pytest.mark.parametrize("solver", KINKED)
@pytest.mark.parametrize("family", FAMILIES)
def test_d1_the_elastic_net_is_not_the_unpenalised_fit(make_table: Any, family: str, solver: str) -> None:
    table = make_table(family, 150, 3)
    free = fitted(table, family, solver)
    net = fitted(table, family, solver, penalty="elastic-net", alpha=0.1)
    assert np.abs(net.coefficients).sum() < 0.95 * np.abs(free.coefficients).sum()
    assert net.certificate.gap < 1e-12


@pytest.mark.parametrize("solver", KINKED)
@pytest.mark.parametrize("family", FAMILIES)
def test_d2_steps_are_judged_by_the_whole_objective_at_any_strength(
    make_table: Any, oracle: Any, family: str, solver: str
) -> None:
    table = make_table(family, 150, 4, intercept=False)
    _, s, _ = FAMILIES[family].terms(table.y, np.zeros(150))
    top = np.max(np.abs(table.A.T @ s)) / 150
    for factor in (1.0, 0.3, 1e-2, 1e-4):
        found = fitted(table, family, solver, Limits(Tolerance(rel_gap=1e-9), 600), penalty="l1", alpha=factor * top)
        assert found.status == "optimal"
        truth = oracle(table, family, np.full(4, factor * top), np.zeros(4))
        best = float(truth.objective(truth.optimum(found.coefficients)))
        assert (
            0
            <= found.objective - best + 1e-15
            <= found.certificate.gap + 2e-15
            <= 1.1e-9 * found.null_objective + 1e-14
        )


@pytest.mark.parametrize("solver", SOLVERS)
def test_d3_poisson_does_not_stop_after_one_step(make_table: Any, solver: str) -> None:
    table = make_table("poisson", 200, 3)
    found = fitted(table, "poisson", solver)
    assert len(found.iterations) > 2
    assert all(row.point.objective >= 0 for row in found.iterations)
    np.testing.assert_allclose(found.coefficients, fitted(table, "poisson", "newton").coefficients, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_d4_d5_a_penalty_is_obeyed_or_refused(make_table: Any, solver: str) -> None:
    table = make_table("binomial", 150, 3)
    rows = clusterglm.from_arrays(table.A[:, 1:], table.y, intercept=True)
    words = {"data": rows, "solver": solver, "family": "binomial"}
    sizes = []
    for alpha in (0.01, 0.1, 1.0):
        sizes.append(np.abs(clusterglm.fit(**words, penalty="l2", alpha=alpha).coefficients).sum())
        for penalty in ("l1", "elastic-net"):
            if SOLVERS[solver].smooth_only:
                with pytest.raises(UsageError, match="needs a smooth penalty"):
                    clusterglm.fit(**words, penalty=penalty, alpha=alpha)
    assert sizes[0] > 1.3 * sizes[1] > 1.69 * sizes[2]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_d6_the_intercept_is_not_penalised(make_table: Any, family: str, solver: str) -> None:
    table = make_table(family, 150, 3, weights=True)
    penalty = "l2" if SOLVERS[solver].smooth_only else "l1"
    found = fitted(table, family, solver, penalty=penalty, alpha=1e9)
    np.testing.assert_allclose(found.coefficients, 0, atol=1e-8)
    assert found.intercept is not None
    mean = FAMILIES[family].mean(np.array([found.intercept]))[0]
    assert mean == pytest.approx(np.average(table.y, weights=table.w), rel=1e-7)


def test_d7_the_poisson_deviance_is_that_of_the_textbook(make_table: Any) -> None:
    y, mu = np.array([0.0, 1.0, 4.0]), np.array([0.7, 1.3, 2.0])
    loss = FAMILIES["poisson"].loss(y, np.log(mu))
    np.testing.assert_allclose(2 * loss, [2 * 0.7, 2 * (np.log(1 / 1.3) + 0.3), 2 * (4 * np.log(2) - 2)], rtol=1e-14)


@pytest.mark.parametrize("eta", [-1e4, -800.0, 800.0, 1e4])
def test_d8_the_logistic_loss_does_not_overflow(eta: float) -> None:
    for y in (0.0, 1.0):
        loss, s, h = (float(t[0]) for t in FAMILIES["binomial"].terms(np.array([y]), np.array([eta])))
        assert loss == (abs(eta) if (eta > 0) != (y == 1) else 0.0)
        assert s == (0.0 if loss == 0 else np.sign(eta))
        assert h == 0.0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_d9_a_value_that_is_not_finite_is_named(make_table: Any, solver: str, value: float) -> None:
    random = np.random.default_rng(1)
    for _ in range(4):
        table = make_table("binomial", 100, 3)
        i, j = int(random.integers(100)), int(random.integers(3))
        table.A[i, j + 1] = value
        with pytest.raises(DataError, match=rf"column x{j} \(.*in row {i}\): not finite"):
            fitted(table, "binomial", solver)


def separated(kind: str, make_table: Any) -> tuple[Any, str]:
    """Tables without a finite optimum: a plane between the classes, a column that decides some rows, zeros alone."""
    random = np.random.default_rng(2)
    family = "poisson" if kind.startswith("poisson") else "binomial"
    table = make_table(family, 200, 3)
    x = table.A[:, 1:]
    if kind == "complete":
        table.y = (x @ [1.0, -2.0, 0.5] > 0.3).astype(float)
    elif kind == "quasi by a column":
        x[:, 0] = random.random(200) < 0.3
        table.y[x[:, 0] == 1] = 1
    elif kind == "quasi by a difference":
        x[:] = random.integers(0, 3, (200, 3))
        table.y = np.where(x[:, 0] > x[:, 1], 1.0, np.where(x[:, 0] < x[:, 1], 0.0, random.random(200) < 0.5))
    elif kind == "poisson zeros in a group":
        x[:, 0] = random.random(200) < 0.3
        table.y[x[:, 0] == 1] = 0
    elif kind == "poisson zeros in one row":
        x[:, 0] = 0
        x[77, 0] = 1
        table.y[77] = 0
    return table, family


KINDS = (
    "complete",
    "quasi by a column",
    "quasi by a difference",
    "poisson zeros in a group",
    "poisson zeros in one row",
)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_d10_separation_is_a_status_with_a_direction(make_table: Any, kind: str, solver: str) -> None:
    table, family = separated(kind, make_table)
    found = fitted(table, family, solver, Limits())
    assert found.status == "no_finite_mle"
    assert found.passes <= 250
    assert found.certificate.gap == np.inf
    assert any(note.startswith("warning: separation by x") for note in found.notes)
    assert found.direction is not None
    t = table.A @ found.direction  # the direction is verified row by row
    slack = 1e-9 * np.max(np.abs(t))
    assert np.max(np.abs(t)) > 1e-6
    if family == "binomial":
        assert (t[table.y == 1] >= -slack).all()
        assert (t[table.y == 0] <= slack).all()
    else:
        assert (np.abs(t[table.y > 0]) <= slack).all()
        assert (t[table.y == 0] <= slack).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_d10_a_penalty_makes_the_optimum_finite(make_table: Any, kind: str, solver: str) -> None:
    table, family = separated(kind, make_table)
    found = fitted(table, family, solver, Limits(), penalty="l2", alpha=1e-3)
    assert found.status == "optimal"
    assert found.direction is None


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("level", [4.0, 30.0])
def test_d10_strong_effects_are_not_taken_for_separation(make_table: Any, solver: str, level: float) -> None:
    """One row of the other class is enough for a finite optimum, however large the coefficients."""
    table = make_table("binomial", 400, 1)
    x = np.linspace(-1, 1, 400)
    table.A[:, 1] = x
    table.y = (np.sin(1e4 * x) * 0.5 + 0.5 < 1 / (1 + np.exp(-level * x))).astype(float)
    table.y[230], table.y[170] = 0, 1
    found = fitted(table, "binomial", solver, Limits())
    assert found.status == "optimal"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_d15_constant_and_repeated_columns_are_left_out_with_a_note(make_table: Any, family: str, solver: str) -> None:
    table = make_table(family, 150, 6)
    table.A[:, 2] = 7.0
    table.A[:, 4] = 0.0
    table.A[:, 5] = table.A[:, 3]
    table.A[:, 6] = 2 * table.A[:, 1] - table.A[:, 3]
    found = fitted(table, family, solver)
    assert found.status == "optimal"
    assert found.dropped == ["x1", "x3", "x4", "x5"]
    assert found.coefficients[[1, 3, 4, 5]].tolist() == [0, 0, 0, 0]
    assert "warning: column x1 (constant 7): same as the intercept: coefficient set to 0" in found.notes
    assert "warning: columns x4, x5: collinear with earlier ones: their coefficients are set to 0" in found.notes
    small = make_table(family, 150, 6)
    small.A = np.ascontiguousarray(small.A[:, [0, 1, 3]])
    np.testing.assert_allclose(found.coefficients[[0, 2]], fitted(small, family, solver).coefficients, atol=1e-8)


def test_d15_under_a_ridge_too_weak_to_be_seen_the_proof_is_of_the_fit_that_was_made(make_table: Any) -> None:
    table = make_table("gaussian", 150, 2)
    table.A[:, 2] = table.A[:, 1]
    found = fitted(table, "gaussian", "proximal_newton", penalty="l2", alpha=1e-18)
    assert found.dropped == ["x1"]
    words = "their coefficients are set to 0, and what is proven is of a fit without them"
    assert f"warning: columns x1: collinear with earlier ones: {words}" in found.notes


@pytest.mark.parametrize("solver", SOLVERS)
def test_d15_under_a_ridge_a_repeated_column_shares_in_halves(make_table: Any, solver: str) -> None:
    table = make_table("binomial", 150, 2)
    table.A[:, 2] = table.A[:, 1]
    found = fitted(table, "binomial", solver, penalty="l2", alpha=0.1)
    assert found.dropped == []
    assert found.coefficients[0] == pytest.approx(found.coefficients[1], rel=1e-8)


@pytest.mark.parametrize("solver", KINKED)
@pytest.mark.parametrize("family", FAMILIES)
def test_d15_under_l1_collinear_columns_and_more_columns_than_rows_are_solved(
    make_table: Any, oracle: Any, family: str, solver: str
) -> None:
    """No combination of all coefficients has an error where the Hessian is singular; the objective has a bound."""
    table = make_table(family, 150, 5)
    table.A[:, 4] = table.A[:, 1] + table.A[:, 2]
    table.A[:, 5] = table.A[:, 3]
    wide = make_table(family, 30, 40)
    for t in (table, wide):
        found = fitted(t, family, solver, Limits(), penalty="l1", alpha=0.05)
        assert found.status == "optimal"
        assert found.certificate.method in ("curvature", "free")
        assert np.isfinite(found.certificate.gap)
        assert np.isfinite(found.certificate.kkt)
        p = t.A.shape[1]
        truth = oracle(t, family, np.where(np.arange(p) == 0, 0, 0.05), np.zeros(p))
        residual = truth.residual(np.array([found.intercept, *found.coefficients]))
        assert np.max(np.abs(residual)) < 1e-3


@pytest.mark.parametrize("label", [1.0, 2.0])
def test_d16_labels_that_are_not_0_and_1_are_refused(make_table: Any, label: float) -> None:
    table = make_table("binomial", 60, 2)
    table.y += label
    with pytest.raises(DataError, match="binomial takes 0 and 1"):
        fitted(table, "binomial")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_d18_passes_reported_are_passes_made(make_table: Any, family: str, solver: str) -> None:
    table = make_table(family, 150, 3, offset=True)
    rows = table.rows(16, 160)  # one local problem: its reads are those of the rows
    found = fit(rows, table.names, Model(FAMILIES[family]), SOLVERS[solver])
    rounds = len(found.iterations) if solver == "admm" else 0
    if solver != "admm":
        assert rows.reads == found.passes
    assert found.passes >= rows.reads + rounds
    assert found.passes == found.iterations[-1].passes


def test_d20_a_target_of_one_column_is_raveled_and_lengths_must_agree(make_table: Any) -> None:
    table = make_table("binomial", 60, 2)
    words = {"solver": "newton", "family": "binomial"}
    flat = clusterglm.fit(data=clusterglm.from_arrays(table.A, table.y), **words)
    column = clusterglm.fit(data=clusterglm.from_arrays(table.A, table.y[:, None]), **words)
    np.testing.assert_array_equal(flat.coefficients, column.coefficients)
    with pytest.raises(DataError, match=r"target \(59 rows\): the features have 60"):
        clusterglm.from_arrays(table.A, table.y[1:])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("penalty", ["none", "l2", "l1"])
def test_d21_units_of_the_columns_do_not_matter(make_table: Any, family: str, solver: str, penalty: str) -> None:
    """Powers of two change no bit of any product, so everything must be the same, up to 2^+-300."""
    if penalty == "l1" and SOLVERS[solver].smooth_only:
        return
    one, two = make_table(family, 150, 3), make_table(family, 150, 3)
    units = np.array([1.0, 2.0**300, 2.0**-300, 2.0**17])
    two.A = two.A * units
    words = {} if penalty == "none" else {"penalty": penalty, "alpha": 0.02, "standardize": True}
    a, b = (fitted(t, family, solver, Limits(), **words) for t in (one, two))
    assert (a.status, a.passes, len(a.iterations)) == (b.status, b.passes, len(b.iterations))
    assert a.status == "optimal"
    np.testing.assert_allclose(b.coefficients * units[1:], a.coefficients, rtol=1e-9)
    assert b.certificate.error_in_se == pytest.approx(a.certificate.error_in_se, rel=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("intercept", [True, False])
def test_d22_large_counts_do_not_overflow(make_table: Any, solver: str, intercept: bool) -> None:
    table, large = (make_table("poisson", 150, 2, intercept=intercept) for _ in range(2))
    large.y = large.y * 1e6
    found = fitted(large, "poisson", solver, Limits())
    assert found.status == "optimal"
    if intercept:
        small = fitted(table, "poisson", solver)
        np.testing.assert_allclose(found.coefficients, small.coefficients, atol=1e-4)
        assert found.intercept == pytest.approx(small.intercept + np.log(1e6), abs=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", [50.0, -1000.0])
def test_d22_large_offsets_move_the_intercept_alone(make_table: Any, family: str, solver: str, level: float) -> None:
    one, two = (make_table(family, 150, 2, offset=True) for _ in range(2))
    two.offset = two.offset + level
    two.y = two.y + (level if family == "gaussian" else 0)
    a, b = (fitted(t, family, solver) for t in (one, two))
    assert b.status == "optimal"
    np.testing.assert_allclose(a.coefficients, b.coefficients, atol=1e-7)
    if family != "gaussian":
        assert b.intercept + level == pytest.approx(a.intercept, abs=1e-7)


def test_columns_are_not_called_collinear_because_few_rows_have_curvature(make_table: Any) -> None:
    """Offsets that spread over 1e40 leave the Hessian of the start with the rank of two rows."""
    table = make_table("poisson", 200, 3)
    table.offset = 30 * np.random.default_rng(5).standard_normal(200)
    for solver in ("newton", "proximal_newton", "lbfgs"):
        found = fitted(table, "poisson", solver, Limits(max_passes=300))
        assert found.dropped == []
        assert found.status in ("optimal", "no_finite_mle")


@pytest.mark.parametrize("family", FAMILIES)
def test_d24_generated_data_are_explained_by_their_coefficients(family: str) -> None:
    source = Synthetic(20_000, 4, 11, family)
    chunk = source.chunk((0, 20_000), 8192)
    rows = clusterglm.from_arrays(chunk.X, chunk.y)
    result = clusterglm.fit(data=rows, solver="newton", family=family, tol=1e-6)
    h = FAMILIES[family].terms(chunk.y, chunk.X @ result.coefficients)[2]
    se = np.sqrt(np.diag(np.linalg.inv(chunk.X.T * h @ chunk.X)))  # the generator's dispersion is 1
    assert np.max(np.abs(result.coefficients - source.truth) / se) < 5


@pytest.mark.parametrize("solver", SOLVERS)
def test_d26_every_fit_reports_how_it_ended_and_unknown_options_are_errors(make_table: Any, solver: str) -> None:
    table = make_table("binomial", 150, 3)
    rows = clusterglm.from_arrays(table.A[:, 1:], table.y, intercept=True)
    words = {"data": rows, "solver": solver, "family": "binomial"}
    done = clusterglm.fit(**words)
    assert (done.status, done.exit_code) == ("optimal", 0)
    assert done.passes == done.history["passes"][-1] > 0
    assert done.objective == done.history["objective"][-1] < done.null_objective
    stopped = clusterglm.fit(**words, max_passes=2, tol=1e-9)
    assert (stopped.status, stopped.exit_code) == ("max_passes", 3)
    with pytest.raises(UsageError, match=r"maxpasses: not an option of fit: one of .*max_passes"):
        clusterglm.fit(**words, maxpasses=2)


LONGLEY = (15.0618722713733, -0.0358191792925910, -2.02022980381683, -1.03322686717359, -0.0511041056535807)


@pytest.mark.parametrize("solver", ["newton", "proximal_newton", "proximal_gradient", "admm", "lbfgs"])
@pytest.mark.parametrize("tol", [0.01, 1e-9])
def test_longley_to_14_digits(solver: str, tol: float) -> None:
    """NIST's certified values: an ill-conditioned least-squares fit is refined, whoever found it."""
    from statsmodels.datasets import longley

    data = longley.load_pandas()
    rows = clusterglm.from_arrays(data.exog.to_numpy(float), data.endog.to_numpy(float), intercept=True)
    result = clusterglm.fit(data=rows, solver=solver, family="gaussian", tol=tol)
    found = np.array([*result.coefficients, result.intercept])
    certified = np.array([*LONGLEY, 1829.15146461355, -3482258.63459582])
    assert result.status == "optimal"
    assert -np.log10(np.max(np.abs(found / certified - 1))) >= 14
