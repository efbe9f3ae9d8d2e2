"""The scikit-learn face: estimators on numpy, scipy, pandas and Dask, that fit by ``clusterglm.fit``."""

from clusterglm.estimators.classification import LogisticRegression
from clusterglm.estimators.regression import (
    GLM,
    GammaRegression,
    LinearRegression,
    NegativeBinomialRegression,
    PoissonRegression,
    TweedieRegression,
)

__all__ = [
    "GLM",
    "GammaRegression",
    "LinearRegression",
    "LogisticRegression",
    "NegativeBinomialRegression",
    "PoissonRegression",
    "TweedieRegression",
]
