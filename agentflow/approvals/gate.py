"""The gate that the engine asks before every side effect."""

from __future__ import annotations

from agentflow.approvals.policies import policy_from
from agentflow.engine.effects import Ask, EffectRequest
from agentflow.settings import Settings


class PolicyGate:
    """Asks by the task's policy, else by origin."""

    def ask(self, request: EffectRequest) -> Ask | None:
        """The question to put before a person, or None to let the effect pass."""
        policy = policy_from(request.rule)
        if not policy.wants(request):
            return None
        question = {
            "message": f"{request.flow} wants to run {request.tool}",
            "description": request.description,
            "origins": sorted(request.origins),
        }
        seconds = Settings.from_environment().approval_expires
        return Ask(question, policy.version, seconds or None)


DEFAULT_GATE = PolicyGate()
