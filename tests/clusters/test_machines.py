"""Instance types."""

from __future__ import annotations

import pytest

from clusterglm.clusters.machines import machine
from clusterglm.errors import UsageError


def test_the_published_cluster_had_64_cores_and_240_gb() -> None:
    has = machine("m4.2xlarge")
    assert (8 * has.cores, 8 * has.memory) == (64, pytest.approx(240 * 2**30, rel=0.01))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("m4", "not an instance type"),
        ("m4.3large", "One of m4.large"),
        ("m4.2xlrge", "did you mean m4.2xlarge"),
        ("zz.large", "One of m4.large"),
        ("m4.48xlarge", r"One of m4.large, m4.xlarge, m4.2xlarge, m4.4xlarge, m4.10xlarge, m4.16xlarge"),
        ("m7i.32xlarge", "One of m7i.large"),
    ],
)
def test_an_unknown_type_is_refused(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        machine(name)
