"""Settings: flag over environment over YAML over default, and whatever is not a setting is refused (exit code 2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest
import yaml

from clusterglm import config
from clusterglm.errors import UsageError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``clusterglm.yaml`` in a Dask configuration folder that nobody else's files disturb."""
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("DASK_CLUSTERGLM__")]:
        monkeypatch.delenv(name)
    return tmp_path / "clusterglm.yaml"


def fresh(key: str, **environment: str) -> str:
    """Return a setting as a new process sees it, for Dask reads files and environment once, when it is imported."""
    code = f"from clusterglm import config; print(config.get({key!r}))"
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_every_default_is_a_key_and_passes_its_own_check() -> None:
    defaults = yaml.safe_load(config.DEFAULTS.read_text())["clusterglm"]
    assert set(defaults) == set(config.KEYS)
    for key in config.KEYS:
        config.get(key)


def test_values_arrive_parsed() -> None:
    assert config.get("worker-limit") == 4096
    assert config.get("idle-timeout") == 1800
    with dask.config.set({"clusterglm.memory": "4GiB"}):
        assert config.get("memory") == 4 * 2**30


def test_environment_wins_over_file_over_default(file: Path) -> None:
    assert fresh("worker-limit") == "4096"
    file.write_text("clusterglm: {worker-limit: 10}")
    assert fresh("worker-limit") == "10"
    assert fresh("worker-limit", DASK_CLUSTERGLM__WORKER_LIMIT="20") == "20"


def test_dask_settings_can_be_changed_one_by_one(file: Path) -> None:
    found = fresh("distributed", DASK_CLUSTERGLM__DISTRIBUTED__SCHEDULER__WORKER_TTL="10s")
    assert "'10s'" in found
    assert "'30s'" not in found
    assert "'allowed-failures': 20" in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clusterglm: {worker: 4}", r"clusterglm.yaml \(worker\): not a key: did you mean workers\?"),
        ("workers: 4", "write it under clusterglm:"),
        ("- workers", "must be a mapping"),
        ("clusterglm: 4", "must be a mapping"),
        ("clusterglm: {workers: many}", r"workers \(many\): must be a whole number"),
        ("clusterglm: {workers: true}", "must be a whole number"),
        ("clusterglm: {memory: abc}", "write 4GB or 4GiB"),
        ("clusterglm: {distributed: [1]}", "must be a mapping"),
        ("clusterglm: {idle-timeout: 25:99:99}", "not a duration"),
        ("a: [", "not plain YAML"),
        ("\x00", "not plain YAML"),
    ],
)
def test_a_wrong_file_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        config.check()


def test_an_object_tag_is_refused_and_not_run(file: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    file.write_text(f"clusterglm: !!python/object/apply:os.system ['touch {marker}']")
    with pytest.raises(UsageError, match="not plain YAML"):
        config.check()
    assert not marker.exists()


def test_a_huge_file_is_refused_unread(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(10**9)
    with pytest.raises(UsageError, match=r"clusterglm.yaml \(1.0 GB\): more than 1 MB"):
        config.check()


def test_an_empty_file_is_no_file(file: Path) -> None:
    file.write_text("# nothing yet\n")
    config.check()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WORKERS", "many", r"DASK_CLUSTERGLM__WORKERS \(many\): must be a whole number"),
        ("WORKERS", "0", "must be at least 1"),
        ("WORKRES", "1", "did you mean workers"),
        ("START_TIMEOUT", "soon", "write 2h or 02:00:00"),
    ],
)
def test_a_wrong_variable_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"DASK_CLUSTERGLM__{name}", value)
    with pytest.raises(UsageError, match=message):
        config.check()
