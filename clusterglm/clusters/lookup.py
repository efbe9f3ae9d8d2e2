"""From a cluster's name to its launcher, record and client: the record first, else what the systems themselves say."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from clusterglm import config
from clusterglm.clusters.connect import connect, moved
from clusterglm.clusters.launcher import Account, Cloud, Elsewhere, Launcher, Record, configured
from clusterglm.clusters.registry import Registry, checked_name, not_known
from clusterglm.clusters.targets import TARGETS
from clusterglm.clusters.targets.onhosts import OnHosts
from clusterglm.errors import ClusterError, unknown

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds between two questions to a queue


def launcher_of(record: Record) -> Launcher:
    """Return the launcher that started a cluster, with the options of its record."""
    if record.target not in TARGETS:
        raise unknown("target", record.target, TARGETS, ClusterError)
    launcher: Launcher = configured(TARGETS[record.target], **record.options)
    return launcher


def lookup(name: str, what: str = "cluster", hosts: str | None = None, look: bool = False) -> tuple[Launcher, Record]:
    """Return the launcher and the record of a cluster, its record made up again where it was deleted.

    Without a record, clusters on hosts that are reached over SSH are looked for on ``hosts``, or else on those of the
    setting.
    ``look`` is for commands that only look at it: a rehearsed cluster can be looked at from outside.

    Raises
    ------
    UsageError
        No such cluster: the message lists those there are.
    ClusterError
        A record that cannot be read, or that belongs to another user.
    Elsewhere
        A rehearsed cluster, which the command has to enter.
    """
    registry = Registry()
    record = registry.read(checked_name(name, what))
    if record is None:
        troubles: list[ClusterError] = []
        record = next(iter(_ask_each(lambda launcher: launcher.find(name), troubles, hosts)), None)
        if record is None and troubles:
            raise troubles[0]
        if record is None:
            raise not_known(name, everything(hosts=hosts), what)
        if check_place(launcher_of(record), name, look):
            registry.save(record)
    elif record.state == "down" and isinstance(launcher := launcher_of(record), Account):
        # Another machine may have started one of that name since then.
        with contextlib.suppress(ClusterError):
            record = launcher.find(name) or record
        if record.state != "down" and check_place(launcher_of(record), name, look):
            registry.save(record)
    elif record.state == "up" and not (record.address and _has_keys(record)):
        # It waited in a queue when this was written, or its keys were removed here.
        found_now = launcher_of(record).find(name)
        if found_now is not None and found_now.address:
            record = dataclasses.replace(record, address=found_now.address, dashboard=found_now.dashboard)
            registry.save(record)
    if record.user != os.getuid():
        raise ClusterError(what, name, f"belongs to user {record.user}: start one of your own with clusterglm up")
    launcher = launcher_of(record)
    if record.state != "down":
        check_place(launcher, name, look)
    return launcher, record


def check_place(launcher: Launcher, name: str, look: bool = False) -> bool:
    """Return whether a cluster can be used from where this process is.

    Raises
    ------
    Elsewhere
        It cannot, and more than a ``look`` is wanted.
    """
    enter = launcher.entrance() if isinstance(launcher, Cloud) else None
    if enter is not None and not look:
        raise Elsewhere("cluster", name, "is a rehearsal: use clusterglm's commands, which enter it", enter)
    return enter is None


def enter_rehearsal(launcher: Launcher) -> None:
    """Raise Elsewhere for a launcher that shall rehearse, in a rehearsal that may have to be begun."""
    if isinstance(launcher, Cloud) and (enter := launcher.entrance(begin=True)) is not None:
        raise Elsewhere("--fake", None, "a rehearsal is for the command line", enter)


def _has_keys(record: Record) -> bool:
    return "keys" not in record.details or Path(record.details["keys"]).is_dir()


def everything(troubles: list[ClusterError] | None = None, hosts: str | None = None) -> list[str]:
    """Return the names of all clusters that are not down: recorded, or found running without a record.

    ``troubles`` takes the errors of systems that do not answer: of these the records alone are known.
    """
    running = _ask_each(lambda launcher: launcher.names(), [] if troubles is None else troubles, hosts)
    return sorted(set().union(*running) | set(Registry().open_names()))


def _ask_each(question: Callable[[Launcher], T | None], troubles: list[ClusterError], hosts: str | None) -> list[T]:
    """Return what the systems answer, without those that have none."""
    answers = []
    for target in TARGETS.values():
        on_hosts = any(item.name == "hosts" for item in dataclasses.fields(target))
        try:
            answer = question(configured(target, hosts=hosts) if on_hosts else target())
        except ClusterError as error:
            troubles.append(error)
            continue
        if answer is not None:
            answers.append(answer)
    return answers


def everywhere(ask: Callable[[Account], T], troubles: list[ClusterError]) -> list[tuple[str, Account, T]]:
    """Return (region, its launcher, answer) for every region of every cloud, all asked at the same time.

    ``troubles`` takes the errors of those that do not answer.
    """
    from concurrent.futures import ThreadPoolExecutor

    def answer(region: tuple[str, Account]) -> tuple[str, Account, T] | None:
        try:
            return *region, ask(region[1])
        except ClusterError as error:
            troubles.append(error)
            return None

    regions: list[tuple[str, Account]] = []
    for target in TARGETS.values():
        if isinstance(launcher := target(), Account):
            try:
                regions += launcher.everywhere().items()
            except ClusterError as error:
                troubles.append(error)
    with ThreadPoolExecutor(16) as pool:
        return [found for found in pool.map(answer, regions) if found is not None]


def check_alive(launcher: Launcher, record: Record, what: str = "cluster") -> None:
    """Raise ClusterError for a cluster that has ended, or of which nobody knows the address."""
    cure = f"clusterglm down {record.name}"
    state = launcher.state(record)
    if state == "gone":
        raise ClusterError(what, record.name, f"{launcher.obituary(record)}: {cure}")
    if not record.address:
        if state in ("pending", "held", "starting") and (members := launcher.members(record)):
            first = members[0]
            why = f" ({first.note})" if first.note else ""
            raise ClusterError(what, record.name, f"{first.name} is {first.state}{why}: wait, or {cure}")
        found = "has not answered yet: wait for its up, or"
        if record.state == "up":
            found = "runs, but its folder was removed and with it its address:"
        raise ClusterError(what, record.name, f"{found} {cure}")


def await_cluster(name: str, what: str, seconds: float | None, tell: Callable[[str], object]) -> None:
    """Wait while the scheduler of a cluster is pending or starts, and ``tell`` for what, in its system's own words.

    ``seconds`` is the limit, None for as long as it is pending, and the setting ``start-timeout`` for its start.
    Whoever connects then finds out what has become of it.
    """
    launcher, record = lookup(name, what)
    since, pause, told = time.monotonic(), _FIRST_PAUSE, ""
    while record.state == "up" and not record.address:
        state = launcher.state(record)
        if state not in ("pending", "starting"):
            break
        members = launcher.members(record)
        note = f" ({members[0].note})" if members and members[0].note and state == "pending" else ""
        if (text := f"waiting for {name}: its scheduler is {state}{note}") != told:
            tell(text)
            told, pause = text, _FIRST_PAUSE
        if seconds is None and state == "pending":
            since = time.monotonic()
        if time.monotonic() - since > (seconds or config.get("start-timeout")):
            break
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE if state == "pending" else 1.0)
        launcher, record = lookup(name, what)


def connect_cluster(
    name: str, *, what: str = "--cluster", timeout: float | None = None, allow_version_mismatch: bool = False
) -> Client:
    """Return a client of a cluster that ``clusterglm up`` started.

    Raises
    ------
    UsageError
        No such cluster.
    ClusterError
        It is being taken down, still starting, gone, does not answer, or runs other versions.
    """
    launcher, record = lookup(name, what)
    if record.state == "down":
        raise not_known(name, everything(), what)
    if (holder := Registry().busy(name)) and holder.get("command") == "down":
        raise ClusterError(what, name, f"being taken down by pid {holder.get('pid')} on {holder.get('host')}")
    check_alive(launcher, record, what)

    def client(record: Record) -> Client:
        return connect(
            launcher.reached(record) if isinstance(launcher, OnHosts) else record.address,
            what=what,
            value=name,
            cure=f"clusterglm down {name}",
            timeout=timeout,
            allow_version_mismatch=allow_version_mismatch,
            keys=Path(record.details["keys"]) if "keys" in record.details else None,
        )

    try:
        return client(record)
    except ClusterError as error:
        if not isinstance(launcher, Account):
            raise
        # Another machine may have ended it and started one of its name.
        successor = launcher.find(name)
        if successor is not None and successor.address not in ("", record.address):
            Registry().save(successor)
            return client(successor)
        if why := launcher.shut_out(record):
            raise moved(record, why, what) from error
        raise
