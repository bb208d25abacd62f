"""AES-256-GCM with keys that only workers hold: small values in one piece, blobs in chunks.

A keyring reads with every key and writes with its first. What was sealed for one purpose cannot be opened for another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from agentflow.errors import CorruptRecord, EncryptedValue, UsageError
from agentflow.payloads import envelopes

KEY_BYTES = 32
CHUNK = 1 << 20
_NONCE, _TAG, _SALT = 12, 16, 32
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_PURPOSE = b"agentflow value"
_HOW = (
    "it is a list of ID:KEY with commas between them, the one to encrypt with first; "
    "`agentflow encryption-keys generate` makes one"
)


class EncryptionKey(NamedTuple):
    """A key and what it is called in public."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"EncryptionKey({self.id!r})"


class Keyring:
    """Keys by their ids."""

    __slots__ = ("_keys", "_small", "first")

    def __init__(self, keys: Iterable[EncryptionKey]) -> None:
        self._keys = {key.id: key for key in keys}
        #: The one that encrypts; None = nothing is encrypted.
        self.first = next(iter(self._keys.values()), None)
        self._small: dict[str, Any] = {}

    @property
    def ids(self) -> list[str]:
        """The ids of its keys, the one that encrypts first."""
        return list(self._keys)

    def seal(self, data: bytes) -> bytes:
        """What a row holds of a small value."""
        if self.first is None:
            return data
        nonce = os.urandom(_NONCE)
        sealed = self._cipher(self.first.id).encrypt(nonce, data, _PURPOSE)
        return envelopes.ciphertext(self.first.id, nonce, sealed)

    def open(self, key_id: str, rest: bytes) -> bytes:
        """The bytes of a small value. Raises `EncryptedValue` without its key, `CorruptRecord` where it was altered."""
        try:
            return self._cipher(key_id).decrypt(rest[:_NONCE], rest[_NONCE:], _PURPOSE)
        except _invalid() as error:
            raise altered(key_id) from error

    def seal_blob(self, name: str, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        """The chunks of a blob, encrypted: bound to its name, their order and their number."""
        if self.first is None:
            message = "there is no key to encrypt with"
            raise UsageError(message)
        salt = os.urandom(_SALT)
        cipher = _aes(_derived(self.first.secret, salt))
        yield salt
        waiting: bytes | None = None
        count = 0
        for chunk in _resized(chunks):
            if waiting is not None:
                yield cipher.encrypt(_counted(count, last=False), waiting, name.encode())
                count += 1
            waiting = chunk
        yield cipher.encrypt(_counted(count, last=True), waiting or b"", name.encode())

    def open_blob(self, key_id: str, name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks of an encrypted blob. Raises as `open` does; what was cut off is altered, too."""
        source = _Exactly(chunks)
        cipher = _aes(_derived(self.secret(key_id), source.take(_SALT)))
        block = source.take(CHUNK + _TAG)
        for count in range(1 << 32):
            following = source.take(CHUNK + _TAG)
            try:
                yield cipher.decrypt(_counted(count, last=not following), block, name.encode())
            except (ValueError, _invalid()) as error:
                raise altered(key_id) from error
            if not following:
                return
            block = following

    def secret(self, key_id: str) -> bytes:
        """A key. Raises `EncryptedValue` where it is not there."""
        found = self._keys.get(key_id)
        if found is None:
            raise EncryptedValue(key_id)
        return found.secret

    def _cipher(self, key_id: str) -> Any:
        found = self._small.get(key_id)
        if found is None:
            found = self._small[key_id] = _aes(self.secret(key_id))
        return found


NO_KEYS = Keyring(())
"""Encrypts nothing, and reads nothing that is encrypted."""
#: Folders of a store that are no keys'.
_TAKEN = frozenset({"plain", "condemned", "drafts"})


def read_keys(text: str) -> list[EncryptionKey]:
    """The keys of a setting: ``ID:KEY`` with commas or line breaks between them. Raises `UsageError`, without a key."""
    found: dict[str, EncryptionKey] = {}
    for number, item in enumerate((part.strip() for part in re.split(r"[,\n]", text)), 1):
        if not item or item.startswith("#"):
            continue
        name, colon, secret = item.partition(":")
        if not colon or not _ID.fullmatch(name) or name in _TAKEN:
            message = f"key {number} of AGENTFLOW_ENCRYPTION_KEYS has no id; {_HOW}"
            raise UsageError(message)
        if name in found:
            message = f"AGENTFLOW_ENCRYPTION_KEYS names {name} twice"
            raise UsageError(message)
        found[name] = EncryptionKey(name, _secret(name, secret))
    return list(found.values())


def new_key(name: str) -> str:
    """A new key as settings name it. Raises `UsageError` for what cannot be an id."""
    if not _ID.fullmatch(name) or name in _TAKEN:
        message = f"{name!r} cannot be a key's id: 1 to 32 letters, digits, then also . _ -"
        raise UsageError(message)
    return f"{name}:{base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()}"


def altered(key_id: str) -> CorruptRecord:
    """What a ciphertext is called that is not what was written."""
    return CorruptRecord(
        f"a value encrypted with key {key_id} was altered, or another key has that id here; it is not read"
    )


def _secret(name: str, text: str) -> bytes:
    try:
        secret = base64.urlsafe_b64decode(text.strip().replace("+", "-").replace("/", "_"))
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        message = f"key {name} of AGENTFLOW_ENCRYPTION_KEYS is not {KEY_BYTES} bytes in base64; {_HOW}"
        raise UsageError(message)
    return secret


def _derived(secret: bytes, salt: bytes) -> bytes:
    """A key for one blob, so that the counters of its chunks can be its nonces."""
    return hmac.new(secret, b"agentflow blob" + salt, hashlib.sha256).digest()


def _counted(count: int, *, last: bool) -> bytes:
    return count.to_bytes(_NONCE - 1, "big") + (b"\1" if last else b"\0")


@cache
def _library() -> tuple[Any, type[Exception]]:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - only where something is encrypted
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - the same

    return AESGCM, InvalidTag


def _aes(secret: bytes) -> Any:
    return _library()[0](secret)


def _invalid() -> type[Exception]:
    return _library()[1]


def _resized(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    source = _Exactly(chunks)
    while block := source.take(CHUNK):
        yield block


class _Exactly:
    """Chunks of any size as blocks of one."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def take(self, count: int) -> bytes:
        """That many bytes; fewer at the end."""
        parts, have = [self._rest], len(self._rest)
        while have < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(bytes(chunk))
            have += len(chunk)
        whole = b"".join(parts)
        self._rest = whole[count:]
        return whole[:count]
