"""The tools about runs: typed, annotated, bounded, and clear about what they cannot find."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP
from jsonschema import Draft202012Validator
from mcp_types import ToolAnnotations

from agentflow.approvals.decisions import decide
from agentflow.errors import DefinitionError
from agentflow.flows import default_options, flow
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.mcp.calls import Patience
from agentflow.mcp.server import build_server
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.model.waits import Channel, Verdict
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker
from tests.mcp.conftest import connect, only_wait, said
from tests.mcp.sample_flows import FLOWS, GATE, refund

CONTROLS = {
    "list_flows", "start_run", "get_run", "await_run", "list_runs", "cancel_run", "get_logs", "list_approvals",
    "retry_run", "fork_run", "list_deployments", "run_deployment",
}  # fmt: skip


@pytest.fixture
def patience() -> Patience:
    """Tests of impatience."""
    return Patience(run=0.1, question=20)


def hints(tool: Any) -> ToolAnnotations:
    """The annotations of a tool."""
    assert tool.annotations is not None
    return tool.annotations


async def test_every_tool_says_what_it_takes_gives_and_does(server: FastMCP[Any], era: str) -> None:
    """Each tool has a description, schemas of arguments and result that are objects, and annotations."""
    async with connect(server, era) as client:
        tools = {tool.name: tool for tool in await client.list_tools()}
    assert set(tools) >= CONTROLS
    for tool in tools.values():
        assert tool.description
        assert hints(tool)
        assert tool.input_schema["type"] == "object"
        assert (tool.output_schema or {})["type"] == "object"
        Draft202012Validator.check_schema(tool.output_schema or {})
    reading = {name for name in CONTROLS if hints(tools[name]).read_only_hint}
    assert reading == CONTROLS - {"start_run", "run_deployment", "cancel_run", "retry_run", "fork_run"}
    assert hints(tools["cancel_run"]).destructive_hint is True


async def test_annotations_of_flows_say_only_what_is_known(server: FastMCP[Any]) -> None:
    """A flow counts as writing; what else is known of it comes from its tags."""
    async with connect(server, "auto") as client:
        tools = {tool.name: tool for tool in await client.list_tools()}
    known = hints(tools["greet"])
    assert (known.read_only_hint, known.destructive_hint, known.idempotent_hint, known.open_world_hint) == (
        True, False, True, False,
    )  # fmt: skip
    unknown = hints(tools["refund_order"])
    assert (unknown.read_only_hint, unknown.destructive_hint, unknown.idempotent_hint) == (False, None, None)


async def test_every_result_fits_its_schema(server: FastMCP[Any], journal: Journal, era: str) -> None:
    """What a tool returns is valid against the output schema that it has declared."""
    async with connect(server, era) as client:
        schemas = {tool.name: tool.output_schema or {} for tool in await client.list_tools()}
        await client.call_tool("refund_order", {"order_id": "a1"})
        wait = only_wait(journal)
        await client.call_tool("broken", {"text": "x"}, raise_on_error=False)
        (failed,) = journal.list_runs(RunFilter(states=(StateType.FAILED,)))
        calls: list[tuple[str, dict[str, Any]]] = [
            ("list_flows", {}), ("list_deployments", {}),
            ("list_runs", {}), ("list_approvals", {}), ("get_logs", {"run_id": wait.run_id}),
            ("get_run", {"run_id": wait.run_id}), ("get_run", {"run_id": failed.id}),
            ("await_run", {"run_id": wait.run_id}), ("await_run", {"run_id": failed.id}),
            ("start_run", {"flow": "greet", "arguments": {"name": "Ada"}}), ("refund_order", {"order_id": "b"}),
            ("broken", {"text": "x"}), ("untyped", {"value": {"any": 1}}), ("untyped", {"value": 1}),
            ("greet", {"name": "Ada"}), ("receipts", {"count": 2}), ("refund_two", {"first": "x", "second": "y"}),
            ("cancel_run", {"run_id": wait.run_id}), ("retry_run", {"run_id": failed.id}),
            ("fork_run", {"run_id": wait.run_id, "from_step": "find_order"}), ("get_run", {"run_id": failed.id}),
        ]  # fmt: skip
        for tool, arguments in calls:
            result = await client.call_tool(tool, arguments, raise_on_error=False)
            validator: Any = Draft202012Validator(schemas[tool])
            found = validator.iter_errors(result.structured_content)
            assert [fault.message for fault in found] == [], tool


@pytest.mark.parametrize("tool", ["get_run", "await_run", "cancel_run", "get_logs", "retry_run"])
async def test_unknown_runs_are_said_to_be_unknown(server: FastMCP[Any], tool: str) -> None:
    """A run that does not exist is a tool error that names it and the way to the ones that do."""
    async with connect(server, "auto") as client:
        result = await client.call_tool(tool, {"run_id": "nope"}, raise_on_error=False)
    assert result.is_error
    assert said(result) == "no run 'nope'; list_runs lists the runs"


@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        ("get_run", {}, "run_id"),
        ("await_run", {"run_id": "x", "timeout_seconds": 600}, "timeout_seconds"),
        ("list_runs", {"state": "HAPPY"}, "state"),
        ("list_runs", {"limit": 0}, "limit"),
        ("start_run", {"flow": "nope"}, "no flow 'nope' here; there are: ask_address"),
        ("start_run", {"flow": "count", "arguments": {"steps": "many"}}, "steps"),
        ("greet", {}, "greet needs the parameter 'name'"),
        ("greet", {"name": 5}, "name: Input should be a valid string"),
    ],
)
async def test_bad_arguments_are_named(
    server: FastMCP[Any], tool: str, arguments: dict[str, Any], named: str
) -> None:
    """A wrong argument is a tool error that names it; no run is made, no address of a manual is given."""
    async with connect(server, "auto") as client:
        result = await client.call_tool(tool, arguments, raise_on_error=False)
    assert result.is_error
    assert named in said(result)
    assert "http" not in said(result)


async def test_a_run_can_be_started_and_awaited(server: FastMCP[Any]) -> None:
    """start_run returns at once, await_run gives the result, get_run the whole story."""
    async with connect(server, "auto") as client:
        started = await client.call_tool("start_run", {"flow": "count", "arguments": {"steps": 2}})
        run_id = (started.structured_content or {})["run_id"]
        done = (await client.call_tool("await_run", {"run_id": run_id})).structured_content or {}
        assert (done["status"], done["result"]) == ("completed", {"total": 1})
        story = (await client.call_tool("get_run", {"run_id": run_id})).structured_content or {}
    assert (story["state"], story["result"], story["parameters"]) == ("COMPLETED", {"total": 1}, {"steps": 2})
    assert [step["name"] for step in story["steps"]] == ["step", "step"]


async def test_a_long_run_outlives_its_call(server: FastMCP[Any], era: str) -> None:
    """A call ends before the client gives up; the run goes on, and awaiting it gives the result."""
    async with connect(server, era) as client:
        early = (await client.call_tool("hold", {})).structured_content or {}
        assert early["status"] == "running"
        assert "await_run" in early["next"]
        still = (
            await client.call_tool("await_run", {"run_id": early["run_id"], "timeout_seconds": 0.1})
        ).structured_content or {}
        assert still["status"] == "running"
        GATE.set()
        done = (await client.call_tool("await_run", {"run_id": early["run_id"]})).structured_content or {}
    assert done["result"] == "let go"


async def test_a_run_that_sleeps_is_not_waited_for(worker: InlineWorker) -> None:
    """A run that waits for a timer beyond the call's patience is reported at once."""
    server = build_server(worker, patience=Patience(run=3000))
    async with connect(server, "auto") as client:
        result = (await client.call_tool("nap", {"seconds": 86_400})).structured_content or {}
    assert result["status"] == "waiting"


