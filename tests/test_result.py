"""What a fit returns, field by field, on rows in this process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import clusterglm
from clusterglm.errors import UsageError

WRITTEN = """
    solver family link penalty alpha l1_ratio lamduh rows columns dtype storage status coefficients intercept
    feature_names objective certificate start iterations passes bytes seconds cost chunks tasks tasks_dropped workers
    threads blas_threads seed truth_error notes versions
"""


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.standard_normal((300, 3))
    y = (random.random(300) < 1 / (1 + np.exp(-X @ [1.0, 0.0, -0.5]))).astype(float)
    return X, y, random.integers(1, 4, 300).astype(float)


def fitted(arrays: Any, **words: Any) -> clusterglm.Result:
    X, y, w = arrays
    rows = clusterglm.from_arrays(X, y, w, intercept=True)
    return clusterglm.fit(data=rows, **({"family": "binomial", "solver": "proximal_newton"} | words))


def test_the_fields_that_result_json_promises(arrays: Any) -> None:
    result = fitted(arrays, penalty="elastic-net", lamduh=3.0, l1_ratio=0.25)
    content = result.as_dict()
    assert set(WRITTEN.split()) <= set(content)
    assert "history" not in content
    assert "folder" not in content
    W = arrays[2].sum()
    assert (result.lamduh, result.alpha, result.l1_ratio) == (pytest.approx(3.0), pytest.approx(3.0 / W), 0.25)
    assert (result.family, result.link, result.penalty) == ("binomial", "logit", "elastic-net")
    assert (result.rows, result.columns, result.feature_names) == (300, 3, ["x0", "x1", "x2"])
    assert (result.status, result.exit_code, result.start) == ("optimal", 0, "null model")
    assert set(result.certificate) == {"method", "gap", "relative_gap", "kkt", "error_in_se"}
    assert result.certificate["relative_gap"] == result.certificate["gap"] / result.null_objective
    assert result.tolerance == {"kind": "tol", "value": 0.01}
    assert result.certificate["error_in_se"] <= 0.01
    assert (result.truth, result.truth_error, result.seed, result.cost) == (None, None, None, None)
    assert result.versions["numpy"] == np.__version__
    asked = {
        "solver": "proximal_newton",
        "family": "binomial",
        "penalty": "elastic-net",
        "lamduh": 3.0,
        "l1_ratio": 0.25,
    }
    assert asked.items() <= result.request.items()
    assert result.request["standardize"] is False
    assert result.bytes == result.passes * (300 * 4 * 8 + 2 * 300 * 8)  # and the weights


def test_the_objective_is_that_of_the_coefficients(arrays: Any) -> None:
    X, y, w = arrays
    result = fitted(arrays, penalty="l2", alpha=0.3)
    eta = X @ result.coefficients + result.intercept
    loss = np.average(np.logaddexp(0, eta) - y * eta, weights=w)
    assert result.objective == pytest.approx(loss + 0.15 * result.coefficients @ result.coefficients, rel=1e-14)
    mean = np.average(y, weights=w)
    assert result.null_objective == pytest.approx(-mean * np.log(mean) - (1 - mean) * np.log(1 - mean), rel=1e-13)


def test_the_history_has_a_row_for_every_iteration(arrays: Any) -> None:
    result = fitted(arrays, solver="lbfgs")
    assert {len(column) for column in result.history.values()} == {result.iterations}
    assert result.history["iteration"] == list(range(result.iterations))
    assert result.history["objective"][0] == result.null_objective
    assert result.history["objective"][-1] == result.objective
    assert result.history["gap"][-1] == result.certificate["gap"]
    assert (np.diff(result.history["passes"]) > 0).all()
    assert (np.diff(result.history["seconds"]) >= 0).all()


def test_the_model_is_all_that_a_prediction_needs(arrays: Any) -> None:
    result = fitted(arrays)
    model = result.model()
    assert model["schema"] == 1
    assert set(model) == {
        "schema",
        "family",
        "link",
        "parameters",
        "feature_names",
        "coefficients",
        "intercept",
        "features",
        "levels",
        "offset",
        "status",
        "versions",
    }
    assert (model["features"], model["levels"], model["offset"]) == (model["feature_names"], {}, None)
    assert model["coefficients"] is result.coefficients


@pytest.mark.parametrize(("words", "status", "code"), [({"max_passes": 2}, "max_passes", 3), ({}, "optimal", 0)])
def test_the_exit_code_follows_the_status(arrays: Any, words: dict[str, Any], status: str, code: int) -> None:
    result = fitted(arrays, **words)
    assert (result.status, result.exit_code) == (status, code)


def test_separation_is_told_in_the_notes(arrays: Any) -> None:
    X, _, w = arrays
    result = fitted((X, (X[:, 1] > 0).astype(float), w))
    assert (result.status, result.exit_code) == ("no_finite_mle", 3)
    assert result.notes[-1].startswith("warning: separation by x1")
    assert result.certificate["method"] == "none"


def test_columns_left_out_are_named(arrays: Any) -> None:
    X, y, w = arrays
    result = fitted((np.column_stack([X, np.ones(300)]), y, w))
    assert result.columns_dropped == ["x3"]
    assert result.coefficients[3] == 0


def test_rows_of_ones_own_need_a_family(arrays: Any) -> None:
    with pytest.raises(UsageError, match="family: needed with rows of your own: one of gaussian, binomial"):
        fitted(arrays, family=None)


def test_a_relative_gap_is_a_tolerance_too(arrays: Any) -> None:
    result = fitted(arrays, rel_gap=1e-8)
    assert result.tolerance == {"kind": "rel_gap", "value": 1e-8}
    assert result.certificate["relative_gap"] <= 1e-8
