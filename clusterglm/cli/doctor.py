"""``clusterglm doctor TARGET``: what is missing, before anything is started."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import typer

from clusterglm.cli import options, output
from clusterglm.cli.up import with_inventory
from clusterglm.clusters.launcher import configured
from clusterglm.clusters.lookup import enter_rehearsal
from clusterglm.clusters.targets import TARGETS
from clusterglm.errors import ClusterError

_POLICY = options.Parameter(
    bool, typer.Option(False, "--iam-policy", help="Print the least rights that it needs, and look at nothing.")
)
_JSON = options.Parameter(bool, typer.Option(False, "--json", help="Print a list of objects."))


def register(app: typer.Typer) -> None:
    """Add ``doctor``, with one sub-command per target."""
    targets = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @targets.callback()
    def doctor() -> None:
        """Say what a target lacks before anything is started, with the cure (exit code 0 only if all is well)."""

    for name, launcher in TARGETS.items():
        targets.command(name, help=inspect.getdoc(launcher))(_command(launcher))
    app.add_typer(targets, name="doctor")


def _command(target: type[Any]) -> Callable[..., None]:
    """Return the command of a target, which takes the options that ``up`` takes."""

    def command(json_: bool, iam_policy: bool = False, **given: Any) -> None:
        launcher = configured(target, **with_inventory(given))
        if iam_policy:
            output.data_json(launcher.policy())
            return
        enter_rehearsal(launcher)
        examine(launcher, json_)

    own = {"iam_policy": _POLICY} if hasattr(target, "policy") else {}
    return options.give(command, {"json_": _JSON} | own | options.of_target(target))


def examine(launcher: Any, json_: bool) -> None:
    """Print every finding, as soon as it is there, and fail where one needs a cure."""
    from clusterglm.clusters import doctor

    findings = []
    for finding in doctor.examine(launcher):
        findings.append(finding)
        if not json_:
            cure = f": {finding.cure}" if finding.cure else ""
            output.data(f"{'WRONG' if finding.cure else 'ok':6} {finding.what:16} {finding.said}{cure}")
    if json_:
        output.data_json([dataclasses.asdict(finding) | {"well": not finding.cure} for finding in findings])
    if wrong := sum(bool(finding.cure) for finding in findings):
        raise ClusterError("doctor", f"{wrong} of {len(findings)}", "wrong: see the cures above")
