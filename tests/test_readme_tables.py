"""Tables of the README that the code itself writes: ``python tests/test_readme_tables.py`` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from clusterglm.glm.families import PAIRS, REFUSED, get_family
from clusterglm.glm.penalties import PENALTIES

README = Path(__file__).parents[1] / "README.md"


def families() -> str:
    """Return the table of families and links: how each is proven, or why it is refused."""
    lines = ["| family | link | penalties | proof |", "|---|---|---|---|"]
    for name, links in PAIRS.items():
        for link in links:
            family = get_family(name, link)
            proof = "curvature, dual, free"
            if not np.isfinite(family.self_concordance):
                proof += "; within the range of the rows' predictors, which is measured"
            if family.predictors != 1:
                proof = "curvature; free where there is no intercept"
            needs = "; needs an intercept" if family.positive else ""
            lines.append(f"| {name} | {link} | {', '.join(PENALTIES)}{needs} | {proof} |")
    for (name, link), why in REFUSED.items():
        lines.append(f"| {name} | {link} | refused | {why} |")
    return "\n".join(lines)


TABLES = {"families": families}


def written(text: str) -> str:
    """Return the README's text with its tables as the code says them."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(\n<!-- end -->)"
        assert re.search(pattern, text, re.S), f"no place for the table of {name}"
        text = re.sub(pattern, lambda match, table=table: match[1] + table() + match[2], text, flags=re.S)
    return text


def test_the_readme_has_the_tables_that_the_code_writes() -> None:
    text = README.read_text()
    assert text == written(text), "run python tests/test_readme_tables.py"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
