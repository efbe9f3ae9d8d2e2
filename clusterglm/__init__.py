"""clusterglm: generalized linear models fitted on all rows, on the machines that you have.

The public names are loaded when they are first used, so that ``import clusterglm`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "fit": "clusterglm.fitting",
    "from_arrays": "clusterglm.data.rows",
    "path": "clusterglm.paths",
    "cv": "clusterglm.paths",
    "load_model": "clusterglm.model",
    "GLM": "clusterglm.estimators",
    "GammaRegression": "clusterglm.estimators",
    "LinearRegression": "clusterglm.estimators",
    "LogisticRegression": "clusterglm.estimators",
    "NegativeBinomialRegression": "clusterglm.estimators",
    "PoissonRegression": "clusterglm.estimators",
    "TweedieRegression": "clusterglm.estimators",
    "Result": "clusterglm.result",
    "ClusterglmError": "clusterglm.errors",
    "ClusterError": "clusterglm.errors",
    "DataError": "clusterglm.errors",
    "Interrupted": "clusterglm.errors",
    "UsageError": "clusterglm.errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clusterglm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