async def test_a_run_can_be_cancelled(server: FastMCP[Any], journal: Journal) -> None:
    """cancel_run stops a run, and says who asked for it; of a run that has ended it is an error."""
    async with connect(server, "auto") as client:
        started = (await client.call_tool("hear", {})).structured_content or {}
        await client.call_tool("cancel_run", {"run_id": started["run_id"]})
        ended = (await client.call_tool("await_run", {"run_id": started["run_id"]})).structured_content or {}
        assert ended["status"] == "cancelled"
        again = await client.call_tool("cancel_run", {"run_id": started["run_id"]}, raise_on_error=False)
    assert again.is_error
    (run,) = journal.list_runs(RunFilter())
    assert "cancelled by mcp" in run.message


async def test_a_model_has_a_run_go_on_and_a_person_signs(
    server: FastMCP[Any], worker: InlineWorker, journal: Journal, home: Path, world: Callable[[], list[str]]
) -> None:
    """A person's run needs no signature; once a model has had it go on, it does, and the run says what it reused."""
    run = worker.start_run("refund_late", {"order_id": "a1"}, origin=Origin.PERSON)
    assert worker.await_run(run.id, 20).state is StateType.FAILED
    (home / "open").touch()
    async with connect(server, "auto") as client:
        again = (await client.call_tool("retry_run", {"run_id": run.id})).structured_content or {}
        assert again["run_id"] == run.id
        await client.call_tool("await_run", {"run_id": run.id})
        twice = await client.call_tool("retry_run", {"run_id": run.id}, raise_on_error=False)
        assert (twice.is_error, "has not ended" in said(twice)) == (True, True)
        assert "refund A1 3" not in world()
        decide(journal, only_wait(journal).id, Verdict.APPROVED, actor="ann", channel=Channel.TERMINAL)
        worker.interrupt()
        done = (await client.call_tool("await_run", {"run_id": run.id})).structured_content or {}
        story = (await client.call_tool("get_run", {"run_id": run.id})).structured_content or {}
    assert (done["status"], world().count("refund A1 3")) == ("completed", 1)
    assert ("model" in story["origins"], story["life"] > 1) == (True, True)
    assert story["explanation"] != []


