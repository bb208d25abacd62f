"""Identifiers: time-ordered UUIDs (RFC 9562, version 7) as text."""

from __future__ import annotations

import uuid_utils


def new_id() -> str:
    """A new UUIDv7: unique, and later ones sort after earlier ones."""
    return str(uuid_utils.uuid7())
