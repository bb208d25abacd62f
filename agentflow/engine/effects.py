"""Side effects: their order on replay (E1-E5), the signature before them, and their three ends.

done, not done, unknown. Unknown is final until a person says what happened; nothing here repeats it by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson

from agentflow.engine.draining import hold
from agentflow.engine.forks import in_words
from agentflow.engine.records import Place, Record
from agentflow.engine.waiting import wait_durably, wait_id
from agentflow.errors import ApprovalDenied, DivergenceError, InDoubtError, ParameterError
from agentflow.model.lives import Fork
from agentflow.model.runs import Origin
from agentflow.model.steps import StepKind
from agentflow.model.waits import Decision, Verdict, Wait, WaitKind, binding
from agentflow.payloads.showing import as_shown

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.context import Frame
    from agentflow.engine.policy import ApprovalRule
    from agentflow.engine.runtime import Runtime
    from agentflow.engine.step import Call

_HOLD_LOOKS = 20
#: Ids of the questions about one effect: more intents than one effect ever has.
_MOST_INTENTS = 1 << 32
#: More questions than are asked before an answer refuses it.
_MOST_ASKED = 1 << 64
_HOLD_NAP = 0.005
#: Side effects of the run that a fork comes from: so many in a question's message, so many beside it.
_TOLD, _SHOWN = 3, 50


@dataclass(frozen=True, slots=True)
class EffectRequest:
    """A side effect that is about to happen, as the gate sees it."""

    tool: str
    description: str
    #: JSON of the proposed arguments by name.
    arguments: dict[str, Any]
    schema: dict[str, Any]
    origins: frozenset[Origin]
    rule: ApprovalRule
    run_id: str
    flow: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What the gate wants signed."""

    question: dict[str, Any]
    #: Digest of the policy that asks.
    policy: str
    #: Seconds until the request expires; None = never.
    expires: float | None


class Gate(Protocol):
    """Decides whether a person has to sign an effect."""

    def ask(self, request: EffectRequest) -> Ask | None:
        """The question to put before a person, or None to let it pass."""
        ...


@dataclass(slots=True)
class Permission:
    """How an effect may start."""

    args: Sequence[Any]
    kwargs: dict[str, Any]
    #: JSON of the arguments that will be executed.
    executed: dict[str, Any]
    #: The wait whose decision allows it, consumed with the start; "" = nobody had to be asked.
    wait_id: str = ""
    edited: bool = False
    #: JSON of a person's edit, to which the signature is bound; `executed` is what the tool's types make of it.
    signed: Any = None
    #: The signature was consumed by an earlier attempt, which certainly did nothing.
    again: bool = False


class Edit(NamedTuple):
    """A side effect that ran with other arguments than it was asked to, because a person changed them."""

    tool: str
    #: JSON of the arguments by name: as proposed, and as executed.
    asked: dict[str, Any]
    executed: dict[str, Any]


def tell_edit(call: Call, details: dict[str, Any]) -> None:
    """Leave word of a person's edit with the tool call around the effect, whose model is to be told."""
    if (
        details.get("edited") and call.policy.kind is not StepKind.TOOL
    ):  # a tool call tells its model by itself
        for body in call.frame.enclosing():
            if body.policy.kind is StepKind.TOOL:
                body.edits += (Edit(call.policy.name, shown_arguments(call), details["arguments"]),)
                return


def shown_arguments(call: Call) -> dict[str, Any]:
    """What a person is shown of a call: its arguments by name as JSON, extra ones among them, its receiver left out."""
    return as_shown(call.flat(call.arguments()))


