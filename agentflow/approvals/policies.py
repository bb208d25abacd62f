"""Policies: values over a proposed side effect, composed with ``|`` and ``&``; each says whether a person signs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentflow.engine.effects import EffectRequest
from agentflow.errors import DefinitionError
from agentflow.model.runs import Origin
from agentflow.model.waits import canonical_json


class Policy(ABC):
    """Whether a side effect has to be signed."""

    @abstractmethod
    def wants(self, request: EffectRequest) -> bool:
        """Whether a person has to sign `request`."""

    @abstractmethod
    def describe(self) -> Any:
        """What the policy is, as JSON: its version is the digest of this."""

    @property
    def version(self) -> str:
        """Digest of this policy alone, hexadecimal."""
        return hashlib.sha256(canonical_json(self.describe())).hexdigest()[:16]

    def __or__(self, other: Policy) -> Policy:
        return Either(self, other)

    def __and__(self, other: Policy) -> Policy:
        return Both(self, other)


@dataclass(frozen=True)
class Always(Policy):
    """Every effect is signed."""

    def wants(self, request: EffectRequest) -> bool:
        del request
        return True

    def describe(self) -> Any:
        return "always"


@dataclass(frozen=True)
class Never(Policy):
    """No effect is signed: the explicit way out."""

    def wants(self, request: EffectRequest) -> bool:
        del request
        return False

    def describe(self) -> Any:
        return "never"


@dataclass(frozen=True)
class ByOrigin(Policy):
    """Signed where one of these origins is among those who asked; the default: a model, or nobody known."""

    origins: frozenset[Origin] = frozenset({Origin.MODEL, Origin.UNKNOWN})

    def wants(self, request: EffectRequest) -> bool:
        return bool(self.origins & request.origins)

    def describe(self) -> Any:
        return ["origin", sorted(self.origins)]


@dataclass(frozen=True)
class When(Policy):
    """Signed where `test(arguments)` is true of the proposed arguments (JSON by name); one that raises means yes."""

    name: str
    test: Callable[[dict[str, Any]], bool]

    def wants(self, request: EffectRequest) -> bool:
        try:
            return bool(self.test(request.arguments))
        except Exception:  # noqa: BLE001 - in doubt, a person looks
            return True

    def describe(self) -> Any:
        return ["when", self.name]


@dataclass(frozen=True)
class Either(Policy):
    """Signed where one of two policies wants it."""

    first: Policy
    second: Policy

    def wants(self, request: EffectRequest) -> bool:
        return self.first.wants(request) or self.second.wants(request)

    def describe(self) -> Any:
        return ["or", self.first.describe(), self.second.describe()]


@dataclass(frozen=True)
class Both(Policy):
    """Signed where both policies want it."""

    first: Policy
    second: Policy

    def wants(self, request: EffectRequest) -> bool:
        return self.first.wants(request) and self.second.wants(request)

    def describe(self) -> Any:
        return ["and", self.first.describe(), self.second.describe()]


BY_ORIGIN = ByOrigin()


def policy_from(rule: Any) -> Policy:
    """The policy that a task's ``approval`` option means."""
    if rule is None:
        return BY_ORIGIN
    if isinstance(rule, Policy):
        return rule
    named = {"always": Always(), "never": Never()}
    if rule in named:
        return named[rule]
    message = (
        f"approval={rule!r} is not a rule; use None (by origin), 'always', 'never' or an approvals policy"
    )
    raise DefinitionError(message)
