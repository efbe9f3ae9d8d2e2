"""Options from Python: values of the wrong kind are refused in one line, those of the right one are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import clusterglm
from clusterglm.errors import UsageError
from clusterglm.paths import path


def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    X = pd.DataFrame(random.standard_normal((60, 3)), columns=list("abc"))
    return X.assign(y=(random.random(60) < 0.5).astype(float), w=1.0)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"target": ["y"]}, r"target \(a list\): give one name, a column of the data"),
        ({"target": np.ones(60)}, r"target \(a ndarray\): give one name, a column of the data"),
        ({"weights": np.ones(60)}, r"weights \(a ndarray\): give one name"),
        ({"offset": {"w": 1}}, r"offset \(a dict\): give one name"),
        ({"groups": ["a+b"]}, r"groups \(a list\): give one name"),
        ({"features": 3}, r"features \(3\): give a list of names"),
        ({"features": [["a", "b"]]}, r"features \(a list\): give a list of names"),
        ({"categorical": [["a"]]}, r"categorical \(a list\): give a list of names"),
        ({"penalty_groups": 3}, r"penalty_groups \(3\): give a list of names"),
        ({"penalty_factors": ["a"]}, r"penalty_factors \(a list\): give a dict of numbers"),
        ({"penalty_factors": {"a": "x"}}, r"penalty_factors \(a dict\): give a dict of numbers"),
        ({"bounds": ["a"]}, r"bounds \(a list\): give a dict of pairs"),
        ({"bounds": {"a": 3}}, r"bounds \(a dict\): give a dict of pairs"),
        ({"bounds": {"a": (0, 1, 2)}}, r"bounds \(a dict\): give a dict of pairs"),
        ({"bounds": {"a": (None, 1)}}, r"bounds \(a dict\): give a dict of pairs"),
        ({"alpha": "x"}, r"alpha \(x\): give a number"),
        ({"lamduh": [1]}, r"lamduh \(a list\): give one value"),
        ({"penalty": ["l1"]}, r"penalty \(a list\): give one value"),
        ({"max_passes": "ten"}, r"max_passes \(ten\): give a number"),
        ({"maxpasses": 3}, r"maxpasses: not an option of fit: one of .*max_passes"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused(options: dict[str, Any], line: str) -> None:
    asked = {"target": "y", "family": "binomial"} | options
    with pytest.raises(UsageError, match=f"^{line}"):
        clusterglm.fit(data=frame(), **asked)


def test_so_they_are_on_a_path() -> None:
    with pytest.raises(UsageError, match=r"^target \(a list\): give one name"):
        path(data=frame(), target=["y"], family="binomial")


@pytest.mark.parametrize(
    "options",
    [
        {"features": ("a", "b")},
        {"features": np.array(["a", "b"]), "penalty": "l2", "alpha": np.float32(0.5)},
        {"features": pd.Index(["a", "b"]), "max_passes": np.int64(50)},
        {"bounds": {"a": np.array([0.0, 1.0]), "b": [-np.inf, 2]}},
        {"bounds": "a=0:1"},
        {"penalty": "l1", "alpha": 0.01, "penalty_factors": {"a": 2}},
        {"penalty": "group", "alpha": 0.01, "penalty_groups": [("a", "b")]},
        {"penalty": "group", "alpha": 0.01, "penalty_groups": ["a+b"]},
        {"weights": "w", "offset": None},
        {"bounds": pd.Series({"a": ("-inf", "0.5")})},
        {"penalty": "l1", "alpha": np.array(0.01), "penalty_factors": pd.Series({"a": 2.0})},
    ],
)
def test_what_is_of_the_right_kind_is_taken(options: dict[str, Any]) -> None:
    assert clusterglm.fit(data=frame(), target="y", family="binomial", **options).status == "optimal"


@pytest.mark.parametrize("many", [list, tuple, iter, pd.Index, lambda names: (name for name in names)])
def test_what_can_be_read_only_once_is_read_only_once(many: Any) -> None:
    data = frame().assign(k=lambda rows: np.arange(len(rows)) % 3)
    found = clusterglm.fit(
        data=data, target="y", family="binomial", features=many(["a", "k"]), categorical=many(["k"]), penalty="none"
    )
    assert found.feature_names == ["a", "k[T.1]", "k[T.2]"]
