"""What a site's own ``jobqueue.yaml`` says, and the directives that dask-jobqueue makes of it and of users' options."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from clusterglm.errors import UsageError


def settings(section: str) -> dict[str, Any]:
    """Return ``jobqueue.SECTION`` of Dask's configuration, dask-jobqueue's defaults included."""
    _library()
    import dask.config

    return dict(dask.config.get(f"jobqueue.{section}"))


def directives(job: str, section: str, **given: Any) -> tuple[str, list[str]]:
    """Return the first line and the directives of a job script; what was not given is the site's to say.

    Parameters
    ----------
    job : str
        dask-jobqueue's class, such as ``SLURMJob``.
    section : str
        Its section of the configuration.
    **given
        Its options, None for those that nobody gave.

    Raises
    ------
    UsageError
        dask-jobqueue refuses them.
    """
    library = _library()
    import dask.config

    options = {name: value for name, value in given.items() if value is not None}
    # The logs lie in the cluster's folder, and the line that starts the worker is ours.
    own = {f"jobqueue.{section}.log-directory": None}
    with dask.config.set(own), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # old names in the site's file are the site's affair
        try:
            made = getattr(library[job], job)("tcp://placeholder:1", name="placeholder", **options)
        except (ValueError, TypeError) as error:
            raise UsageError(f"jobqueue.{section}", None, str(error).splitlines()[0]) from error
    return str(made.shebang).strip(), str(made.job_header).splitlines()


def _library() -> dict[str, Any]:
    """Return dask-jobqueue's modules, by the name of their class of jobs.

    Its import takes SIGINT for itself, and copies a template into the user's folder of settings; both are undone.
    """
    with _undisturbed():
        from dask_jobqueue import htcondor, lsf, moab, oar, pbs, sge, slurm
    return {
        "SLURMJob": slurm,
        "PBSJob": pbs,
        "MoabJob": moab,
        "SGEJob": sge,
        "LSFJob": lsf,
        "OARJob": oar,
        "HTCondorJob": htcondor,
    }


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    import dask.config

    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    copy_template = dask.config.ensure_file
    dask.config.ensure_file = lambda *_, **__: None
    try:
        yield
    finally:
        dask.config.ensure_file = copy_template
        for number, handler in handlers.items():
            if main and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
