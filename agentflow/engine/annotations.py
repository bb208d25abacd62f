"""Marks on arguments that say how they are passed: `unmapped`, `allow_failure`, `quote`, `opaque`, `freeze`.

The names are Prefect's. The user's function receives what is inside. What marks do: see `agentflow.engine.resolving`.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Annotation(Generic[T]):
    """A mark around a value."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def unwrap(self) -> T:
        """What is inside."""
        return self.value

    def around(self, value: Any) -> Annotation[Any]:
        """The same mark around another value."""
        return type(self)(value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"


class unmapped(Annotation[T]):  # noqa: N801 - Prefect's name
    """Marks an argument of ``map`` that every call gets whole."""

    __slots__ = ()


class allow_failure(Annotation[T]):  # noqa: N801 - Prefect's name
    """Around a future or state, or a collection of them: one that failed is passed as its exception.

    In ``wait_for``: a failed one does not keep the call from being made. Counts as looking at the failure.
    """

    __slots__ = ()


class quote(Annotation[T]):  # noqa: N801 - Prefect's name
    """Passes a value as it is: futures and states inside of it are not replaced by their values."""

    __slots__ = ()


class opaque(Annotation[T]):  # noqa: N801 - Prefect's name
    """Like `quote`, for large values: they are not searched for futures."""

    __slots__ = ()


class freeze(Annotation[T]):  # noqa: N801 - Prefect's name
    """Among the parameters of a deployment: every run of it has this one, whoever asks for it."""

    __slots__ = ()
