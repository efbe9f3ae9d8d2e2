"""The pages as a reader sees them: in Chromium, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from made_up import HOSTILE, make_run

from clusterglm.report.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium fonts-dejavu-core"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    running = Browser()
    yield running
    running.close()


CASES = {
    "plain": ({}, 5),
    "one column": ({"columns": 1, "workers": 1, "chunks": 1, "iterations": 3, "notes": []}, 5),
    "a thousand columns": ({"columns": 1000, "workers": 40, "chunks": 400, "rounds": 20}, 6),
    "no proof": ({"certified": False, "truth": None, "truth_error": None, "status": "max_passes", "tasks": False}, 4),
    "hostile names": (
        {
            "columns": 5,
            "feature_names": HOSTILE,
            "notes": [f"warning: {name}" for name in HOSTILE],
            "command": HOSTILE[0],
        },
        5,
    ),
}


@pytest.mark.parametrize(("changes", "plots"), CASES.values(), ids=CASES.keys())
def test_report_draws_every_plot_without_an_error_or_a_request(
    browser: Browser, tmp_path: Path, changes: dict[str, object], plots: int
) -> None:
    seen = browser.open(write_report(make_run(tmp_path / "run", **changes)))
    assert seen.state["idle"]
    assert seen.errors == []
    assert seen.requests == []
    assert len(seen.colours) == plots
    assert min(seen.colours) > 3
    assert seen.state["hacked"] is None
    assert seen.state["wide"] <= 0


def test_the_harness_sees_errors_and_requests(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<script>throw Error('broken')</script><script src='http://127.0.0.1:9/x.js'></script>")
    seen = browser.open(page, limit=1.0)
    assert any("broken" in error for error in seen.errors)
    assert seen.requests == ["http://127.0.0.1:9/x.js"]