async def test_a_model_forks_a_run_and_a_person_signs(
    server: FastMCP[Any], worker: InlineWorker, journal: Journal, world: Callable[[], list[str]]
) -> None:
    """The fork reuses what came before the step, says what the other run did, and does nothing of it unasked."""
    run = worker.start_run("refund_order", {"order_id": "a1"}, origin=Origin.PERSON)
    assert worker.await_run(run.id, 20).state is StateType.COMPLETED
    async with connect(server, "auto") as client:
        asked = {"run_id": run.id, "from_step": "refund", "arguments": {"amount": 9}}
        made = (await client.call_tool("fork_run", asked)).structured_content or {}
        assert made["happened"] == ['refund(order_id="A1", amount=5, note=""): done']
        await client.call_tool("await_run", {"run_id": made["run_id"]})
        assert world() == ["find a1", "refund A1 5"]
        decide(journal, only_wait(journal).id, Verdict.APPROVED, actor="ann", channel=Channel.TERMINAL)
        worker.interrupt()
        done = (await client.call_tool("await_run", {"run_id": made["run_id"]})).structured_content or {}
        story = (await client.call_tool("get_run", {"run_id": made["run_id"]})).structured_content or {}
        wrong = await client.call_tool("fork_run", asked | {"from_step": "nowhere"}, raise_on_error=False)
    assert (done["status"], done["result"]["amount"]) == ("completed", 9)
    assert world() == ["find a1", "refund A1 5", "refund A1 9"]
    assert story["forked_from"] == run.id
    assert (wrong.is_error, "has no step 'nowhere'" in said(wrong)) == (True, True)


async def test_what_a_generator_yields_is_a_list(server: FastMCP[Any], era: str) -> None:
    """The tool gives all of it in the end, in the shape of its annotation."""
    async with connect(server, era) as client:
        schema = next(tool.output_schema for tool in await client.list_tools() if tool.name == "receipts")
        found = await client.call_tool("receipts", {"count": 2})
    assert (schema or {})["anyOf"][0]["properties"]["result"]["type"] == "array"
    assert found.structured_content == {
        "result": [
            {"order_id": "A0", "amount": 0, "note": ""},
            {"order_id": "A1", "amount": 1, "note": ""},
        ]
    }


async def test_a_model_sees_tasks_in_the_background_and_asks_for_none(
    journal: Journal, world: Callable[[], list[str]]
) -> None:
    """What a flow that it started has delayed is signed by a person; the task itself is no tool, and no flow."""
    settings = replace(Settings.from_environment(), poll_interval=0.02)
    options = replace(default_options(60), settings=settings)
    with InlineWorker(journal, FLOWS, tasks=[refund], options=options) as worker:
        async with connect(build_server(worker), "auto") as client:
            asked = (await client.call_tool("refund_sometime", {"order_id": "a1"})).structured_content or {}
            waiting = (
                await client.call_tool("await_run", {"run_id": asked["result"]})
            ).structured_content or {}
            assert (waiting["status"], world()) == ("awaiting_approval", [])
            decide(journal, only_wait(journal).id, Verdict.APPROVED, actor="ann", channel=Channel.TERMINAL)
            worker.interrupt()
            done = (await client.call_tool("await_run", {"run_id": asked["result"]})).structured_content or {}
            story = (await client.call_tool("get_run", {"run_id": asked["result"]})).structured_content or {}
            names = {tool.name for tool in await client.list_tools()}
            wrong = await client.call_tool(
                "start_run", {"flow": "task:refund", "arguments": {}}, raise_on_error=False
            )
    assert (done["status"], done["result"]["amount"]) == ("completed", 3)
    assert (story["flow"], world()) == ("task:refund", ["refund a1 3"])
    assert not {name for name in names if "task" in name}
    assert (wrong.is_error, "no flow 'task:refund' here" in said(wrong)) == (True, True)


async def test_runs_are_listed_newest_first_and_filtered(server: FastMCP[Any]) -> None:
    """list_runs takes a flow, a state and a limit."""
    async with connect(server, "auto") as client:
        for name in ("Ada", "Grace"):
            await client.call_tool("greet", {"name": name})
        await client.call_tool("count", {"steps": 1})
        everything = (await client.call_tool("list_runs", {})).structured_content or {}
        greeted = (
            await client.call_tool("list_runs", {"flow": "greet", "limit": 1})
        ).structured_content or {}
        failed = (await client.call_tool("list_runs", {"state": "FAILED"})).structured_content or {}
    assert [run["flow"] for run in everything["runs"]] == ["count", "greet", "greet"]
    assert len(greeted["runs"]) == 1
    assert failed["runs"] == []


