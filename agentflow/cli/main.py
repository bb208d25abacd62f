"""The program ``agentflow``: its commands, and how everything that can go wrong becomes one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from cyclopts import App, CycloptsError, Parameter

from agentflow.cli import (
    approvals,
    cache,
    db,
    deployments,
    encryption_keys,
    events,
    keys,
    limits,
    runs,
    serving,
    tasks,
)
from agentflow.cli.doctor import doctor
from agentflow.cli.output import FAILED, INTERRUPTED, WRONG_USE, complain
from agentflow.cli.run import run
from agentflow.errors import AgentflowError, Fenced, Unwinding, UsageError
from agentflow.version import VERSION


def build() -> App:
    """The commands."""
    app = App(
        name="agentflow",
        help="Durable workflows for AI agents: run flows, inspect and resume runs, sign side effects.",
        version=VERSION,
        help_format="plaintext",
        # the help of an option says what it means to leave it out
        default_parameter=Parameter(show_default=False),
        suppress_keyboard_interrupt=False,
    )
    app.command(run)
    app.command(runs.app)
    app.command(approvals.app)
    app.command(events.app)
    app.command(limits.app)
    app.command(cache.app)
    app.command(db.app)
    app.command(encryption_keys.app)
    app.command(keys.app)
    app.command(deployments.deploy)
    app.command(deployments.app)
    app.command(serving.serve)
    app.command(serving.server)
    app.command(serving.work, name="worker")
    app.command(serving.app)
    app.command(tasks.app)
    app.command(
        "agentflow.cli.demo:demo", name="demo"
    )  # imported when it is called: it brings a model server
    app.command(doctor)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    `arguments`: default: those of the process, which then also answers to SIGINT and SIGTERM.
    """
    if arguments is None:
        # also where a shell started us in the background, which makes it ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, _like_ctrl_c)
    try:
        code = build()(
            sys.argv[1:] if arguments is None else arguments,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except CycloptsError as error:
        complain(f"{error} (see agentflow --help)")
        return WRONG_USE
    except (UsageError, Fenced) as error:
        complain(str(error))
        return WRONG_USE
    except (AgentflowError, Unwinding) as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return int(code or 0)


def _like_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    raise SystemExit(main())
