"""``clusterglm plan``: what a fit would take, with nothing started."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]
PRESET = Path(__file__).parents[2] / "launch" / "published-ec2.yaml"


def test_the_published_experiment_on_the_published_cluster(cli: Cli) -> None:
    named = cli(*["plan", "admm", "--rows", "8e8", "ec2", "--workers", "8", "--instance-type", "m4.2xlarge"])
    assert named.returncode == 0, named.stderr
    assert named.stdout == cli("plan", "admm", "--rows", "8e8", "--preset", PRESET).stdout
    for words in ("8 x m4.2xlarge: 8 workers, 64 threads", "102.4 GB", "in memory: 102.4 GB", "64 tasks a pass"):
        assert words in named.stdout
    more = json.loads(cli("plan", "admm", "--rows", "8e8", "--preset", PRESET, "--workers", 16, "--json").stdout)
    assert (more["workers"], more["threads"], more["storage"]) == (16, 128, "memory")
    assert 0 < more["seconds_fit"] < 60
    assert more["speeds"]["measured"] is False
    on_disk = cli("plan", "admm", "--rows", "8e8", "--preset", PRESET, "--storage", "disk", "--json")
    assert json.loads(on_disk.stdout)["storage"] == "disk"
    small = cli("plan", "admm", "--rows", "8e8", "--preset", PRESET, "--storage", "disk", "--disk", "8GB")
    assert (small.returncode, "64.0 GB free on the workers' disks" in small.stderr) == (2, True)


def test_on_this_machine_any_number_of_rows_has_a_plan(cli: Cli) -> None:
    found = cli("plan", "auto", "--rows", "8e8", "--workers", 2, "--memory", "4GB", "--json")
    told = json.loads(found.stdout)
    assert (told["storage"], told["cluster"], told["solver"]) == ("stream", "this machine", "proximal_newton")
    assert told["peak_memory"] < 1e9
    assert any(reason.startswith("note: 102.4 GB of rows, and room for") for reason in told["reasons"])
    wide = cli("plan", "admm", "--rows", "1e6", "--columns", 1000, "--workers", 2)
    assert " a worker, and " in wide.stdout
    assert wide.stdout.count(" GB where the fit is run from") == 1
    small = cli("plan", "newton", "--rows", 1000, "local")
    assert "storage         memory" in small.stdout
    assert small.stderr == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("plan admm", "missing option '--rows'"),
        ("plan admm --rows 0", "--rows (0): must be at least 1"),
        ("plan admn --rows 10", "solver (admn): not known: did you mean admm?"),
        ("plan admm slurmm --rows 10", "target (slurmm): not known: One of local, ec2"),
        ("plan newton --rows 10 --penalty l1", "newton needs a smooth penalty"),
        ("plan admm --rows 10 --instance-type m4.large", "--instance-type (m4.large): belongs to ec2"),
        ("plan admm ec2 --rows 10 --instance-type m4.2xlrge", "did you mean m4.2xlarge?"),
        ("plan admm ec2 --rows 10 --workers 0", "--workers (0): must be at least 1"),
        ("plan admm ec2 --rows 10 --disk big", "--disk (big): not a size"),
        (
            "plan admm ec2 --rows 8e8 --workers 4 --storage memory",
            "--storage (memory): 102.4 GB of rows, 127.8 GB of memory on 4 workers: use --storage stream or disk",
        ),
        ("plan admm --rows 1e12 --storage disk", "--storage (disk): 128.0 TB of rows, "),
        ("plan admm --rows 10 --preset no.yaml", "--preset (no.yaml): no such file or directory"),
        ("plan admm --rows 10 --preset /dev/null", "--preset (/dev/null): must be a mapping with the keys target, "),
    ],
)
def test_a_wrong_line_is_refused_in_one_line(cli: Cli, line: str, message: str) -> None:
    found = cli(*line.split())
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: ")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_preset_with_a_key_that_is_none_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("target: ec2\nworkesr: 8\n")
    found = cli("plan", "admm", "--rows", 10, "--preset", path)
    assert (found.returncode, found.stdout) == (2, "")
    assert "workesr): not known: did you mean workers?" in found.stderr
    path.write_text("!!python/object/apply:os.system [touch /tmp/x]\n")
    assert "not plain YAML" in cli("plan", "admm", "--rows", 10, "--preset", path).stderr


def test_the_published_cluster_is_priced_before_it_is_started(cli: Cli) -> None:
    told = cli("up", "ec2", "--workers", 8, "--dry-run", "--region", "us-east-1")
    assert told.returncode == 0, told.stderr
    for words in ("scheduler: m4.2xlarge", "8 x m4.2xlarge", "$3.68 an hour", "# fit admm --rows 8e8\nabout "):
        assert words in told.stdout
    assert "(3 min of boot included; $3.68 an hour)" in cli("plan", "admm", "ec2", "--rows", "8e8").stdout
