"""What a user may ask of a fit: refusals before anything is started, defaults, and what a resumed fit may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clusterglm.errors import UsageError
from clusterglm.request import OPTIONS, Request, split_names

FILE = {"data": "rows.parquet", "target": "y", "family": "poisson"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, r"fit: no data: give --rows N .* or --data PATH --target COLUMN"),
        ({"rows": 100, "data": "x.csv"}, r"--rows \(100\): given together with --data"),
        ({"rows": "8k"}, r"--rows \(8k\): not a count of rows"),
        ({"rows": 0}, r"--rows \(0\): must be at least 1"),
        ({"rows": 100, "target": "y"}, r"--target \(y\): needs --data"),
        ({"rows": 100, "weights": "w"}, r"--weights \(w\): needs --data"),
        ({"rows": 100, "family": "gausian"}, r"--family \(gausian\).*did you mean gaussian"),
        ({"rows": 100, "link": "log"}, r"--link \(log\).*binomial: the best mean"),
        ({"rows": 100, "columns": 0}, r"--columns \(0\): must be at least 1"),
        ({"rows": 100, "columns": 4001}, "must be at most 4000"),
        ({"rows": 100, "seed": -1}, "--seed"),
        ({"rows": 100, "seed": 2**63}, "--seed"),
        ({"rows": 100, "dtype": "float16"}, r"--dtype \(float16\)"),
        ({"rows": 100, "chunk_rows": "few"}, r"--chunk-rows \(few\): .*, or auto"),
        ({"rows": 100, "tol": 0.0}, r"--tol \(0.0\): must be greater than 0"),
        ({"rows": 100, "rel_gap": float("inf")}, "--rel-gap"),
        ({"rows": 100, "tol": 0.1, "rel_gap": 1e-8}, r"--rel-gap \(1e-08\): given together with --tol"),
        ({"rows": 100, "max_passes": 0}, r"--max-passes \(0\)"),
        ({"rows": 100, "alpha": 1.0, "lamduh": 1.0}, "given together with --alpha"),
        ({"rows": 100, "alpha": -1.0}, r"--alpha \(-1.0\)"),
        ({"rows": 100, "penalty": "ridge"}, r"--penalty \(ridge\)"),
        ({"rows": 100, "penalty": "none", "alpha": 1.0}, r"--alpha \(1.0\): has no effect with --penalty none"),
        ({"rows": 100, "penalty": "none", "lamduh": 1.0}, r"--lamduh \(1.0\): has no effect"),
        ({"rows": 100, "penalty": "l1", "l1_ratio": 0.5}, r"--l1-ratio \(0.5\): goes with --penalty elastic-net"),
        ({"rows": 100, "l1_ratio": 2.0}, "must be 0 to 1"),
        ({"rows": 100, "solver": "newtron"}, r"solver \(newtron\).*did you mean newton"),
        ({"rows": 100, "solver": "newton", "penalty": "l1"}, "newton needs a smooth penalty"),
        ({"rows": 100, "solver": "lbfgs", "penalty": "elastic-net"}, "lbfgs needs a smooth penalty"),
        ({"rows": 1, "penalty": "none"}, r"--rows \(1\): one row fits any line"),
        ({"rows": 10, "columns": 10, "intercept": True, "penalty": "none"}, r"--columns \(10\): more than the 10 rows"),
        ({"data": ""}, "give a file, a folder or a pattern"),
        ({"data": "x.csv"}, "--target: needed with --data"),
        ({"data": "x.csv", "target": "y"}, "--family: needed with --data: one of gaussian, binomial, poisson"),
        ({**FILE, "weights": "y"}, r"--weights \(y\): is the target"),
        ({**FILE, "offset": "y"}, r"--offset \(y\): is the target"),
        ({**FILE, "features": "a,y"}, r"--features \(y\): is the target"),
        ({**FILE, "features": "a,b,a"}, r"--features \(a\): named twice"),
        ({**FILE, "features": "a,,b"}, "write names separated by commas"),
    ],
)
def test_refusals(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        Request(**words)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_defaults_of_generated_rows() -> None:
    request = Request(rows="8e6")
    assert request.row_count == 8_000_000
    assert request.method.name == "proximal_newton"
    model = request.model
    assert (model.family.name, model.penalty, model.lamduh, model.intercept) == ("binomial", "l1", 1.0, False)
    assert request.notes(15) == [
        "note: solver auto: proximal_newton: at 15 columns a pass costs least with a Gram matrix"
    ]
    assert (request.tolerance.tol, request.tolerance.rel_gap) == (0.01, None)


def test_defaults_of_files() -> None:
    model = Request(**FILE).model
    assert (model.family.name, model.penalty, model.intercept, model.penalised) == ("poisson", "none", True, False)
    assert Request(**FILE, alpha=0.1).model.penalty == "l1"
    assert Request(**FILE, alpha=0.1, solver="newton").model.penalty == "l2"
    assert Request(**FILE, l1_ratio=0.2, alpha=0.1).model.penalty == "elastic-net"
    assert Request(data=Path("a.csv"), target="y", family="gaussian").data == "a.csv"


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "gradient_descent"])
def test_solvers_of_smooth_penalties_take_none_for_generated_rows_and_say_so(solver: str) -> None:
    request = Request(rows=1000, solver=solver)
    assert request.model.penalty == "none"
    assert request.notes(15) == [f"note: {solver} needs a smooth penalty: none used"]
    assert Request(rows=1000, solver=solver, lamduh=2.0).model.penalty == "l2"


def test_a_penalty_without_a_strength_gets_one_and_says_so() -> None:
    request = Request(rows=1000, penalty="l2", solver="newton")
    assert request.model.lamduh == 1.0
    assert request.notes(15) == ["note: no strength given: --lamduh 1"]


def test_an_elastic_net_of_ridge_alone_is_smooth() -> None:
    assert not Request(rows=100, solver="newton", penalty="elastic-net", l1_ratio=0.0, alpha=1.0).model.has_l1
    assert not Request(rows=100, solver="newton", penalty="l1", alpha=0.0).model.has_l1


def test_options_make_the_same_request_again() -> None:
    for request in (Request(rows=1e5, tol=1e-3, chunk_rows="auto"), Request(**FILE, features=["a", "b"], max_passes=7)):
        assert Request(**json.loads(json.dumps(request.options()))).options() == request.options()
    assert set(Request(rows=10, columns=2).options()) == set(OPTIONS)


def test_a_resumed_fit_may_change_what_the_iterates_do_not_depend_on() -> None:
    saved = Request(rows=1000, solver="admm").options()
    now = Request(rows=1000, solver="admm", tol=1e-5, max_passes=9).resumed_from(saved, {"tol", "max_passes"}, "run")
    assert (now.tolerance.tol, now.max_passes, now.method.name) == (1e-5, 9, "admm")
    other = Request(rows=1000, solver="newton")
    with pytest.raises(UsageError, match=r"--resume \(run\): made with solver admm: the same options, or a new --out"):
        other.resumed_from(saved, {"solver"}, "run")
    with pytest.raises(UsageError, match="made with --lamduh None"):
        Request(rows=1000, solver="admm", lamduh=3.0).resumed_from(saved, {"lamduh"}, "run")


def test_names_are_split_at_commas() -> None:
    assert split_names("a, b ,c", "--features") == ("a", "b", "c")
    with pytest.raises(UsageError, match="--features"):
        split_names("", "--features")
