"""The command ``clusterglm``: its first instructions, before the import of the command line, which takes a while."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; a Ctrl-C that meets the imports ends it as any later one does, without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where nobody wants to hear it
        signal.signal(signal.SIGINT, _leave)
    from clusterglm import cli

    cli.main()  # whose handlers replace this one


def _leave(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    # Nothing is raised: it would be in the middle of an import, whose own code might swallow it.
    with contextlib.suppress(OSError, AttributeError):  # no stderr, or a closed one
        os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
