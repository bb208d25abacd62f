"""The one place that turns the bytes of a value into what a row holds, and back: inline, a reference, or ciphertext.

A blob's name is a keyed digest of its content, so that equal values are stored once; it is durable before the row that
refers to it can be. A row never waits for long: see `Vault.name_for` for how blobs that nothing refers to are told.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from copy import copy
from itertools import count
from typing import NamedTuple

from agentflow.errors import CorruptRecord
from agentflow.payloads import envelopes
from agentflow.payloads.blobs import BlobStore
from agentflow.payloads.encryption import NO_KEYS, Keyring
from agentflow.payloads.envelopes import PART_SIZE, Chunks, Draft, read_draft

_NAME = re.compile(r"(?:(?P<key>[A-Za-z0-9][A-Za-z0-9._-]*)/)?(?P<digest>[0-9a-f]{64})(?:\.\d+)?")
#: Folder of the marks on blobs that are about to be removed.
CONDEMNED = "condemned/"


class Place(NamedTuple):
    """What a blob's name says."""

    digest: str
    #: Id of the key that it is encrypted with; "" = it is not.
    key_id: str


class Vault:
    """Keeps values of one journal. `limit`: bytes up to which they stay in their row; without a store, all do."""

    def __init__(self, key: bytes, store: BlobStore | None, keyring: Keyring, limit: int) -> None:
        self._key = hashlib.sha256(b"agentflow blob" + key).digest()
        self.store, self.keyring, self.limit = store, keyring, limit
        #: Whether what is kept from now on is encrypted.
        self.encrypts = keyring.first is not None

    def without_keys(self) -> Vault:
        """The same, for a reader that nothing is to be decrypted for."""
        vault = copy(self)
        vault.keyring = NO_KEYS
        return vault

    def keep(self, draft: Draft) -> bytes:
        """What a row holds of a value. Raises `JournalUnavailable` where the store is out of reach."""
        size = draft.size()
        if self.store is not None and size > self.limit:
            return envelopes.reference(self._stored(self.store, draft), size)
        data = b"".join(draft.chunks()) if draft.parts else draft.text
        return self.keyring.seal(data) if self.encrypts else data

    def takes_long(self, draft: Draft) -> bool:
        """Whether to keep a value may take long: it goes to the store, or much of it has to be encrypted or copied."""
        size = len(draft.text)
        return bool(draft.parts) or size > PART_SIZE or (self.store is not None and size > self.limit)

    def open(self, data: bytes, *, parts: bool = True) -> Draft:
        """The draft that a row holds. Without `parts` its text alone, and a blob is not checked beyond that.

        Raises `CorruptRecord` where it is missing or altered, `EncryptedValue` without its key.
        """
        found = envelopes.referred(data)
        if found is not None:
            return self._read(*found, parts=parts)
        sealed = envelopes.ciphered(data)
        if sealed is not None:
            data = self.keyring.open(*sealed)
        if data[:1] != b"%c" % envelopes.PARTS:
            return Draft(data)
        return read_draft(Chunks([data]), parts=parts)

    def verify(self, name: str, size: int) -> bool:
        """Read all of a stored value; whether its content could be compared with its name: not without its key.

        Raises `CorruptRecord` where it is missing or altered.
        """
        place, store = place_of(name), self._need_store(name)
        if place.key_id and place.key_id not in self.keyring.ids:
            return False
        try:
            for _ in _Checked(self, place.digest, name, size, self._plain(store, name, place)).whole():
                pass
        except CorruptRecord as error:
            raise error if name in str(error) else _altered(name) from None
        return True

    def checked(self, name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Chunks that are about to be stored under a name. Raises `CorruptRecord` at their end where they are others.

        Ciphertexts are compared with nothing: whoever reads them will be told.
        """
        place, state = place_of(name), self.hasher()
        for chunk in chunks:
            state.update(chunk)
            yield chunk
        if not place.key_id and state.hexdigest() != place.digest:
            raise _altered(name)

    def name_for(self, digest: str) -> str:
        """Under which name content can be stored, or is.

        A blob that nothing refers to is first marked, and removed when the mark is old and still nothing refers to
        it. So whoever finds no mark may refer to the blob; whoever finds one stores the content under another name.
        """
        store = self.store
        folder = envelopes.PLAIN if self.keyring.first is None else self.keyring.first.id
        for number in count():
            name = f"{folder}/{digest}" + (f".{number}" if number else "")
            if store is None or store.size(CONDEMNED + name) is None:
                return name
        raise AssertionError

    def renewed(self, data: bytes) -> bytes:
        """What a row is to hold of a value under the first key, whatever key it is under, or none.

        Raises as `open` does; a stored value is copied in pieces.
        """
        first = self.keyring.first
        if first is None or key_of(data) == first.id:
            return data
        found = envelopes.referred(data)
        if found is None:
            sealed = envelopes.ciphered(data)
            return self.keyring.seal(data if sealed is None else self.keyring.open(*sealed))
        name, size = found
        place, store = place_of(name), self._need_store(name)
        renamed = self.name_for(place.digest)
        if store.size(renamed) is None:
            source = _Checked(self, place.digest, name, size, self._plain(store, name, place))
            store.put(renamed, self.keyring.seal_blob(place.digest, source.whole()))
        return envelopes.reference(renamed, size)

    def _stored(self, store: BlobStore, draft: Draft) -> str:
        digest = self._digest(draft.chunks())
        name = self.name_for(digest)
        if store.size(name) is None:
            chunks = draft.chunks()
            store.put(name, self.keyring.seal_blob(digest, chunks) if self.encrypts else chunks)
        return name

    def _read(self, name: str, size: int, *, parts: bool) -> Draft:
        place = place_of(name)
        chunks = self._plain(self._need_store(name), name, place)
        return read_draft(_Checked(self, place.digest, name, size, chunks), parts=parts)

    def _need_store(self, name: str) -> BlobStore:
        if self.store is None:
            message = (
                f"the recorded value {name} is in a store that this process does not know: set "
                "AGENTFLOW_PAYLOADS_URL"
            )
            raise CorruptRecord(message)
        return self.store

    def _plain(self, store: BlobStore, name: str, place: Place) -> Iterator[bytes]:
        """The chunks of a blob, decrypted."""
        if not place.key_id:
            return store.read(name)
        self.keyring.secret(place.key_id)  # said before anything is fetched
        return self.keyring.open_blob(place.key_id, place.digest, store.read(name))

    def _digest(self, chunks: Iterable[bytes | memoryview]) -> str:
        state = self.hasher()
        for chunk in chunks:
            state.update(chunk)
        return state.hexdigest()

    def hasher(self) -> hashlib.blake2b:
        """What a blob's name is computed with."""
        return hashlib.blake2b(digest_size=32, key=self._key)


def key_of(data: bytes) -> str:
    """The id of the key that what a row holds is encrypted with; "" = it is not."""
    found = envelopes.referred(data)
    if found is not None:
        return place_of(found[0]).key_id
    sealed = envelopes.ciphered(data)
    return "" if sealed is None else sealed[0]


def place_of(name: str) -> Place:
    """What a blob's name says. Raises `CorruptRecord` for what is none."""
    found = _NAME.fullmatch(name)
    if found is None or found["key"] is None:
        message = f"a recorded reference names no value: {name[:80]!r}"
        raise CorruptRecord(message)
    return Place(found["digest"], "" if found["key"] == envelopes.PLAIN else found["key"])


class _Checked(Chunks):
    """Chunks of a blob, checked against its name."""

    def __init__(self, vault: Vault, digest: str, name: str, size: int, chunks: Iterable[bytes]) -> None:
        super().__init__(chunks)
        self._state, self._digest, self._name, self._size = vault.hasher(), digest, name, size

    def whole(self) -> Iterator[bytes]:
        """All chunks; raises at their end where they are not what they should be."""
        while (chunk := self.next_chunk()) is not None:
            yield chunk
        self.finish()

    def cut_off(self) -> CorruptRecord:
        return _altered(self._name)

    def next_chunk(self) -> bytes | None:
        chunk = super().next_chunk()
        if chunk is not None:
            self._state.update(chunk)
            self._size -= len(chunk)
        return chunk

    def finish(self) -> None:
        super().finish()
        if self._size or self._state.hexdigest() != self._digest:
            raise _altered(self._name)


def _altered(name: str) -> CorruptRecord:
    return CorruptRecord(f"the recorded value {name} was altered; put it back from a copy: it is not read")
