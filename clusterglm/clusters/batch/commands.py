"""How the commands of a batch system are run: with nothing but their site's settings, and their words kept."""

from __future__ import annotations

import abc
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from clusterglm.clusters.batch.job import Job
from clusterglm.errors import ClusterError

_SECONDS = 60.0  # a command that finds no server tries again for a while


class Commands(abc.ABC):
    """The commands of one batch system; a target's queue adds which they are."""

    system: ClassVar[str]
    # Environment variables that begin so would be options of the commands; a site's or user's own are kept.
    options: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[frozenset[str]] = frozenset()
    # What a command says of a job that is no more.
    ended: ClassVar[re.Pattern[str]]
    by_stdin: ClassVar[bool] = False  # the last word of a submission is the script that the command reads

    throttles = True
    again = ""

    def text(self, command: Sequence[str]) -> str:
        if self.by_stdin:
            return f"{shlex.join(command[:-1])} < {shlex.quote(command[-1])}"
        return shlex.join(command)

    @abc.abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None: ...

    def cancel_waiting(self, jobs: Sequence[Job]) -> None:
        self.cancel([job.id for job in jobs])

    def most_tasks(self) -> int:
        return 1000

    def throttle(self, job: str, tasks: int) -> None:  # noqa: B027  nothing to do where no task waits in reserve
        pass

    def run(self, command: Sequence[str], folder: Path | None = None, unset: Sequence[str] = ()) -> str:
        """Run a command and return what it printed.

        Raises
        ------
        ClusterError
            It failed, with its own words; or it does not answer, which says nothing about any job.
        """
        variables = {
            name: value
            for name, value in os.environ.items()
            if not (name.startswith(self.options) and name not in self.kept) and name not in unset
        }
        words, script = list(command), None
        if folder is not None:
            variables["PWD"] = str(folder)  # the folder as it was named, whatever links lead to it
            script = words.pop() if self.by_stdin else None
        try:
            with open(script or os.devnull, "rb") as given:
                done = subprocess.run(
                    words,
                    env=variables,
                    cwd=folder,
                    stdin=given,
                    capture_output=True,
                    text=True,
                    errors="surrogateescape",
                    timeout=_SECONDS,
                    check=False,
                )
        except FileNotFoundError as error:
            raise ClusterError(self.system, words[0], "not installed here: run this on a login node") from error
        except subprocess.TimeoutExpired as error:
            raise ClusterError(self.system, words[0], f"no answer after {_SECONDS:.0f} s: try again") from error
        if done.returncode:
            said = "; ".join(filter(None, map(str.strip, (done.stderr or done.stdout).splitlines())))
            raise ClusterError(self.system, None, said or f"{Path(words[0]).name} ended with {done.returncode}")
        return done.stdout

    def run_on_jobs(self, command: Sequence[str]) -> str:
        """Run a command on jobs some of which may have ended meanwhile, which is no error.

        Raises what ``run`` raises for any other reason.
        """
        try:
            return self.run(command)
        except ClusterError as error:
            if not self.ended.search(str(error)):
                raise
        return ""
