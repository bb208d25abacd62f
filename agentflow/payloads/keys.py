"""The installation's key: makes digests unguessable, signs pickles. Lives in the home folder, never in the journal."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from agentflow.errors import JournalOpenError

_BYTES = 32


def load_key(folder: Path) -> bytes:
    """The key of the installation whose home is `folder`; made, readable by its owner only, where there is none."""
    path = folder / "key"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = _create(path)
    except OSError as error:
        message = f"cannot read the installation's key {path}: {error.strerror}"
        raise JournalOpenError(message) from None
    if len(data) != _BYTES:
        message = (
            f"{path} is not a key of {_BYTES} bytes; restore it, or remove it if nothing of value is recorded"
        )
        raise JournalOpenError(message)
    return data


def _create(path: Path) -> bytes:
    """Write a new key in one step, so that two processes that start together agree on it."""
    draft = path.with_name(f"key.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror
        message = (
            f"cannot write the installation's key {path}: {reason}; set AGENTFLOW_HOME to a writable folder"
        )
        raise JournalOpenError(message) from None
