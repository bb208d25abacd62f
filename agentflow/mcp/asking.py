"""The ladder of ways in which a tool call puts a question before a person: one durable wait, many views of it.

1. The client knows tasks: the task turns ``input_required`` (`tasks`).
2. Modern era with forms: the call's result is ``input_required``; the client retries the call with the answer (MRTR).
3. Legacy era with forms: ``elicitation/create`` while the call waits, for less than the 60 seconds after which many
   clients give up.
4. Otherwise the call returns ``awaiting_approval`` with the ways to the web inbox and the terminal.

Nobody is asked who cannot show forms. Whatever happens here, the wait stays in the journal until somebody answers it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import anyio.to_thread
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequest, InputRequiredResult
from pydantic import ValidationError

from agentflow.journal.protocol import Journal
from agentflow.mcp.answers import Taken, Taking, take_answer
from agentflow.mcp.callers import Caller
from agentflow.mcp.following import Bell
from agentflow.mcp.questions import form_for
from agentflow.mcp.sealing import Continuation, Keys
from agentflow.model.waits import Wait

#: At most this many questions in one round, so that a person can read them.
MOST_AT_ONCE = 5
#: How often a client is asked within one call; afterwards the model has to await the run.
MOST_ROUNDS = 8

_logger = logging.getLogger(__name__)


def request_for(wait: Wait, *, fault: str = "") -> ElicitRequest:
    """The elicitation that shows a wait."""
    form = form_for(wait, fault=fault)
    return ElicitRequest(params=ElicitRequestFormParams(message=form.message, requested_schema=form.schema))


async def take(journal: Journal, wait_id: str, answer: ElicitResult, actor: str) -> Taking:
    """Record an answer."""
    return await anyio.to_thread.run_sync(
        lambda: take_answer(journal, wait_id, answer.action, answer.content, actor=actor)
    )


# -- modern: the question is the call's result


def round_of_questions(
    continuation: Continuation, waits: Sequence[Wait], keys: Keys, faults: dict[str, str]
) -> InputRequiredResult:
    """The result that asks; `faults` by the wait's id say what was wrong with an answer of the round before."""
    asked = {keys.question(wait.id): wait for wait in waits[:MOST_AT_ONCE]}
    following = continuation.model_copy(
        update={"asked": {key: wait.id for key, wait in asked.items()}, "rounds": continuation.rounds + 1}
    )
    requests: dict[str, InputRequest] = {
        key: request_for(wait, fault=faults.get(wait.id, "")) for key, wait in asked.items()
    }
    return InputRequiredResult(input_requests=requests, request_state=following.model_dump_json())


async def take_round(
    journal: Journal, continuation: Continuation, caller: Caller
) -> tuple[Continuation, dict[str, str]]:
    """Record the answers of a round: what the person put aside, and what was wrong with the rest.

    Only what was asked counts: answers under other keys are ignored.
    """
    aside, faults = list(continuation.aside), dict[str, str]()
    for key, wait_id in continuation.asked.items():
        answer = caller.responses.get(key)
        taking = Taking(Taken.OPEN) if answer is None else await take(journal, wait_id, answer, caller.name)
        if taking.taken is Taken.OPEN:
            aside.append(wait_id)
        elif taking.taken is Taken.FAULTY:
            faults[wait_id] = taking.fault
    return continuation.model_copy(update={"aside": aside}), faults


# -- legacy: the question is a request of the server


async def ask_now(journal: Journal, wait: Wait, caller: Caller, bell: Bell, seconds: float) -> bool:
    """Ask while the call waits; whether the wait is answered now, here or by somebody elsewhere."""
    deadline = anyio.current_time() + seconds
    fault = ""
    for _ in range(MOST_ROUNDS):
        left = deadline - anyio.current_time()
        if left <= 0:
            break
        answer = await _elicit(journal, wait, caller, bell, seconds=left, fault=fault)
        if answer is None:
            break
        taking = await take(journal, wait.id, answer, caller.name)
        if taking.taken is not Taken.FAULTY:
            return taking.taken is Taken.DECIDED
        fault = taking.fault
    found = await anyio.to_thread.run_sync(journal.get_wait, wait.id)
    return found is None or not found.is_open


async def _elicit(
    journal: Journal, wait: Wait, caller: Caller, bell: Bell, *, seconds: float, fault: str
) -> ElicitResult | None:
    """The person's answer; None where there is none in time, or where somebody else has answered in the meantime."""
    form = form_for(wait, fault=fault)
    answer: ElicitResult | None = None
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while True:
                    found = await anyio.to_thread.run_sync(journal.get_wait, wait.id)
                    if found is None or not found.is_open:
                        group.cancel_scope.cancel()
                        return
                    await bell.wait(seconds)

            group.start_soon(watch)
            try:
                answer = await caller.session.elicit_form(form.message, form.schema, caller.request_id)
            except (MCPError, ValidationError) as error:  # the client broke off, or answered nonsense
                _logger.info("the client did not answer %s: %s", wait.id, error)
            group.cancel_scope.cancel()
    return answer
