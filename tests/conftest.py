"""The command as its users run it: as a process, in a folder, state directory and Dask configuration of its own.

Nothing here waits for a time: it waits for a condition, and says in vain after a limit. Whatever a test has started
and not ended is ended by its recorded number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "clusterglm.cli"]
Clusterglm = Callable[..., subprocess.CompletedProcess[str]]

# Under nohup, or in the background of a script, a process is born deaf to these, and so would be all that it starts.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything can be had, so a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every process of the tests away from its user's state, settings and thread counts."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        patch.setenv("DASK_CONFIG", str(folder / "dask"))
        for name in list(os.environ):
            if name.startswith("DASK_CLUSTERGLM__"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def clusterglm() -> Clusterglm:
    """Run one command line to its end: ``clusterglm("fit", "newton", ..., cwd=folder, env={...})``.

    ``before`` are the words of a command that runs it.
    """

    def run(
        *arguments: object, env: dict[str, str] | None = None, before: Sequence[str] = (), **words: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*before, *COMMAND, *map(os.fsdecode, map(_text, arguments))],
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=120,
            env={**os.environ, **(env or {})},
            **words,
        )

    return run


def _text(argument: object) -> str | bytes:
    return argument if isinstance(argument, bytes) else str(argument)


class Running:
    """A command line that has been started. ``family`` holds every process that was ever seen under it."""

    def __init__(self, command: Sequence[str], folder: Path, env: dict[str, str], **words: Any) -> None:
        self.words, self.output = (tempfile.TemporaryFile("w+b") for _ in range(2))  # noqa: SIM115
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=self.output, stderr=self.words, start_new_session=True, env=env, **words
        )
        self.folder = folder
        self.family = {psutil.Process(self.process.pid)}

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        """What stands on stderr by now."""
        return _content(self.words)

    @property
    def printed(self) -> str:
        return _content(self.output)

    def children(self) -> set[psutil.Process]:
        """Return the processes under this one, and remember them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = set(psutil.Process(self.pid).children(recursive=True))
            self.family |= found
            return found
        return set()

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes of an embedded cluster, the oldest first."""
        found = []
        for child in self.children():
            with contextlib.suppress(psutil.Error):
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append((child.create_time(), child.pid, child))
        return [child for *_, child in sorted(found)]

    def until(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait for a condition and return it; the command must go on meanwhile."""

        def met() -> Any:
            self.children()
            result = condition()
            assert result or self.process.poll() is None, f"ended with {self.process.returncode}: {self.said}"
            return result

        return _wait_until(met, seconds)

    def send(self, number: int, group: bool = False) -> None:
        self.children()
        (os.killpg if group else os.kill)(self.pid, number)

    def ended(self, seconds: float = 60) -> int:
        """Return the exit code, once no process of the family is left either."""
        until = time.monotonic() + seconds
        code = self.process.wait(seconds)
        _, left = psutil.wait_procs(self.family, timeout=max(until - time.monotonic(), 5))
        assert not left, f"left: {left}"
        return code

    def end(self) -> None:
        """Kill what still runs."""
        self.children()
        for process in self.family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()
        self.words.close()
        self.output.close()


def _content(file: Any) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="backslashreplace")


Begin = Callable[..., Running]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start a command line without waiting for it, in a process group of its own."""
    started: list[Running] = []

    def start(
        *arguments: object,
        cwd: Path = tmp_path,
        env: dict[str, str] | None = None,
        before: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
        **words: Any,
    ) -> Running:
        line = [*before, *command, *map(str, arguments)]
        started.append(Running(line, cwd, {**os.environ, **(env or {})}, **words))
        return started[-1]

    yield start
    for running in started:
        running.end()


def _wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)
    return result


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """``wait_until(condition, seconds)`` returns what the condition returned as soon as that is true."""
    return _wait_until


@pytest.fixture(scope="session")
def listing() -> Callable[[Path], dict[str, bytes | None]]:
    """``listing(folder)``: every path under a folder with the content of files, to see what a command has left."""

    def list_(folder: Path) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))
        }

    return list_


STEPS = """
# clusterglm's own solvers, telling after every iteration where they are, and waiting where they are told to.
import os, time
from pathlib import Path
from clusterglm.glm.solvers import SOLVERS

FOLDER, HOLD = Path(os.environ["STEPS"]), os.environ["HOLD"].split(",")

