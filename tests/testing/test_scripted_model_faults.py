"""What goes wrong on purpose: faults of scripted models as the providers' own clients feel them."""

from collections.abc import Callable
from typing import Any, Self

import anthropic
import httpx2
import openai
import pytest
from openai.types.responses import ResponseFailedEvent
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelOverloadedError, ModelRateLimitError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider

from agentflow.errors import UsageError
from agentflow.testing.models import Answer, Fault, ModelRequest, Reply, ScriptedModelServer, ToolCall, Usage

MODEL: Any = "any-model"
HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]
LONG = Reply("A text that is long enough for a stream of some events, one after the other.")


class Clients:
    """Blocking clients of both providers for one server, and one question in all its forms."""

    def __init__(self, server: ScriptedModelServer, *, max_retries: int = 0, timeout: float = 30.0) -> None:
        self.gpt = openai.OpenAI(
            base_url=server.openai_url, api_key="secret", max_retries=max_retries, timeout=timeout
        )
        self.claude = anthropic.Anthropic(
            base_url=server.anthropic_url, api_key="secret", max_retries=max_retries, timeout=timeout
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gpt.close()
        self.claude.close()

    def chat(self) -> str:
        answer = self.gpt.chat.completions.create(model=MODEL, messages=HELLO)
        return answer.choices[0].message.content or ""

    def responses(self) -> str:
        return self.gpt.responses.create(model=MODEL, input="Hello?").output_text

    def messages(self) -> str:
        answer = self.claude.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
        return "".join(block.text for block in answer.content if block.type == "text")

    def chat_events(self, heard: list[object]) -> None:
        heard.extend(self.gpt.chat.completions.create(model=MODEL, messages=HELLO, stream=True))

    def responses_events(self, heard: list[object]) -> None:
        heard.extend(self.gpt.responses.create(model=MODEL, input="Hello?", stream=True))

    def messages_events(self, heard: list[object]) -> None:
        heard.extend(self.claude.messages.create(model=MODEL, max_tokens=9, messages=HELLO, stream=True))


ASKING: list[Callable[[Clients], str]] = [Clients.chat, Clients.responses, Clients.messages]
STREAMING: list[Callable[[Clients, list[object]], None]] = [
    Clients.chat_events,
    Clients.responses_events,
    Clients.messages_events,
]
BOTH_STATUS = (openai.APIStatusError, anthropic.APIStatusError)
BOTH_CONNECTION = (openai.APIConnectionError, anthropic.APIConnectionError)
each_api = pytest.mark.parametrize("ask", ASKING, ids=lambda ask: ask.__name__)
each_stream = pytest.mark.parametrize("listen", STREAMING, ids=lambda listen: listen.__name__)


@each_api
def test_rate_limits_carry_their_wait(ask: Callable[[Clients], str]) -> None:
    """A 429 is the client's own rate limit error, with Retry-After in whole seconds and in milliseconds."""
    with (
        ScriptedModelServer([Fault.status(429, retry_after=1.5, message="Slow down.")]) as server,
        Clients(server) as clients,
        pytest.raises(BOTH_STATUS) as caught,
    ):
        ask(clients)
    assert type(caught.value).__name__ == "RateLimitError"
    assert "Slow down." in str(caught.value)
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1500")


@pytest.mark.parametrize(("status", "name"), [(500, "InternalServerError"), (529, "OverloadedError")])
@each_api
def test_servers_errors_are_typed(ask: Callable[[Clients], str], status: int, name: str) -> None:
    """500 and 529 arrive as the client's typed errors; only Anthropic's client has a name of its own for 529."""
    with (
        ScriptedModelServer([Fault.status(status)]) as server,
        Clients(server) as clients,
        pytest.raises(BOTH_STATUS) as caught,
    ):
        ask(clients)
    assert caught.value.status_code == status
    claude = ask is Clients.messages
    assert type(caught.value).__name__ == (name if claude else "InternalServerError")


@each_api
def test_an_error_can_have_its_own_code_and_headers(ask: Callable[[Clients], str]) -> None:
    """`code` is the provider's word for the error, and headers are sent as given."""
    fault = Fault.status(400, code="billing_error", headers={"x-should-retry": "true"})
    with (
        ScriptedModelServer([fault, LONG]) as server,
        Clients(server) as clients,
        pytest.raises(BOTH_STATUS) as caught,
    ):
        ask(clients)
    assert "billing_error" in str(caught.value.body)
    assert caught.value.response.headers["x-should-retry"] == "true"


@each_api
def test_clients_recover_from_faults_in_front_of_the_script(ask: Callable[[Clients], str]) -> None:
    """Queued faults come first, use up no reply, and a client that retries gets its answer: three requests."""
    with ScriptedModelServer([LONG]) as server, Clients(server, max_retries=2) as clients:
        server.faults.extend([Fault.status(429, retry_after=0.001), Fault.status(503, retry_after=0.001)])
        assert ask(clients) == LONG.text
    kinds = [getattr(record.answer, "kind", "reply") for record in server.requests]
    assert kinds == ["status", "status", "reply"]


@each_api
def test_a_connection_can_drop_before_the_first_byte(ask: Callable[[Clients], str]) -> None:
    """The request was received and recorded, and the client hears nothing but the end of the connection."""
    with ScriptedModelServer([Fault.drop(), LONG]) as server, Clients(server) as clients:
        with pytest.raises(BOTH_CONNECTION) as caught:
            ask(clients)
        assert ask(clients) == LONG.text
    assert "without sending a response" in str(caught.value.__cause__)
    assert [record.broken_off for record in server.requests] == [True, False]


@each_api
def test_a_whole_answer_can_break_off_in_the_middle(ask: Callable[[Clients], str]) -> None:
    """Without a stream, `drop(after_events=...)` cuts the JSON: the client never sees it as complete."""
    with (
        ScriptedModelServer([Fault.drop(after_events=0)]) as server,
        Clients(server) as clients,
        pytest.raises((*BOTH_CONNECTION, httpx2.RemoteProtocolError)),
    ):
        ask(clients)
    assert server.requests[0].broken_off


@pytest.mark.parametrize("after_events", [0, 1, 4, 1000])
@each_stream
def test_a_stream_can_break_off_after_some_events(
    listen: Callable[[Clients, list[object]], None], after_events: int
) -> None:
    """Exactly the asked-for events arrive, never the last one, and then the client's error."""
    with (
        ScriptedModelServer([LONG, Fault.drop(after_events=after_events, partial=LONG)]) as server,
        Clients(server) as clients,
    ):
        everything: list[object] = []
        listen(clients, everything)
        heard: list[object] = []
        with pytest.raises((*BOTH_CONNECTION, httpx2.RemoteProtocolError)):
            listen(clients, heard)
    end_mark_is_an_event = listen is not Clients.chat_events
    assert len(heard) == min(after_events, len(everything) - end_mark_is_an_event)
    assert server.requests[1].broken_off


@each_stream
def test_a_stream_can_fail_in_the_providers_own_words(
    listen: Callable[[Clients, list[object]], None],
) -> None:
    """A status with `after_events` is the provider's error event inside a stream that began with 200."""
    heard: list[object] = []
    with (
        ScriptedModelServer([Fault.status(529, after_events=3, message="Too busy.")]) as server,
        Clients(server) as clients,
    ):
        if listen is Clients.responses_events:
            listen(clients, heard)
            failed = heard.pop()
            assert isinstance(failed, ResponseFailedEvent)
            assert failed.response.error is not None
            assert failed.response.error.message == "Too busy."
        else:
            with pytest.raises((openai.APIError, anthropic.APIStatusError), match="Too busy"):
                listen(clients, heard)
    assert len(heard) == 3
    assert not server.requests[0].broken_off


@each_api
def test_an_answer_can_be_nonsense(ask: Callable[[Clients], str]) -> None:
    """A malformed answer has status 200 and does not parse."""
    with (
        ScriptedModelServer([Fault.malformed()]) as server,
        Clients(server) as clients,
        pytest.raises((ValueError, openai.APIError, anthropic.APIError)),
    ):
        ask(clients)


@each_stream
def test_a_stream_can_be_nonsense(listen: Callable[[Clients, list[object]], None]) -> None:
    """The malformed content is the data of the stream's first event."""
    with (
        ScriptedModelServer([Fault.malformed()]) as server,
        Clients(server) as clients,
        pytest.raises((ValueError, openai.APIError, anthropic.APIError)),
    ):
        listen(clients, [])


@each_api
def test_a_delay_only_takes_time(ask: Callable[[Clients], str]) -> None:
    """After a delay the next in line answers: here another fault, then the script."""
    with ScriptedModelServer([Fault.delay(0.01), LONG]) as server, Clients(server, max_retries=1) as clients:
        server.faults.extend([Fault.delay(0.01), Fault.status(429, retry_after=0.001)])
        assert ask(clients) == LONG.text
    assert len(server.requests) == 2


def test_a_client_that_gives_up_uses_no_reply() -> None:
    """Who hangs up during a delay is not answered, and the script's reply stays for the next request."""
    with ScriptedModelServer([LONG]) as server:
        server.faults.extend([Fault.delay(0.3), Fault.delay(0.6)])
        with Clients(server, timeout=0.1) as hasty, Clients(server) as patient:
            with pytest.raises(anthropic.APITimeoutError):
                hasty.messages()
            assert patient.responses() == LONG.text
    first, second = server.requests
    assert (first.answer, first.broken_off) == (None, True)
    assert (second.answer, second.broken_off) == (LONG, False)


def test_leaving_cuts_delays_short() -> None:
    """A server that is left does not sit out its delays."""
    with ScriptedModelServer([LONG]) as server, Clients(server, timeout=0.1) as clients:
        server.faults.append(Fault.delay(60))
        with pytest.raises(openai.APITimeoutError):
            clients.chat()
    (only,) = server.requests
    assert (only.answer, only.broken_off) == (None, True)


def broken_script(request: ModelRequest) -> Answer:
    raise LookupError(f"nothing known about {request.prompt}")


def wrong_script(request: ModelRequest) -> Any:
    return request.prompt


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ([], "all 0 answers were played"),
        (broken_script, "LookupError: nothing known about Hello"),
        (wrong_script, "a Reply or a Fault, not with 'Hello"),
        ([Reply(tool_calls=[ToolCall("find", {"when": object()})])], "not JSON"),
        ([Reply(text=None)], "cannot be sent"),  # pyright: ignore[reportArgumentType] - the mistake under test
    ],
)
@each_api
def test_a_script_that_fails_says_so_once(ask: Callable[[Clients], str], script: Any, problem: str) -> None:
    """A mistake in the script is a 500 with the reason, which the clients do not retry."""
    with (
        ScriptedModelServer(script) as server,
        Clients(server, max_retries=2) as clients,
        pytest.raises((openai.InternalServerError, anthropic.InternalServerError), match=problem),
    ):
        ask(clients)
    assert len(server.requests) == 1


