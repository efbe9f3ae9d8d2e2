"""The floors: no import runs upward or across the wings (README, "How the code is laid out")."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clusterglm"
FLOOR = {"errors": 0, "units": 0, "signals": 0, "config": 1, "scheduler": 1}
FLOOR |= {"glm": 2, "data": 2, "clusters": 2, "cli": 4, "__main__": 4}
WINGS = {"glm", "data", "clusters"}


def room(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, at any depth of nesting."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_runs_upward_or_across_wings(path: Path) -> None:
    here = room(path.relative_to(PACKAGE).parts)
    for name in imports(path):
        if not name.startswith("clusterglm.") or here == "__init__":
            continue
        there = name.split(".")[1]
        if there not in FLOOR and not (PACKAGE / there).exists() and not (PACKAGE / f"{there}.py").exists():
            continue  # a public name of the package itself, such as __version__
        assert FLOOR.get(there, 3) <= FLOOR.get(here, 3), f"{here} imports {name}, which lies on a higher floor"
        assert here not in WINGS or there not in WINGS - {here}, f"wing {here} imports wing {there}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "glm").rglob("*.py")), ids=lambda p: p.name)
def test_the_glm_wing_knows_no_dask(path: Path) -> None:
    assert not {n for n in imports(path) if n.split(".")[0] in {"dask", "distributed", "pyarrow", "pandas"}}


@pytest.mark.parametrize("name", ["errors.py", "units.py", "signals.py"])
def test_the_ground_floor_is_standard_library_only(name: str) -> None:
    import sys

    tops = {n.split(".")[0] for n in imports(PACKAGE / name)}
    assert tops <= set(sys.stdlib_module_names) | {"clusterglm"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rows_are_never_scattered_replicated_or_pinned(path: Path) -> None:
    """Scattered rows are lost with their worker and broadcasts of coefficients hang; a strict pin waits for ever."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in {"scatter", "replicate"}, f"{path}:{node.lineno}"
            words = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if "workers" in words and node.func.attr in {"submit", "map", "compute", "persist"}:
                assert words.get("allow_other_workers") == "True", f"{path}:{node.lineno}: a strict pin"
            # F6: what an actor holds dies with its worker.
            assert not {word.arg for word in node.keywords} & {"actor", "actors"}, f"{path}:{node.lineno}: an actor"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_room_is_crowded(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