def telling(name):
    def solve(problem, start, stop, trace):
        tell = trace._on_iteration
        def on_iteration(row):
            tell(row)
            (FOLDER / f"step-{row.iteration}").touch()
            on = FOLDER / "go", FOLDER / f"go-{row.iteration}"
            while str(row.iteration) in HOLD and not any(path.exists() for path in on):
                time.sleep(0.002)
        trace._on_iteration = on_iteration
        return SOLVERS[name].solve(problem, start, stop, trace)
    solve.smooth_only, solve.ranges = SOLVERS[name].smooth_only, SOLVERS[name].ranges
    return solve

admm, newton, gradient_descent, proximal_gradient = map(
    telling, ("admm", "newton", "gradient_descent", "proximal_gradient"))
"""


class Steps:
    """A file of solvers that a test can follow from iteration to iteration, and hold at some of them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.file = folder / "steps.py"
        self.file.write_text(STEPS)

    def env(self, *holds: int, hold: int = -1) -> dict[str, str]:
        return {"STEPS": str(self.folder), "HOLD": ",".join(map(str, holds or (hold,)))}

    def solver(self, name: str) -> str:
        return f"{self.file}:{name}"

    def reached(self, step: int) -> bool:
        return (self.folder / f"step-{step}").exists()

    def go(self, step: int | None = None) -> None:
        """Let it go on: from this step, or from all."""
        (self.folder / ("go" if step is None else f"go-{step}")).touch()


@pytest.fixture
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    return Steps(tmp_path_factory.mktemp("steps") / "solvers")


@pytest.fixture(scope="session")
def shared_client() -> Iterator[Any]:
    """A client of two workers that nobody kills."""
    from clusterglm.clusters.embedded import embedded

    with embedded(2, memory=10**9) as (client, _):
        del os.environ["DASK_DISTRIBUTED__LOGGING"]  # which is to silence its own workers, not those of other tests
        yield client


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server on loopback that speaks S3, with an empty bucket ``data``, as the environment has it: its file system.

    ``s3.endpoint`` is its URL.
    """
    from urllib.request import urlopen

    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "AKIAUNUSED0000000000"}
    names |= {"AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in names.items():
            patch.setenv(name, value)
        urlopen(f"{names['AWS_ENDPOINT_URL']}/moto-api/reset", data=b"").close()
        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem(use_listings_cache=False)
        system.endpoint = names["AWS_ENDPOINT_URL"]
        system.mkdir("data")
        yield system
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="session")
def _slurm_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from hosts import slurm

    if missing := slurm.missing():
        pytest.skip(f"{missing[0]} not installed: apt-get install slurm-wlm munge")
    with slurm.running(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def slurm(_slurm_daemons: Any) -> Iterator[Any]:
    """A real Slurm of four nodes (hosts/slurm.py), as the environment has it; its queue is empty afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))]:
            patch.delenv(name)
        for name, value in _slurm_daemons.environment.items():
            patch.setenv(name, value)
        yield _slurm_daemons
        _slurm_daemons.cancel_all()


@pytest.fixture(scope="module")
def pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """PBS's commands over a Slurm of three nodes (hosts/pbs.py), as the environment has them: that Slurm."""
    from hosts import pbs

    if missing := pbs.missing():
        pytest.skip(f"{missing[0]} not installed: apt-get install slurm-wlm munge libslurm-perl")
    with pytest.MonkeyPatch.context() as patch, pbs.running(tmp_path_factory.mktemp("pbs")) as (below, commands):
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "PBS_"))]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", below.environment["SLURM_CONF"])
        patch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PERL5LIB", str(next(commands.parent.glob("lib/*/perl5/*"))))
        yield below


@pytest.fixture(scope="module")
def sge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real Grid Engine over three hosts of their own (hosts/sge.py)."""
    from hosts import sge

    if missing := sge.missing():
        pytest.skip(f"{missing[0]} missing: needs root, and gridengine-master, -exec and -client")
    with sge.running(tmp_path_factory.mktemp("sge")) as engine:
        yield engine


@pytest.fixture(scope="session")
def _lab_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from hosts import lab

    if missing := lab.missing():
        pytest.skip(f"{missing[0]} missing: needs root, iproute2 and openssh-server")
    with lab.running(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module")
def lab(_lab_hosts: Any) -> Iterator[Any]:
    """Four hosts reached over SSH (hosts/lab.py), as the environment has them; nothing runs there afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _lab_hosts.environment.items():
            patch.setenv(name, value)
        yield _lab_hosts
        assert not _lab_hosts.left()