def test_a_model_can_write_broken_arguments() -> None:
    """OpenAI's APIs carry arguments as text, so they can be no JSON; Anthropic's cannot, and the server says so."""
    broken = Reply(tool_calls=[ToolCall("find", '{"order_id": ')])
    with ScriptedModelServer([broken] * 3) as server, Clients(server) as clients:
        chat = clients.gpt.chat.completions.create(model=MODEL, messages=HELLO)
        (call,) = chat.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert call.function.arguments == '{"order_id": '
        (item,) = clients.gpt.responses.create(model=MODEL, input="Hello?").output
        assert item.type == "function_call"
        assert item.arguments == '{"order_id": '
        with pytest.raises(anthropic.InternalServerError, match="as an object"):
            clients.messages()


async def test_pydantic_ai_classifies_the_faults() -> None:
    """Rate limits, their wait, and overload inside a stream are what pydantic-ai takes them for."""
    with ScriptedModelServer([Fault.status(429, retry_after=7), Fault.status(529, after_events=1)]) as server:
        async with anthropic.AsyncAnthropic(
            base_url=server.anthropic_url, api_key="secret", max_retries=0
        ) as client:
            agent = Agent(AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=client)))
            with pytest.raises(ModelRateLimitError) as limited:
                await agent.run("Hello?")
            assert limited.value.retry_after == 7
            with pytest.raises(ModelOverloadedError):
                async with agent.run_stream("Hello?") as result:
                    await result.get_output()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fault.status(200),
        lambda: Fault.status(429, retry_after=-1),
        lambda: Fault.delay(61),
        lambda: Fault.delay(-1),
        lambda: Fault.drop(after_events=-1),
        lambda: Usage(1, -1),
        lambda: Usage(1, 1, cached_tokens=2),
    ],
)
def test_values_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    """Impossible statuses, waits, positions and token counts fail where they are written."""
    with pytest.raises(UsageError):
        make()