def edited_arguments(call: Call, shown: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The bound arguments with what `wanted` changes of `shown`, validated.

    What was not changed stays the very object that was passed: a masked secret, a client, a receiver.
    """
    bound = call.arguments()
    changes = {name: item for name, item in wanted.items() if name not in shown or shown[name] != item}
    validate = call.policy.validate
    if validate is None:
        return {**bound, **changes}
    valid = validate({**call.flat(bound), **changes})
    return {**bound, **{name: valid[name] for name in valid if name in changes or name not in shown}}


def unexpected(frame: Frame, place: Place) -> Record | None:
    """The effect that is recorded where one is asked for now, if it is another one (E1)."""
    records = frame.stable_records()
    if records is None or frame.loose or place[1] != frame.branch:  # a branch of its own has no neighbours
        return None
    recorded = records.effects.get(frame.branch, {}).get(frame.effects)
    return None if recorded is None or recorded == place else records.index.get(recorded)


async def keep_order(call: Call, place: Place, record: Record | None, rt: Runtime) -> None:
    """Stop before an effect that the journal does not know at this place, and let a person decide."""
    frame = loosened = call.frame
    other = unexpected(frame, place)
    frame.count_effect(place)
    for body in frame.enclosing():  # E4: a step that contains an effect counts as one
        if other is not None or body.parent is None or body.counted:
            break
        loosened = body.parent
        other = unexpected(loosened, body.place)
    if record is not None:
        frame.count_around()
    if other is None and record is None and (call.run.changed or call.own):
        other = await _unclaimed(call, rt)
    if other is not None:
        await diverge(call, place, other, rt)
        loosened.loose = True  # a person has seen that this branch is another one now


async def _unclaimed(call: Call, rt: Runtime) -> Record | None:
    """A recorded effect of that name that nobody has asked for, after a grace.

    Under changed code (E3) in all branches; else among the calls that the same branch handed to tasks of their own, for
    which their order says nothing.
    """
    records = call.frame.stable_records()
    if records is None or call.frame.loose:
        return None
    others: list[Record] = []
    for _ in range(_HOLD_LOOKS):
        others = [
            record
            for record in list(records.index.values())  # other threads add to it
            if record.effect
            and record.name == call.policy.name
            and not record.claimed
            and (call.run.changed or record.place[1] == call.own_branch(record.place))
        ]
        if not others:
            return None
        await rt.pause(call.run, _HOLD_NAP)
        if call.run.guarded:
            await hold(call.run, call.frame, rt, inline=not call.own, work=call.work)
    return others[0]


async def diverge(call: Call, place: Place, other: Record, rt: Runtime) -> None:
    """Ask a person whether to go on; raises `DivergenceError` where the answer is no."""
    proposed = shown_arguments(call)
    question = {
        "message": f"the code now asks for {call.policy.name}, where the journal recorded another side effect",
        "asked": {"tool": call.policy.name, "arguments": proposed},
        "recorded": {"tool": other.name, "arguments": other.details().get("arguments"), "end": other.event},
    }
    decided = await ask(call, WaitKind.DIVERGENCE, place, question, rt)
    verdict = decided.decision and decided.decision.verdict
    call.answered += (decided.id,)
    if verdict is not Verdict.CONTINUE:
        message = f"{call.policy.name} {proposed} differs from the recorded {question['recorded']}"
        raise DivergenceError(message)


async def ask(
    call: Call,
    kind: WaitKind,
    place: Place,
    question: dict[str, Any],
    rt: Runtime,
    *,
    count: int = 0,
    policy: str = "",
    expires: float | None = None,
) -> Wait:
    """Put a question before a person and wait for the answer."""
    run, frame = call.run, call.frame
    now = run.options.clock()
    proposed = shown_arguments(call)
    if call.work is not None:
        run.moving.discard(call.work)
    wait = Wait(
        id=wait_id(run, kind, frame.stable, place, count + call.refusals * _MOST_ASKED),
        run=run.number,
        run_id=run.run.id,
        flow=run.run.flow,
        step=run.identify(frame.stable, place).hex(),
        kind=kind,
        name=call.policy.name,
        question={**question, "arguments": proposed},
        schema=call.policy.schema() if call.policy.schema is not None else {},
        digest=binding(call.policy.name, proposed),
        policy=policy,
        opened=now,
        due=None if expires is None else now + expires,
    )
    return await wait_durably(run, frame, wait, rt, inline=not call.own)


def ask_in_fork(fork: Fork, request: EffectRequest, wanted: Ask | None) -> Ask:
    """What a person is asked before each side effect of a fork, whatever its policy says: it may have happened already.

    The question shows what the other run did from the step on: the effects of that tool first.
    """
    happened: list[dict[str, Any]] = orjson.loads(fork.happened)
    happened.sort(key=lambda effect: effect["tool"] != request.tool)
    told = "; ".join(in_words(effect) for effect in happened[:_TOLD]) or "no side effect"
    more = f" and {len(happened) - _TOLD} more" if len(happened) > _TOLD else ""
    begins = f"{request.flow} wants to run {request.tool}" if wanted is None else wanted.question["message"]
    message = (
        f"{begins}; the run that it was forked from ({fork.source}) did from {fork.name} on: {told}{more}"
    )
    origins = sorted(request.origins)
    question = {"description": request.description, "origins": origins} if wanted is None else wanted.question
    original = {"run_id": fork.source, "step": fork.name, "effects": happened[:_SHOWN]}
    policy = "fork" if wanted is None else wanted.policy
    expires = None if wanted is None else wanted.expires
    return Ask({**question, "message": message, "original": original}, policy, expires)


async def permit(call: Call, place: Place, record: Record | None, rt: Runtime) -> Permission:
    """Get whatever signature the effect needs; raises `ApprovalDenied`."""
    run, policy = call.run, call.policy
    proposed = shown_arguments(call)
    free = Permission(call.args, call.kwargs, proposed)
    gate = run.options.gate
    request = EffectRequest(
        tool=policy.name,
        description=policy.description,
        arguments=proposed,
        schema=policy.schema() if policy.schema is not None else {},
        origins=run.origins(),
        rule=policy.approval,
        run_id=run.run.id,
        flow=run.run.flow,
    )
    # inside another effect, the signature on that one covers it
    wanted = gate.ask(request) if gate is not None and not call.frame.in_effect else None
    if run.fork is not None and not call.frame.in_effect:
        wanted = ask_in_fork(run.fork, request, wanted)
    if wanted is None:
        return free
    again = record is not None and record.event in ("not_done", "attempt", "intent", "unknown")
    question = wanted.question
    for count in itertools.count():
        decided = await ask(
            call,
            WaitKind.APPROVAL,
            place,
            question,
            rt,
            count=count,
            policy=wanted.policy,
            expires=wanted.expires,
        )
        # as it was shown: a set has another order in another process, and the signature is for what was shown
        shown = decided.question.get("arguments", proposed)
        used = again and decided.consumed is not None
        signed = replace(free, executed=shown, wait_id=decided.id, again=used)
        try:
            return _signed(call, signed, decided.decision)
        except ApprovalDenied:
            call.answered += (decided.id,)
            raise
        except (
            ValueError
        ) as refused:  # an edit that the function's own types do not take: ask again, and say so
            call.answered += (decided.id,)
            question = _asked_again(wanted.question, refused)
    raise AssertionError  # count() does not end


def _asked_again(question: dict[str, Any], refused: ValueError) -> dict[str, Any]:
    return {**question, "message": f"{question['message']} (the answer before was refused: {refused})"}


def _signed(call: Call, permission: Permission, decision: Decision | None) -> Permission:
    """The permission that a decision gives; raises `ApprovalDenied`, and ValueError for an edit that does not fit."""
    if decision is None or decision.verdict is not Verdict.APPROVED:
        elapsed = decision is None or decision.verdict is Verdict.ELAPSED
        reason = "nobody decided in time" if elapsed or decision is None else decision.reason
        raise ApprovalDenied(call.policy.name, reason)
    proposed = permission.executed
    if decision.answer is not None and decision.answer != proposed:
        try:
            edited = edited_arguments(call, proposed, decision.answer)
        except ParameterError as error:
            raise ValueError(str(error)) from None
        permission.args, permission.kwargs = call.rebind(edited)
        permission.executed, permission.edited = as_shown(call.flat(edited)), True
        permission.signed = decision.answer
    return permission


@dataclass(frozen=True, slots=True)
class Told:
    """A person's word that an effect in doubt has happened."""

    value: Any
    #: JSON of the arguments that were executed.
    executed: Any


async def resolve_doubt(call: Call, place: Place, record: Record, rt: Runtime) -> Told | str:
    """Ask what became of an effect that started and has no known end.

    Returns a person's word that it happened, or the id of the wait that allows it to run again; raises
    `InDoubtError` for "fail".
    """
    details = record.details()
    hint = (
        "; inside its transaction: 'fail' undoes what came before, not this"
        if call.policy.on_rollback
        else ""
    )
    question = {
        "message": f"{call.policy.name} was started and nobody knows whether it happened{hint}",
        "started": details.get("started_at"),
        "executed": details.get("arguments"),
        "evidence": details.get("error", "its process died before it ended"),
    }
    decided, decision = None, None
    for refusals in itertools.count():
        count = record.intents - 1 + refusals * _MOST_INTENTS
        decided = await ask(call, WaitKind.IN_DOUBT, place, question, rt, count=count)
        decision = decided.decision
        if decision is None or decision.verdict is not Verdict.HAPPENED:
            break
        call.answered += (decided.id,)
        read = call.policy.read_answer
        try:
            value = decision.answer if read is None else read(decision.answer)
        except (
            ValueError
        ) as refused:  # the result does not fit the function's annotation: ask again, and say so
            question = _asked_again(question, refused)
            continue
        return Told(value, details.get("arguments"))
    if decided is not None and decision is not None and decision.verdict is Verdict.RUN_AGAIN:
        return decided.id
    call.answered += () if decided is None else (decided.id,)
    message = f"{call.policy.name} was in doubt, and {decision.actor if decision else 'somebody'} said: fail"
    raise InDoubtError(message)


def intent_commit(call: Call, rt: Runtime, row: Any, permission: Permission) -> Any:
    """Commit the intent durably, consuming the signature in the same transaction."""
    run: ActiveRun = call.run
    signed = permission.executed if permission.signed is None else permission.signed
    return rt.blocking(
        partial(
            run.journal.start_effect,
            run.number,
            run.epoch,
            row,
            wait_id=permission.wait_id,
            digest=binding(call.policy.name, signed) if permission.wait_id else "",
            again=permission.again,
        )
    )
