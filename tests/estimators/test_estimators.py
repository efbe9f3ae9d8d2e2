"""The scikit-learn face: its own check suite, its tools, and the same answers on numpy, pandas and Dask."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from distributed import Client, LocalCluster
from sklearn import linear_model
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from clusterglm import estimators

CLASSES = {name: getattr(estimators, name) for name in estimators.__all__}
NO_ANSWER = "more columns than rows and no penalty: there is no one answer, so it is refused"
EXPECTED = {
    name: dict.fromkeys([f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")], NO_ANSWER)
    for name in ("GLM", "LinearRegression")
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSES)
def test_scikit_learn_has_nothing_to_say(name: str) -> None:
    results = check_estimator(CLASSES[name](), expected_failed_checks=EXPECTED.get(name), on_skip=None)
    assert len(results) >= 60
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {"check_array_api_input"}


def rows(kind: str = "poisson", n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    X = random.standard_normal((n, 4))
    eta = X @ [0.4, -0.3, 0.0, 0.2] + 0.1
    y = {
        "poisson": lambda: random.poisson(np.exp(eta)),
        "gaussian": lambda: eta + random.standard_normal(n),
        "binomial": lambda: random.random(n) < 1 / (1 + np.exp(-eta)),
        "gamma": lambda: random.gamma(2, np.exp(eta) / 2),
    }[kind]()
    return X, np.asarray(y, dtype=np.float64)


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_answers_are_those_of_scikit_learn(alpha: float) -> None:
    pairs = [
        ("poisson", estimators.PoissonRegression(alpha=alpha), linear_model.PoissonRegressor(alpha=alpha)),
        ("gamma", estimators.GammaRegression(alpha=alpha), linear_model.GammaRegressor(alpha=alpha)),
        (
            "poisson",
            estimators.TweedieRegression(power=1.3, alpha=alpha),
            linear_model.TweedieRegressor(power=1.3, alpha=alpha, link="log"),
        ),
        (
            "gaussian",
            estimators.LinearRegression(penalty="elastic-net", alpha=alpha, l1_ratio=0.3),
            linear_model.ElasticNet(alpha=alpha, l1_ratio=0.3, tol=1e-12, max_iter=100_000),
        ),
        ("gaussian", estimators.LinearRegression(), linear_model.LinearRegression()),
        ("binomial", estimators.LogisticRegression(C=1 / alpha), linear_model.LogisticRegression(C=1 / alpha)),
        (
            "binomial",
            estimators.LogisticRegression("l1", C=1 / alpha),
            linear_model.LogisticRegression(l1_ratio=1.0, C=1 / alpha, solver="saga", max_iter=100_000),
        ),
    ]
    for kind, ours, theirs in pairs:
        X, y = rows(kind)
        w = np.random.default_rng(0).integers(1, 3, len(y)).astype(float)
        if "tol" in theirs.get_params() and not isinstance(theirs, linear_model.LinearRegression):
            theirs.set_params(tol=1e-10)
        if "solver" in theirs.get_params() and hasattr(theirs, "alpha"):
            theirs.set_params(solver="newton-cholesky")
        ours.fit(X, y, sample_weight=w)
        theirs.fit(X, y, sample_weight=w)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=2e-4, atol=2e-6)
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-4)
        assert ours.score(X, y, w) == pytest.approx(theirs.score(X, y, w), rel=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_pickles_and_clones_predict_the_same(name: str) -> None:
    X, y = rows("binomial" if name == "LogisticRegression" else "gamma")
    frame = pd.DataFrame(X, columns=list("abcd"))
    fitted = CLASSES[name]().fit(frame, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict(frame) == fitted.predict(frame)).all()
    assert again.feature_names_in_.tolist() == list("abcd")
    assert (clone(fitted).fit(frame, y).coef_ == fitted.coef_).all()


def test_groups_are_given_by_number_or_by_name() -> None:
    X, y = rows("binomial")
    how: dict[str, Any] = {"penalty": "group", "C": 1 / 28}
    by_number = estimators.LogisticRegression(groups=[[0, 1], [2, 3]], **how).fit(X, y)
    assert (by_number.coef_[0] != 0).tolist() == [True, True, False, False]
    frame = pd.DataFrame(X, columns=["size", "age", "city", "town"])
    named = estimators.LogisticRegression(groups=[["size", "age"], ["city", "town"]], **how).fit(frame, y)
    np.testing.assert_array_equal(named.coef_, by_number.coef_)
    whole = estimators.GLM("binomial", penalty="group", alpha=1e-3, l1_ratio=0.5, groups=[["x*"]]).fit(X, y)
    assert whole.result_.l1_ratio == 0.5
    with pytest.raises(ValueError, match="no such column"):
        estimators.GLM("binomial", penalty="group", groups=[["a"]]).fit(X, y)
    with pytest.raises(ValueError, match="column 4, and there are 4"):
        estimators.GLM("binomial", penalty="group", groups=[[4]]).fit(X, y)


def test_parameters_that_are_set_take_effect() -> None:
    X, y = rows("gaussian")
    model = estimators.GLM(penalty="l2", alpha=0.1)
    loose = model.fit(X, y).coef_.copy()
    assert np.abs(model.set_params(alpha=10.0).fit(X, y).coef_).max() < np.abs(loose).max() / 2
    assert model.set_params(family="poisson").get_params()["family"] == "poisson"
    search = GridSearchCV(estimators.LinearRegression(penalty="l2"), {"alpha": [1e-3, 100.0]}, cv=3).fit(X, y)
    assert search.best_params_ == {"alpha": 1e-3}
    assert np.ptp(search.cv_results_["mean_test_score"]) > 0.1


def test_they_work_in_the_tools_of_scikit_learn() -> None:
    X, y = rows("binomial")
    words = np.where(y > 0, "yes", "no")
    chain = make_pipeline(StandardScaler(), estimators.LogisticRegression(C=0.5))
    assert cross_val_score(chain, X, words, cv=4).mean() > 0.55
    search = GridSearchCV(chain, {"logisticregression__C": [0.01, 1.0]}, scoring="roc_auc", cv=3).fit(X, words)
    assert set(search.predict(X)) == {"yes", "no"}
    assert search.best_estimator_[-1].classes_.tolist() == ["no", "yes"]


def test_a_perfect_fit_scores_one_and_the_mean_scores_nothing() -> None:
    X, y = rows("gaussian")
    assert estimators.LinearRegression().fit(X, X @ [1, 2, 3, 4] + 5).score(X, X @ [1, 2, 3, 4] + 5) == 1
    assert estimators.LinearRegression(penalty="l1", alpha=1e6).fit(X, y).score(X, y) == pytest.approx(0, abs=1e-12)


def test_inference_comes_with_the_fit() -> None:
    X, y = rows("poisson")
    model = estimators.GLM("negative-binomial", theta="estimate", summary=True).fit(X, y * 3)
    assert model.result_.inference.standard_error.shape == (5,)
    assert "std err" in model.result_.summary()
    assert model.model_.family.parameters["theta"] == model.result_.parameters["theta"] != 1.0


def test_the_names_of_a_frame_are_those_of_the_answer() -> None:
    X, y = rows("poisson")
    frame = pd.DataFrame(X, columns=["size", "age", "dose", "year"])
    model = estimators.PoissonRegression(penalty=None, summary=True).fit(frame, y)
    assert model.result_.feature_names == list(frame.columns)
    assert "dose" in model.result_.summary()
    lazy = model.predict(dd.from_pandas(frame, npartitions=2))
    np.testing.assert_allclose(lazy.compute(scheduler="synchronous"), model.predict(frame))


@pytest.mark.parametrize("kind", ["str", "object", "category"])
def test_words_and_categories_of_pandas_are_coded_by_their_levels(kind: str) -> None:
    X, y = rows("poisson")
    town = np.array(["Bonn", "Oslo", "Rome"])[np.arange(400) % 3]
    frame = pd.DataFrame({"size": X[:, 0], "town": pd.Series(town).astype(kind)})
    made = np.column_stack([X[:, 0], town == "Oslo", town == "Rome"])
    model = estimators.PoissonRegression(alpha=0.1).fit(frame, y, sample_weight=y + 1)
    peer = estimators.PoissonRegression(alpha=0.1).fit(made, y, sample_weight=y + 1)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-12)
    np.testing.assert_allclose(model.predict(frame), peer.predict(made))
    assert model.score(frame, y) == pytest.approx(peer.score(made, y))
    assert model.result_.feature_names == ["size", "town[T.Oslo]", "town[T.Rome]"]
    assert pickle.loads(pickle.dumps(model)).predict(frame[["town", "size"]])[0] == model.predict(frame)[0]
    logistic = estimators.LogisticRegression().fit(frame, town)
    assert logistic.predict_proba(frame).shape == (400, 3)
    with pytest.raises(ValueError, match="not among the model's 3 levels"):
        model.predict(frame.assign(town="Paris"))
    with pytest.raises(ValueError, match="give a frame"):
        model.predict(made)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.fit(frame, y[:10])


@pytest.mark.parametrize("penalty", [None, "none"])
def test_no_penalty_is_none_in_words_or_without(penalty: str | None) -> None:
    X, y = rows("binomial")
    peer = linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(estimators.LogisticRegression(penalty).fit(X, y).coef_, peer.coef_, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (estimators.GLM("gauss"), "--family"),
        (estimators.PoissonRegression(alpha="much"), "alpha: 'much' is no number"),  # type: ignore[arg-type]
        (estimators.LogisticRegression(C="1"), "C: '1' is no number"),  # type: ignore[arg-type]
        (estimators.TweedieRegression(power="x"), "power: 'x' is no number"),  # type: ignore[arg-type]
    ],
)
def test_parameters_that_make_no_sense_are_value_errors(model: Any, match: str) -> None:
    X, y = rows("binomial")
    with pytest.raises(ValueError, match=match):
        model.fit(X, y)
    lazy = da.from_array(X)
    with pytest.raises(ValueError, match="X is of Dask, and y"):
        estimators.PoissonRegression().fit(X, y).score(lazy, y)


def test_what_has_no_answer_is_said() -> None:
    X = np.linspace(-1, 1, 40)[:, None]
    with pytest.warns(ConvergenceWarning, match="separation"):
        estimators.LogisticRegression("none").fit(X, X[:, 0] > 0)
    with pytest.raises(ValueError, match="takes numbers above 0"):
        estimators.GammaRegression().fit(X, X[:, 0])
    with pytest.raises(ValueError, match="solver"):
        estimators.GLM(solver="nwton").fit(X, X[:, 0])
    with pytest.raises(ValueError, match="use LogisticRegression"):
        estimators.GLM("multinomial").fit(X, np.arange(40) % 3)
    with pytest.raises(ValueError, match="link"):
        estimators.LogisticRegression(link="probit").fit(X, np.arange(40) % 3)


def test_more_than_two_classes_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    for words, theirs in (
        ({}, linear_model.LogisticRegression(tol=1e-12, solver="newton-cholesky", max_iter=1000)),
        (
            {"penalty": "l1", "C": 0.5},
            linear_model.LogisticRegression(l1_ratio=1.0, C=0.5, solver="saga", tol=1e-10, max_iter=100_000),
        ),
    ):
        ours, peer = estimators.LogisticRegression(**words).fit(X, names), theirs.fit(X, names)
        np.testing.assert_allclose(ours.coef_, peer.coef_, atol=1e-7 if not words else 2e-4)
        np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=1e-7 if not words else 2e-4)
        np.testing.assert_array_equal(ours.predict(X), peer.predict(X))
        assert ours.score(X, names) == peer.score(X, names)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.decision_function(X), ours.decision_function(X))
    with pytest.warns(ConvergenceWarning, match="separation"):
        estimators.LogisticRegression("none").fit(X, y)
    counts, y = rows("poisson")
    plain = estimators.LogisticRegression("none").fit(counts, np.minimum(y, 2))
    assert not plain.coef_[0].any()
    assert plain.intercept_[0] == 0


def test_sparse_rows_stay_sparse() -> None:
    X, y = rows("poisson")
    X[np.abs(X) < 1] = 0
    sparse = scipy.sparse.csr_array(X)
    dense, thin = (estimators.PoissonRegression(alpha=0.1).fit(A, y) for A in (X, sparse))
    np.testing.assert_allclose(thin.coef_, dense.coef_, rtol=1e-9)
    np.testing.assert_allclose(thin.predict(sparse), dense.predict(X), rtol=1e-9)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("name", CLASSES)
def test_dask_arrays_and_frames_give_the_answers_of_numpy(client: Client, name: str) -> None:
    X, y = rows("binomial" if name == "LogisticRegression" else "gamma")
    w = np.random.default_rng(1).integers(1, 3, len(y)).astype(float)
    here = CLASSES[name]().fit(X, y, sample_weight=w)
    lazy = [da.from_array(v, chunks=c) for v, c in ((X, (150, 2)), (y, 130), (w, 400))]
    there = CLASSES[name]().fit(lazy[0], lazy[1], sample_weight=lazy[2])
    assert (there.coef_ == here.coef_).all()
    frame = pd.DataFrame(X, columns=list("abcd"))
    parts = dd.from_pandas(frame, npartitions=3)
    target = dd.from_pandas(pd.Series(y), npartitions=3)
    plain = CLASSES[name]().fit(frame, y)
    framed = clone(CLASSES[name](client=client)).fit(parts, target)
    assert framed.client is client
    assert pickle.loads(pickle.dumps(framed)).client is None
    np.testing.assert_allclose(framed.coef_, plain.coef_, rtol=1e-12)
    assert framed.feature_names_in_.tolist() == list("abcd")
    for method in ("predict", "predict_proba", "decision_function"):
        if not hasattr(here, method):
            continue
        want = getattr(here, method)(X)
        got = getattr(there, method)(lazy[0])
        assert isinstance(got, da.Array)
        assert got.shape == want.shape
        np.testing.assert_allclose(got.compute(), want, rtol=1e-12)
        got = getattr(framed, method)(parts)
        assert isinstance(got, dd.DataFrame | dd.Series)
        computed = got.compute()
        np.testing.assert_allclose(computed.to_numpy(), getattr(plain, method)(frame), rtol=1e-12)
        assert computed.index.equals(frame.index)
    assert there.score(lazy[0], lazy[1], lazy[2]) == pytest.approx(here.score(X, y, w), rel=1e-12)
    assert framed.score(parts, target) == pytest.approx(plain.score(frame, y), rel=1e-12)


def test_words_are_labels_on_dask_too(client: Client) -> None:
    X, y = rows("binomial")
    words = pd.Series(np.where(y > 0, "yes", "no"))
    parts = dd.from_pandas(pd.DataFrame(X, columns=list("abcd")), npartitions=2)
    labels = dd.from_pandas(words, npartitions=2)
    model = estimators.LogisticRegression().fit(parts, labels)
    assert model.classes_.tolist() == ["no", "yes"]
    predicted = model.predict(parts).compute()
    assert set(predicted) == {"no", "yes"}
    assert model.score(parts, labels) == pytest.approx(float((predicted == words).mean()))
    with pytest.raises(ValueError, match="two classes"):
        estimators.LogisticRegression().fit(parts, dd.from_pandas(pd.Series(np.ones(400)), npartitions=2))


def test_more_than_two_classes_on_dask_are_those_in_memory(client: Client) -> None:
    X, y = rows("poisson")
    labels = np.array(["none", "one", "more"])[np.minimum(y, 2).astype(int)]
    here = estimators.LogisticRegression().fit(X, labels)
    frame, words = pd.DataFrame(X, columns=list("abcd")), pd.Series(labels)
    there = estimators.LogisticRegression().fit(da.from_array(X, chunks=(150, 4)), da.from_array(labels, chunks=150))
    framed = estimators.LogisticRegression().fit(
        dd.from_pandas(frame, npartitions=2), dd.from_pandas(words, npartitions=2)
    )
    for model, lazy in ((there, da.from_array(X, chunks=(100, 4))), (framed, dd.from_pandas(frame, npartitions=3))):
        np.testing.assert_allclose(model.coef_, here.coef_, rtol=1e-9)
        for method in ("predict", "predict_proba", "decision_function"):
            found = getattr(model, method)(lazy).compute()
            want = getattr(here, method)(X)
            if method == "predict":
                assert (np.asarray(found) == want).all()
            else:
                np.testing.assert_allclose(np.asarray(found), want, rtol=1e-9)
    assert there.score(da.from_array(X, chunks=(100, 4)), da.from_array(labels, chunks=100)) == here.score(X, labels)


def test_predictions_of_dask_compute_nothing_by_themselves(client: Client) -> None:
    X, y = rows("poisson")
    model = estimators.PoissonRegression().fit(X, y)
    never = da.from_array(X, chunks=(100, 4)).map_blocks(_refuse, dtype=float)
    assert model.predict(never).npartitions == 4
    with pytest.raises(RuntimeError, match="was computed"):
        model.predict(never).compute()


def _refuse(block: Any, block_info: Any = None) -> Any:
    if block_info and block.size:
        raise RuntimeError("was computed")
    return block
