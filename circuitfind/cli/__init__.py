"""The command line: ``circuitfind COMMAND``. Every command prints text for people, or one JSON value with ``--json``.

Exit codes:

* 0: done.
* 1: a replay disagrees, a submission would be refused by its loader, a known circuit fails its checks, or cells of a
  benchmark failed.
* 2: the input is wrong (one clear message, no traceback).
* 130: interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import typer

from circuitfind.cli.help_pages import arrange
from circuitfind.cli.options import app
from circuitfind.errors import CircuitfindError

from circuitfind.cli import stages, by_hand  # noqa: F401  # isort: skip (each adds its commands, in the order of the help page)
from circuitfind.cli import exchange, robustness, heads  # noqa: F401  # isort: skip
from circuitfind.cli import truths, bench, check, lists  # noqa: F401  # isort: skip


arrange(app)
INTERRUPTED = 130
"""Exit code after Ctrl-C. Newer versions of typer return this code; older ones raise an exception."""


def main() -> None:
    """Run the command line; the project's own errors become one message and exit code 2."""
    try:
        code = (
            app(prog_name="circuitfind", standalone_mode=False) or 0
        )  # the code of typer.Exit is returned, not raised
    except CircuitfindError as error:
        if os.environ.get("CIRCUITFIND_VERBOSE"):
            traceback.print_exc()
        _fail(str(error), 2)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as error:  # a missing folder, no permission, a full disk
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except Exception as error:
        _show_usage_error(error)
    if code == INTERRUPTED:
        advice = (
            "; the same command resumes it"
            if sys.argv[1:2] in (["discover"], ["bench"], ["compare-algorithms"])
            else ""
        )
        _fail(f"interrupted{advice}", INTERRUPTED)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"circuitfind: {message}", err=True)
    sys.exit(code)


def _show_usage_error(error: Exception) -> NoReturn:
    """Let typer show errors of the command line itself (unknown option, missing argument)."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    sys.exit(getattr(error, "exit_code", 2))
