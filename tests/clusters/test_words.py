"""No word of a user reaches a shell, ends a directive or begins another."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clusterglm.clusters import words
from clusterglm.errors import UsageError

NASTY = st.text(max_size=140) | st.text("abc/ \n\r\t;|&$`'\"\\#%-=(){}[]*~!<>\x00\x1b\u2028", max_size=40)


def accepted(check: Callable[[str], object], text: str) -> object:
    """Return what a check makes of a text, None where it refuses in the words of a usage error."""
    try:
        return check(text)
    except UsageError as error:
        refusal = str(error)
    assert "\n" not in refusal
    return None


@pytest.mark.parametrize("text", ["debug", "a,b", "knl&quad", "[rack1*2&rack2*4]", "user@grp", "x.y-z_1", "gpu:a100"])
def test_words_of_real_sites_pass(text: str) -> None:
    assert words.word(text, "--partition") == text


@pytest.mark.parametrize("text", ["", "-p", "--wrap=rm", "a b", "a\n#SBATCH -A x", "a;b", "$(x)", "`x`", "é"])
def test_words_that_could_do_harm_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--partition"):
        words.word(text, "--partition")


@given(NASTY)
@example("\n")
@example("ok\n")
def test_a_word_is_one_token_of_any_directive(text: str) -> None:
    if (found := accepted(lambda value: words.word(value, "--account"), text)) is not None:
        assert found == text
        assert text.isascii()
        assert text.isprintable()
        assert not set(text) & set(" \"'\\#$`;%<>{}~!?^")
        assert text[0] != "-"


@given(NASTY.map(lambda text: f"/{text}"))
@example("/a\n")
def test_a_path_stays_whole(text: str) -> None:
    if (found := accepted(lambda value: words.path(value, "--run-folder"), text)) is not None:
        assert isinstance(found, str)
        assert found.startswith("/")
        assert not found.startswith("//")
        assert ".." not in found.split("/")
        assert not set(found) & set(" \t\r\n%;|=,:\"'\\#$`&<>()[]{}*?!")
        assert found.isprintable()


@pytest.mark.parametrize("text", ["relative", "/a/../b", "", "~/runs", "/a b", "/a%j"])
def test_paths_that_mean_something_else_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--run-folder"):
        words.path(text, "--run-folder")


def test_paths_of_real_homes_pass() -> None:
    assert words.path("/home/josé/runs//a/", "--run-folder") == "/home/josé/runs/a"


def test_modules_are_split_and_checked() -> None:
    assert words.modules("gcc/13.2, python/3.12  cuda") == ("gcc/13.2", "python/3.12", "cuda")
    for text in ("", "a;b", "$(x)", "-u", "gcc\n;rm"):
        with pytest.raises(UsageError, match="--modules"):
            words.modules(text)


@given(NASTY)
def test_no_line_of_a_prologue_is_a_directive(text: str) -> None:
    for line in str(accepted(words.prologue, text) or "").split("\n"):
        assert not line.lstrip().startswith(("#SBATCH", "#PBS", "#$", "#BSUB", "#OAR", "#MSUB"))
        assert all(c.isprintable() or c == "\t" for c in line)


@pytest.mark.parametrize("text", ["#SBATCH -A x", "  #PBS -q y", "true\n#$ -q z", "# bsub -q", "a\x00b", "a\x1b[0m"])
def test_directives_and_control_characters_in_a_prologue_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--prologue"):
        words.prologue(text)


@given(NASTY.map(lambda text: f"-{text}"))
def test_a_directive_stays_on_its_line(text: str) -> None:
    if (found := accepted(words.directive, text)) is not None:
        assert str(found).isprintable()
        assert str(found).startswith("-")
        assert "#" not in str(found)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30), max_size=4))
def test_a_shell_runs_exactly_these_words(texts: list[str]) -> None:
    line = words.shell("printf", "%s\\0", *texts)
    assert shlex.split(line)[2:] == texts
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    assert done.stdout == b"".join(text.encode() + b"\0" for text in texts or [""])


@given(NASTY)
def test_an_interface_is_a_name(text: str) -> None:
    if (found := accepted(words.interface, text)) is not None:
        assert str(found).isascii()
        assert not set(str(found)) & set(" \t\n;|&$`/")
