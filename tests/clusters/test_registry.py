"""Records: no update lost, no half file, no name outside the folder, no foreign file touched."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterglm.clusters.launcher import Record
from clusterglm.clusters.registry import Registry, checked_name, run_folder, state_folder
from clusterglm.errors import ClusterError, UsageError

Spawn = Callable[..., subprocess.Popen[str]]

COUNT = """
import sys
from clusterglm.clusters.registry import Registry
registry = Registry()
for _ in range(int(sys.argv[1])):
    registry.update("a", workers=lambda n: n + 1)
"""
COUNT_FOR_EVER = """
from clusterglm.clusters.registry import Registry
registry = Registry()
print("ready", flush=True)
while True:
    registry.update("a", workers=lambda n: n + 1)
"""
CREATE = """
import sys
from clusterglm.clusters.launcher import Record
from clusterglm.clusters.registry import Registry
from clusterglm.errors import ClusterError
for name in sys.argv[1:]:
    try:
        Registry().create(Record(name=name, target="local", workers=1, host="h", user=0, created="now"))
        print(name)
    except ClusterError as error:
        assert error.exit_code == 4
"""
HOLD = """
import signal
from clusterglm.clusters.registry import Registry
with Registry().holding("a", "down"):
    print("held", flush=True)
    signal.pause()
"""


def record(name: str = "a") -> Record:
    return Record(name=name, target="local", workers=0, host="h", user=os.getuid(), created="2026-11-03T11:20:00+00:00")


@pytest.fixture
def registry(state: Path) -> Registry:
    return Registry()


def test_a_record_is_read_as_it_was_written(registry: Registry) -> None:
    written = dataclasses.replace(record(), details={"scheduler": {"pid": 1, "started": 0.1}}, address="tcp://h:1")
    registry.create(written)
    assert Registry().read("a") == written
    assert registry.read("b") is None


def test_files_are_private_under_any_umask(state: Path) -> None:
    before = os.umask(0)
    try:
        Registry().create(record())
        with Registry().holding("a", "up"):
            pass
    finally:
        os.umask(before)
    for path in [state, *state.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_eight_processes_lose_no_update(registry: Registry, spawn: Spawn) -> None:
    registry.create(record())
    writers = [spawn("-c", COUNT, 50) for _ in range(8)]
    while any(writer.poll() is None for writer in writers):
        assert registry.read("a") is not None  # never torn, never absent
    assert [writer.returncode for writer in writers] == [0] * 8
    assert registry.load("a").workers == 400


def test_a_writer_killed_in_the_middle_leaves_a_whole_record_and_a_free_lock(registry: Registry, spawn: Spawn) -> None:
    registry.create(record())
    for _ in range(5):
        writer = spawn("-c", COUNT_FOR_EVER)
        assert writer.stdout is not None
        writer.stdout.readline()
        before = registry.load("a").workers
        while registry.load("a").workers < before + 3:
            pass
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert registry.update("a", workers=lambda n: n + 1).workers > before


def test_old_temporary_files_are_swept(registry: Registry) -> None:
    old, new = (registry.folder / f"a.{name}.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    Registry()
    assert not old.exists()
    assert new.exists()


def test_of_two_that_create_one_name_exactly_one_wins(state: Path, spawn: Spawn) -> None:
    names = [f"race-{number}" for number in range(50)]
    racers = [spawn("-c", CREATE, *names) for _ in range(2)]
    won = [name for racer in racers for name in racer.communicate()[0].split()]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(won) == sorted(names)


def test_a_name_in_use_is_refused_with_since_when(registry: Registry) -> None:
    registry.create(record())
    with pytest.raises(ClusterError, match=r"--name \(a\): in use since 2026-11-03T11:20.* on local: another name"):
        registry.create(record())
    registry.update("a", state="down")
    registry.create(record())


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", "\x00", "\udcff", '{"schema": 1}', '{"schema": 1, "name": "a", "surprise": 1}'),
        *(
            json.dumps(dataclasses.asdict(record()) | wrong)
            for wrong in ({"name": "b"}, {"workers": "x"}, {"details": 5})
        ),
        json.dumps(dataclasses.asdict(record()) | {"state": "dreaming"}),
    ],
)
def test_a_corrupt_record_is_refused_and_kept(registry: Registry, text: str) -> None:
    path = registry.folder / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for act in (lambda: registry.load("a"), lambda: registry.create(record()), lambda: registry.update("a", workers=2)):
        with pytest.raises(ClusterError, match=r"record a\.json: not readable as a record"):
            act()
    assert path.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_a_record_of_a_newer_schema_is_refused_and_kept(registry: Registry) -> None:
    path = registry.folder / "a.json"
    path.write_text(json.dumps(dataclasses.asdict(record()) | {"schema": 3, "news": True}))
    with pytest.raises(ClusterError, match=r"record a\.json \(schema 3\): written by a newer clusterglm: upgrade"):
        registry.load("a")
    assert registry.names() == registry.open_names() == ["a"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=300))
def test_a_name_is_harmless_or_refused(state: Path, name: str) -> None:
    try:
        folder = run_folder(name)
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert folder.resolve().parent == (state / "clusters").resolve()


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "-rf", "a" * 300, "a\n", "a\nb", "a\0b", "а", "A", "..", ".", "a.json", "9", "a·b"]
)
def test_dangerous_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="starting with a letter, at most 31"):
        checked_name(name)


def test_a_linked_record_is_not_followed(registry: Registry, tmp_path: Path) -> None:
    target = tmp_path / "other.json"
    target.write_text(json.dumps(dataclasses.asdict(record())))
    (registry.folder / "a.json").symlink_to(target)
    with pytest.raises(ClusterError, match="not readable as a record"):
        registry.load("a")


def test_a_linked_state_folder_is_refused(state: Path, tmp_path: Path) -> None:
    state.parent.mkdir()
    state.symlink_to(tmp_path)
    with pytest.raises(ClusterError, match="a link or a file"):
        state_folder()


def test_a_state_folder_that_others_may_write_is_refused(state: Path) -> None:
    state.mkdir(parents=True)
    state.chmod(0o777)
    with pytest.raises(ClusterError, match=f"writable by others: chmod 700 {state}"):
        state_folder()


def test_a_state_folder_below_a_file_is_refused(state: Path) -> None:
    state.parent.write_text("a file")
    with pytest.raises(ClusterError, match=r"state directory \(.*\): not writable: set XDG_STATE_HOME"):
        state_folder()


def test_a_held_cluster_says_who_holds_it_until_that_one_dies(registry: Registry, spawn: Spawn) -> None:
    holder = spawn("-c", HOLD)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert registry.busy("a")["pid"] == holder.pid
    with (
        pytest.raises(ClusterError, match=rf"\(a\): being taken down by pid {holder.pid} on "),
        registry.holding("a", "up"),
    ):
        pass
    holder.kill()
    holder.wait()
    assert registry.busy("a") == {}
    with registry.holding("a", "up"):
        assert registry.busy("a")["command"] == "up"
