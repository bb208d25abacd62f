"""Codecs and vaults as the settings ask for them: the only place that knows settings and makes either."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

from agentflow.errors import CorruptRecord, UsageError
from agentflow.payloads.blobs import BlobStore, FolderStore
from agentflow.payloads.codec import Codec
from agentflow.payloads.encryption import Keyring, read_keys
from agentflow.payloads.envelopes import Draft, referred, shown_instead
from agentflow.payloads.vault import Vault
from agentflow.settings import Settings

#: Bytes of a stored value up to which people are shown it.
_SHOWN = 10_000_000
_SCHEMES = ("s3", "gs", "az")


class KeptIn(Protocol):
    """What is asked of a journal here."""

    key: bytes

    @property
    def identity(self) -> str:
        """Tells it from every other journal; empty for one that ends with its process."""
        ...

    @property
    def beside(self) -> Path | None:
        """Where its large values are kept unless the settings say something else; None = in their rows."""
        ...


_vaults: WeakKeyDictionary[KeptIn, dict[tuple[object, ...], Vault]] = WeakKeyDictionary()


def open_codec(
    journal: KeptIn, settings: Settings | None = None, *, allow_pickle: bool | None = None
) -> Codec:
    """The codec of a journal. Raises `UsageError` for settings that cannot be.

    `settings`: default, those of the environment; `allow_pickle`: default, what they say.
    """
    settings = settings or Settings.from_environment()
    allowed = settings.allow_pickle if allow_pickle is None else allow_pickle
    return Codec(journal.key, allow_pickle=allowed, vault=open_vault(journal, settings))


def open_for_people(
    journal: KeptIn, settings: Settings | None = None, *, most: int = _SHOWN
) -> Callable[[bytes], Draft]:
    """How pages, the API and the tools of models read a value: never what is encrypted, whatever keys there are here.

    What it gives raises `CorruptRecord` for that, and for a stored value of more than `most` bytes.
    """
    vault = open_vault(journal, settings or Settings.from_environment()).without_keys()

    def opened(data: bytes) -> Draft:
        found = referred(data)
        if found is not None and found[1] > most:
            raise CorruptRecord(shown_instead(data))
        return vault.open(data)

    return opened


def open_vault(journal: KeptIn, settings: Settings) -> Vault:
    """Where a journal's values are kept; one per process, journal and settings. Raises as `open_codec` does."""
    known = _vaults.setdefault(journal, {})
    asked = (
        settings.payloads_url,
        settings.payload_inline_limit,
        settings.encryption_keys,
        settings.encryption_key_file,
        os.getpid(),
    )
    found = known.get(asked)
    if found is None:
        store = None if settings.payload_inline_limit < 0 else _store(journal, settings.payloads_url)
        limit = settings.payload_inline_limit
        found = known[asked] = Vault(journal.key, store, keyring_of(settings), limit)
    return found


def keyring_of(settings: Settings) -> Keyring:
    """The keys of the settings: those of the variable before those of the file. Raises `UsageError`."""
    text = settings.encryption_keys
    if settings.encryption_key_file:
        path = Path(settings.encryption_key_file).expanduser()
        try:
            text = f"{text}\n{path.read_text('utf-8')}"
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            message = f"cannot read AGENTFLOW_ENCRYPTION_KEY_FILE={path}: {reason}"
            raise UsageError(message) from None
    return Keyring(read_keys(text))


def _store(journal: KeptIn, url: str) -> BlobStore | None:
    if not url:
        return None if journal.beside is None else FolderStore(journal.beside)
    if not journal.identity:
        return None
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.strip("/"):
        return FolderStore(Path(unquote(parts.path)) / journal.identity)
    if parts.scheme not in _SCHEMES or not parts.hostname or "@" in parts.netloc or parts.query:
        message = (
            "AGENTFLOW_PAYLOADS_URL is not an address of a store; use file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/"
            "PREFIX or az://CONTAINER/PREFIX (its credentials have variables of their own)"
        )
        raise UsageError(message)
    from agentflow.payloads.objects import ObjectStore  # noqa: PLC0415 - an extra, heavy

    return ObjectStore(parts.scheme, parts.netloc, f"{parts.path.strip('/')}/{journal.identity}".strip("/"))
