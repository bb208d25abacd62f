"""Keeps standard output for the protocol while flows are being loaded. Loads no MCP library.

The server itself moves the descriptor out of the way of flows and their children while it serves (`run_stdio`); what
is printed before that, by a module that is being imported, would reach the client as a broken message.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def stdout_kept_clean() -> Generator[None, None, None]:
    """Send what is written to standard output in this block, by Python or a child process, to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
