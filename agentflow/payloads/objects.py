"""Object storage as a place for large values: S3, GCS and Azure, through obstore, which is an extra.

Credentials are what obstore finds in the environment (``AWS_ACCESS_KEY_ID``, ``GOOGLE_SERVICE_ACCOUNT``,
``AZURE_STORAGE_ACCOUNT_KEY``, ...), roles of machines included; they are in no address and in no message.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentflow.errors import JournalUnavailable
from agentflow.extras import optional_module
from agentflow.payloads.blobs import Blob, missing

#: Bytes of one part of an upload, and how many are under way at once.
_PART, _AT_ONCE = 8 << 20, 2
_PIECE = 1 << 20
_SECRETS = re.compile(r"(?i)(signature|credential|token|secret|sig|key)([^=\s\"]{0,24})=[^&\s\"]+")
_TEXT_LIMIT = 300


class ObjectStore:
    """A bucket's objects below a prefix."""

    def __init__(self, scheme: str, bucket: str, prefix: str) -> None:
        self._library: Any = optional_module("obstore", extra="objects")
        self.where = f"{scheme}://{bucket}/{prefix}"
        options: dict[str, Any] = {}
        if scheme == "s3" and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["client_options"] = {"allow_http": True}  # somebody's own server, named as such
        with self._told("opened"):
            store: Any = optional_module("obstore.store", extra="objects")
            self._store: Any = store.from_url(self.where, **options)

    def put(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """See `BlobStore.put`: objects appear whole, once the store has them."""
        with self._told("stored"):
            self._library.put(
                self._store,
                name,
                _elsewhere(chunks),
                use_multipart=True,
                chunk_size=_PART,
                max_concurrency=_AT_ONCE,
            )

    def size(self, name: str) -> int | None:
        """See `BlobStore.size`."""
        with self._told("looked for"):
            try:
                return int(self._library.head(self._store, name)["size"])
            except FileNotFoundError:
                return None

    def read(self, name: str) -> Iterator[bytes]:
        """See `BlobStore.read`."""
        with self._told("read"):
            try:
                for chunk in self._library.get(self._store, name).stream(min_chunk_size=_PIECE):
                    yield bytes(chunk)
            except FileNotFoundError:
                raise missing(name, self.where) from None

    def blobs(self) -> Iterator[Blob]:
        """See `BlobStore.blobs`."""
        with self._told("listed"):
            for page in self._library.list(self._store):
                for found in page:
                    yield Blob(found["path"], int(found["size"]), found["last_modified"].timestamp())

    def remove(self, names: Iterable[str]) -> None:
        """See `BlobStore.remove`."""
        with self._told("removed"):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._library.delete(self._store, name)

    def now(self) -> float:
        """See `BlobStore.now`."""
        probe = f"drafts/{secrets.token_hex(12)}"
        with self._told("written"):
            self._library.put(self._store, probe, b"")
            try:
                return float(self._library.head(self._store, probe)["last_modified"].timestamp())
            finally:
                self._library.delete(self._store, probe)

    @contextlib.contextmanager
    def _told(self, what: str) -> Generator[None]:
        """Say what failed, without what nobody may see."""
        try:
            yield
        except (self._library.exceptions.BaseError, OSError) as error:
            text = _SECRETS.sub(r"\1\2=...", " ".join(str(error).split()))[:_TEXT_LIMIT]
            message = f"values in {self.where} could not be {what} ({text}); resume the run once they can"
            raise JournalUnavailable(message) from None


def _elsewhere(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The chunks, made in a thread of their own: obstore can read nothing in the thread in which it writes."""
    with ThreadPoolExecutor(1, thread_name_prefix="agentflow-chunks") as thread:
        source = iter(chunks)
        while (chunk := thread.submit(next, source, None).result()) is not None:
            yield bytes(chunk)
