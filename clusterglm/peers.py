"""scikit-learn's solvers on generated rows, each in a process of its own, so that its peak memory is its own.

The child prints one line of JSON, or ends with an error. It leaves with its parent: on Ctrl-C the parent kills it, and
where the parent itself was killed, the end of its standard input tells it to go.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clusterglm.clusters.workers import own_peak
from clusterglm.errors import ClusterError, quoted

if TYPE_CHECKING:
    from clusterglm.data.synthetic import Synthetic


def _logistic_regression(lamduh: float, rows: int, seed: int) -> Any:  # noqa: ARG001
    import inspect

    from sklearn.linear_model import LogisticRegression

    # Release 1.8 has deprecated the name of the penalty in favour of its share.
    named = inspect.signature(LogisticRegression).parameters["penalty"].default == "l2"
    l1: dict[str, Any] = {"penalty": "l1"} if named else {"l1_ratio": 1.0}
    return LogisticRegression(solver="liblinear", C=1 / lamduh, fit_intercept=False, random_state=seed % 2**32, **l1)


def _sgd_classifier(lamduh: float, rows: int, seed: int) -> Any:
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(
        loss="log_loss", penalty="l1", alpha=lamduh / rows, fit_intercept=False, random_state=seed % 2**32
    )


# Of the solvers that LogisticRegression has for L1, saga took 3 to 4 times liblinear's time to the same objective.
PEERS: dict[str, tuple[Callable[[float, int, int], Any], str]] = {
    "LogisticRegression": (_logistic_regression, "liblinear, L1, C = 1/lamduh, no intercept, its own tolerance"),
    "SGDClassifier": (_sgd_classifier, "log_loss, L1, alpha = lamduh/rows, no intercept, its own tolerance"),
}


def memory_needed(rows: int, columns: int) -> int:
    """Return the bytes of the larger peer: the rows, liblinear's two copies in 16 bytes a number, and its vectors."""
    return rows * (8 * (columns + 1) + 2 * 16 * (columns + 2) + 128)


def run_peer(name: str, source: Synthetic, lamduh: float) -> dict[str, Any]:
    """Fit all rows of ``source`` by a peer; return its coefficients, iterations, seconds, peak memory and notes.

    Raises
    ------
    ClusterError
        The process failed or was killed; most likely there was too little memory.
    """
    task = json.dumps({"name": name, "source": asdict(source), "lamduh": lamduh})
    # The modules of this process, whatever lies in the folder where the user stands; and no signals from the terminal.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, task],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = process.stdout.read().decode(errors="replace").splitlines()
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code < 0:
        raise ClusterError(f"scikit-learn's {name}", f"signal {-code}", "killed: fewer --rows, or --no-peers")
    if code:
        raise ClusterError(f"scikit-learn's {name}", quoted(lines[-1] if lines else code), "failed: --no-peers")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _fit(name: str, source: dict[str, Any], lamduh: float) -> dict[str, Any]:
    from clusterglm.data.chunk import block_rows
    from clusterglm.data.synthetic import Synthetic

    generated = Synthetic(**source)
    began = time.perf_counter()
    chunk = generated.chunk((0, generated.rows), block_rows(generated.columns, 8))
    loaded = time.perf_counter()
    model = PEERS[name][0](lamduh, generated.rows, generated.seed)
    imported = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(chunk.X, chunk.y)
    fitted = time.perf_counter()
    return {
        "coefficients": model.coef_.ravel().tolist(),
        "iterations": int(max(model.n_iter_)) if hasattr(model.n_iter_, "__len__") else int(model.n_iter_),
        "seconds": {"load": loaded - began, "fit": fitted - imported},
        "peak": own_peak(),
        "notes": [str(warning.message).splitlines()[0] for warning in caught],
    }


def _leave_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock the interpreter needs when it ends
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    print(json.dumps(_fit(**json.loads(sys.argv[1]))))
