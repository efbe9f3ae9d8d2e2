"""The command line. Each command is a file with a function ``register(app)``; here is the only exit.

Whatever happens below becomes one line on stderr and one exit code; ``--debug``, anywhere on the line, adds the
traceback.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from clusterglm import __version__, config, signals
from clusterglm.cli import (
    bench,
    dashboard,
    doctor,
    down,
    fit,
    generate,
    keys,
    logs,
    ls,
    output,
    path,
    plan,
    predict,
    prices,
    report,
    scale,
    script,
    ssh,
    status,
    up,
)
from clusterglm.clusters.launcher import Elsewhere
from clusterglm.errors import (
    FAILURE,
    INTERRUPTED,
    RESUMABLE,
    USAGE,
    ClusterglmError,
    Interrupted,
    UsageError,
    quoted,
    unknown,
)

_WORK = (fit, path, plan, predict, generate, report, bench)
COMMANDS = (*_WORK, up, ls, status, scale, logs, dashboard, ssh, down, doctor, prices, script, keys)

# typer keeps click's exceptions in a place that depends on its version; all are refused command lines.
_Refused: type[Exception] = typer.BadParameter.__mro__[2]


def application() -> typer.Typer:
    """Return the command line with all its commands."""
    app = typer.Typer(
        name="clusterglm",
        epilog="--debug, anywhere on the line, shows the traceback of an error.",
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def clusterglm(
        version: bool = typer.Option(
            False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ) -> None:
        """Fit generalized linear models on all rows, on the machines that you have."""

    for command in COMMANDS:
        command.register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        output.data(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process: nobody wants to read it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale that cannot show a letter is no reason to fail
    signals.listen()
    code = run(sys.argv[1:])
    signals.ignore()  # all is said and done: the interpreter's end must not change the code
    if code in (INTERRUPTED, RESUMABLE):
        # Nor may what libraries do at exit, seconds after everything of ours is closed, and Python itself, which ends
        # by SIGINT where the signal met an exec() of an import.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; everything but ``SystemExit`` is turned into one."""
    debug = "--debug" in arguments
    plain = [argument for argument in arguments if argument != "--debug"]
    try:
        config.check()
        try:
            code = _invoke(plain)
        except Elsewhere as place:
            place.enter(arguments)  # and runs there from its beginning
        output.flush()
        return code
    except BrokenPipeError:  # `clusterglm ls | head -1`: the reader has what it wanted
        output.forget(sys.stdout)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _report(error)


def _invoke(arguments: list[str]) -> int:
    command = typer.main.get_command(application())
    try:
        # Not command.main(), which has exits of its own.
        with command.make_context("clusterglm", arguments) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return 0


def _report(error: BaseException) -> int:
    """Print an error as one line (a table may follow) and return its exit code."""
    if isinstance(error, Interrupted):
        output.words(str(error))
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        output.words("interrupted")
        return INTERRUPTED
    if isinstance(error, _Refused):
        if type(error).__name__ == "NoArgsIsHelpError":
            output.words(error.format_message())  # type: ignore[attr-defined]
            return USAGE
        error = _refusal(error)
    if isinstance(error, ClusterglmError):
        output.words(f"error: {error}")
        return error.exit_code
    text = quoted(f"{type(error).__name__}: {error}")
    output.words(f"error: unexpected {text}: run again with --debug, and report what it shows")
    return FAILURE


def _refusal(error: Any) -> ClusterglmError:
    """Return a command line that typer refused in the form of our own messages."""
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context else "clusterglm"
    message = error.format_message().strip().rstrip(".")
    if match := re.match(r"No such command '(.*?)'(?:\. Did you mean .*)?$", message, re.S):
        return unknown("TARGET" if path.endswith(" up") else "command", match[1], context.command.commands)
    if context and message.startswith("No such option"):
        options = [option for parameter in context.command.params for option in parameter.opts if option[:2] == "--"]
        return unknown("option", error.option_name, [*options, "--help"])
    return UsageError(quoted(message[:1].lower() + message[1:]), None, f"see {path} --help")