async def test_nothing_of_the_machine_is_shown(server: FastMCP[Any], home: Any) -> None:
    """Neither paths nor tracebacks nor process ids of the server's machine reach a model."""
    async with connect(server, "auto") as client:
        await client.call_tool("broken", {"text": "x"}, raise_on_error=False)
        runs = (await client.call_tool("list_runs", {})).structured_content or {}
        shown = (
            await client.call_tool("get_run", {"run_id": runs["runs"][0]["run_id"]})
        ).structured_content or {}
    text = json.dumps([runs, shown])
    assert "Traceback" not in text
    assert "sample_flows.py" not in text
    assert str(home) not in text


async def test_a_lying_flow_is_a_clear_error(server: FastMCP[Any]) -> None:
    """A result that does not fit the declared schema is no success that a client would have to refuse."""
    async with connect(server, "auto") as client:
        result = await client.call_tool("lies", {}, raise_on_error=False)
    assert result.is_error
    assert "'not a number' is not of type 'integer'" in said(result)


async def test_an_expired_approval_is_a_denial(server: FastMCP[Any], journal: Journal) -> None:
    """What the web decides, the chat sees: await_run reports the end."""
    async with connect(server, "auto") as client:
        left = (await client.call_tool("refund_order", {"order_id": "a"})).structured_content or {}
        decide(journal, left["approval_id"], Verdict.DENIED, channel=Channel.WEB, reason="not today")
        ended = (await client.call_tool("await_run", {"run_id": left["run_id"]})).structured_content or {}
    assert (ended["status"], ended["error"]["type"]) == ("failed", "ApprovalDenied")
    assert "not today" in ended["error"]["text"]


def test_names_must_be_free(journal: Journal) -> None:
    """A flow with the name of a control tool, and two flows with the same tool name, are errors that name both."""

    @flow(name="list runs")
    def first() -> int:
        return 1

    @flow(name="my flow")
    def second() -> int:
        return 1

    @flow(name="my.flow")
    def third() -> int:
        return 1

    with pytest.raises(DefinitionError, match=r"'list runs'.*'list_runs'"):
        build_server(InlineWorker(journal, {"list runs": first}))
    with pytest.raises(DefinitionError, match=r"'my flow'.*'my\.flow'.*'my_flow'"):
        build_server(InlineWorker(journal, {"my flow": second, "my.flow": third}))


async def test_a_flow_that_is_added_later_is_a_tool_at_once(
    server: FastMCP[Any], worker: InlineWorker
) -> None:
    """The list of tools is that of the worker's flows at the moment of asking."""

    @flow
    def newcomer() -> str:
        """Come late."""
        return "here"

    async with connect(server, "auto") as client:
        worker.flows["newcomer"] = newcomer
        assert "newcomer" in {tool.name for tool in await client.list_tools()}
        assert (await client.call_tool("newcomer", {})).structured_content == {"result": "here"}


async def test_a_run_of_a_deployment_is_asked_for(server: FastMCP[Any], journal: Journal, era: str) -> None:
    """A model is behind it; what it cannot do is said in words that it can act on, and it changes no definition."""
    definition = FLOWS["greet"].to_deployment("nightly", parameters={"name": "ann"})
    name = definition.apply(journal, origins=(Origin.PERSON,)).name

    async with connect(server, era) as client:

        async def called(tool: str, **arguments: Any) -> dict[str, Any]:
            return dict((await client.call_tool(tool, arguments)).structured_content or {})

        (found,) = (await called("list_deployments"))["deployments"]
        assert (found["name"], found["flow"], found["paused"]) == ("greet/nightly", "greet", False)
        assert found["parameters"]["properties"]["name"]["default"] == "ann"
        started = await called("run_deployment", name=name)
        assert (await called("await_run", run_id=started["run_id"]))["status"] == "completed"
        run = journal.get_run(started["run_id"])
        assert run is not None
        assert (run.origins, run.deployment) == ((Origin.MODEL,), name)
        runs = (await called("list_runs", deployment=name))["runs"]
        assert [one["deployment"] for one in runs] == [name]
        journal.pause_deployment(name, paused=True)
        for wanted, problem in (
            (name, "before a person resumes it"),
            ("greet/other", "list_deployments lists them"),
        ):
            refused = await client.call_tool("run_deployment", {"name": wanted}, raise_on_error=False)
            assert refused.is_error
            assert problem in said(refused)
