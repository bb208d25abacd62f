"""Keys by which workers are let in: made here, shown once; a store only ever sees their digests."""

from __future__ import annotations

import hashlib
import secrets
import time

from agentflow.errors import UsageError
from agentflow.journal.protocol.serving import ApiKey

_PREFIX = "afw"
_LONGEST_NAME = 80


def new_api_key(name: str) -> tuple[ApiKey, str]:
    """A new key: what is known of it, and the text that its holder shows. Raises `UsageError` for a bad name."""
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        message = (
            f"{name[:_LONGEST_NAME]!r} is no name for a key; give 1 to {_LONGEST_NAME} printable characters"
        )
        raise UsageError(message)
    key_id = secrets.token_hex(4)
    # 256 random bits: a plain digest cannot be turned around
    return ApiKey(key_id, name.strip(), time.time()), f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"


def digest_of(key: str) -> bytes:
    """By what a store knows a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
