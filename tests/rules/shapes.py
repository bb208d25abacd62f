"""Classes whose values the tests of R8 and R9 store and digest."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

T = TypeVar("T")


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Box:
    content: Any


@dataclass(frozen=True, slots=True)
class Frozen:
    content: Any


class Base(BaseModel):
    name: str = ""
    content: Any = None


class Sub(Base):
    more: int = 0
    secret_field: int = Field(default=0, exclude=True)
    _private: int = PrivateAttr(default=0)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Wrapper(BaseModel, Generic[T]):
    item: T


class Plain:
    """Nothing that the codec knows: only pickle can store it."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.x == self.x

    def __hash__(self) -> int:
        return hash(self.x)


class Loose(Plain):
    """Another class of that kind."""


class Odd(Exception):
    """Its `__init__` wants what its args do not have."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


class Holder(Exception):
    """Holds something that cannot be stored."""

    def __init__(self, thing: Any) -> None:
        super().__init__("holds")
        self.thing = thing
