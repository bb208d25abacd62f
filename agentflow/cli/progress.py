"""A run while it lives: a tree that redraws itself on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from rich.tree import Tree

from agentflow.cli.explaining import cache_words
from agentflow.cli.output import people, say, seconds
from agentflow.engine.active import ActiveRun
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Run
from agentflow.model.steps import ENDS, StepRow
from agentflow.model.waits import Wait
from agentflow.views import StepTree

#: Plain lines: seconds between two of them, growing with the run's age, so that a long one does not fill a log.
_LOOK_SECONDS = 0.1
_RAREST = 5.0
_REDRAWS_PER_SECOND = 10
#: Steps of one name side by side are shown one by one up to here, beyond as one line.
_SIBLINGS = 4
#: Characters of an error, or of a state's message, that are shown beside a step.
_SHORT = 200

_MARKS = {
    "completed": ("✓", "green"),
    "cached": ("✓", "cyan"),
    "failed": ("✗", "red"),
    "attempt": ("↻", "yellow"),
    "not_done": ("✗", "red"),
    "rolling_back": ("↩", "yellow"),
    "rolled_back": ("↩", "red"),
    "unknown": ("?", "yellow"),
    "intent": ("…", "yellow"),
    "started": ("…", "yellow"),
}

_TRANSACTIONS = {
    "completed": "committed",
    "rolling_back": "rolling back",
    "rolled_back": "rolled back",
}


@dataclass
class RunProgress:
    """What is known of a run's steps, read from the journal as they come."""

    journal: Journal
    run: Run
    #: The life that this process runs, for what has begun and is not in the journal yet.
    active: ActiveRun | None = None
    since: float = field(default_factory=time.monotonic)
    #: So many digits of each step's id are shown.
    ids: int = 0
    #: Steps that had ended before this life.
    recorded: frozenset[str] = frozenset()
    #: Say of each step that has a cache policy why it was, or was not, taken from the cache.
    reasons: bool = False

    def __post_init__(self) -> None:
        self.tree = StepTree(self.journal.key)
        self.tree.feed(_light(self.journal.steps(self.run.number)))
        self.recorded = frozenset(step["id"] for step in self.tree.steps if step["event"] in ENDS)
        self._changed: set[str] = set()
        self._lock = threading.Lock()

    def refresh(self) -> list[dict[str, Any]]:
        """Read what is new; returns the steps that it changed."""
        with self._lock:
            changed = self.tree.feed(_light(self.journal.steps(self.run.number, after=self.tree.last)))
        self._changed.update(step["id"] for step in changed)
        return changed

    def reused(self) -> list[dict[str, Any]]:
        """The steps that this life found recorded and did not execute; those below a step that was found count, too."""
        if self.active is None or self.active.records is None:
            return []
        self.refresh()
        found = {
            self.active.identify(record.scope, record.place).hex()
            for scope in self.active.records.scopes.values()
            for record in scope.index.values()
            if record.claimed
        }
        parents = {step["id"]: step["parent"] for step in self.tree.steps}
        kept: list[dict[str, Any]] = []
        for step in self.steps:
            if step["id"] in self.recorded and step["id"] not in self._changed:
                here = step["id"]
                while here and here not in found:
                    here = parents.get(here, "")
                if here:
                    kept.append(step)
        return kept

    @property
    def steps(self) -> list[dict[str, Any]]:
        """All steps but the flow's own attempts."""
        return [step for step in self.tree.steps if not is_root(step)]

    def running(self) -> list[str]:
        """Names of the steps that run now, in this process."""
        if self.active is None:
            return []
        return [frame.policy.name for frame in list(self.active.bodies) if frame.parent is not None]

    def waits(self) -> list[Wait]:
        """What the run waits for now."""
        return self.journal.list_waits(number=self.run.number)

    # -- drawn
    def render(self) -> RenderableType:
        """The tree as it stands."""
        self.refresh()
        elapsed = seconds(time.monotonic() - self.since)
        tree = Tree(
            Spinner("dots", Text.assemble((self.run.flow, "bold"), f"  {elapsed}  ", (self.run.id, "dim")))
        )
        self._grow(tree)
        names = self.running()
        for name in dict.fromkeys(names):
            count = names.count(name)
            tree.add(Spinner("dots", Text(name if count == 1 else f"{name} x{count}", style="yellow")))
        waits = self.waits()
        for wait in waits[:_SIBLINGS]:
            tree.add(Text(f"⏸ waits for {describe_wait(wait)}", style="yellow"))
        if len(waits) > _SIBLINGS:
            tree.add(Text("⏸ waits for more", style="yellow"))
        return tree

    def final(self, headline: Text) -> RenderableType:
        """The tree at the end, without what moves."""
        self.refresh()
        tree = Tree(headline)
        self._grow(tree)
        return tree

    def _grow(self, tree: Tree) -> None:
        children: dict[str, list[dict[str, Any]]] = {}
        for step in self.steps:
            children.setdefault(step["parent"], []).append(step)
        self._add(tree, "", children)

    def _add(self, tree: Tree, parent: str, children: dict[str, list[dict[str, Any]]]) -> None:
        groups: dict[str, list[dict[str, Any]]] = {}
        for step in children.get(parent, ()):
            groups.setdefault(step["name"], []).append(step)
        for name, group in groups.items():
            if len(group) > _SIBLINGS:
                self._explain(tree.add(_summary(name, group, self.recorded)), group)
                continue
            for step in group:
                node = tree.add(_line(step, self.recorded, self.ids))
                self._explain(node, [step])
                self._add(node, step["id"], children)

    def _explain(self, node: Tree, steps: list[dict[str, Any]]) -> None:
        words = cache_words(steps) if self.reasons else ""
        if words:
            node.add(Text(words, style="dim"))


def _light(rows: Sequence[StepRow]) -> list[StepRow]:
    """The rows without results, which a progress view does not show."""
    return [row._replace(value=None) if row.event in ("completed", "cached") else row for row in rows]


def is_root(step: dict[str, Any]) -> bool:
    """Whether it is the run's own row (an attempt of the flow), not a step in it."""
    return step["kind"] == "flow" and step["event"] == "attempt" and not step["parent"]


def describe_wait(wait: Wait) -> str:
    """A wait in one line."""
    return f"{wait.kind.value.replace('_', ' ')} {wait.name}".strip() + f" ({wait.id})"


def _line(step: dict[str, Any], before: frozenset[str], ids: int) -> Text:
    mark, style = _MARKS.get(step["event"], ("·", ""))
    recorded = step["id"] in before
    shown = step["run_name"] or step["name"]
    line = Text.assemble(("↺" if recorded else mark, "cyan" if recorded else style), " ", shown)
    if ids:
        line.append(f"  {step['id'][-ids:]}", "dim")
    if step["run_name"]:
        line.append(f"  {step['name']}", "dim")
    if step["tags"]:
        line.append(f"  #{' #'.join(step['tags'])}", "dim")
    if step["kind"] in ("model", "tool") or step["effect"]:
        line.append(f"  {'side effect' if step['effect'] else step['kind']}", "dim")
    line.append(_words_of(step), "dim")
    if recorded:
        line.append("  recorded before", "dim")
    elif step["event"] == "cached":
        line.append("  from the cache", "dim")
    elif step["ended"] is not None:
        line.append(f"  {seconds(step['ended'] - step['started'])}", "dim")
    detail: dict[str, Any] = step["detail"] or {}
    named = detail.get("state")  # one that the body has returned
    if named is not None:
        line.append(_in_short(f"  {named['name']}{': ' if named['message'] else ''}{named['message']}"))
    if step["error"] is not None:
        line.append(_in_short(f"  {step['error']['type']}: {step['error']['text']}"), "red")
    return line


def _in_short(text: str) -> str:
    """The first line of a text, as much of it as fits beside a step."""
    first = text.split("\n", maxsplit=1)[0]
    return first if len(first) <= _SHORT else f"{first[: _SHORT - 1]}…"


def _words_of(step: dict[str, Any]) -> str:
    """What became of a block."""
    if step["kind"] == "limit":
        return "  slots held" if step["error"] is None else "  no slots"
    return f"  {_TRANSACTIONS.get(step['event'], 'open')}" if step["kind"] == "transaction" else ""


def _summary(name: str, group: list[dict[str, Any]], before: frozenset[str]) -> Text:
    recorded = sum(step["id"] in before for step in group)
    failed = sum(step["event"] in ("failed", "not_done", "unknown", "rolled_back") for step in group)
    done = sum(step["event"] in ENDS for step in group) - failed
    line = Text.assemble(("✗" if failed else "✓", "red" if failed else "green"), " ", f"{name} x{len(group)}")
    parts = [f"{done} done"]
    parts += [f"{recorded} recorded before"] if recorded else []
    parts += [f"{failed} failed"] if failed else []
    line.append(f"  {', '.join(parts)}", "dim")
    return line


@contextmanager
def watching(progress: RunProgress) -> Generator[RunProgress, None, None]:
    """Show the run's progress while the block runs."""
    console = people()
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(
            get_renderable=progress.render,
            console=console,
            refresh_per_second=_REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        ):
            yield progress
        console.print(
            progress.final(Text.assemble((progress.run.flow, "bold"), ("  " + progress.run.id, "dim")))
        )
    else:
        with _lines(progress):
            yield progress


@contextmanager
def _lines(progress: RunProgress) -> Generator[None, None, None]:
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(min(_RAREST, max(_LOOK_SECONDS, (time.monotonic() - progress.since) / 10))):
            print_changes(progress.refresh())

    thread = threading.Thread(target=look, name="agentflow-progress", daemon=True)
    count = len(progress.recorded)
    if count:
        say(f"  {count} step{'s' * (count != 1)} recorded before")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        print_changes(progress.refresh())


def print_changes(changed: list[dict[str, Any]], write: Callable[[str], None] = say) -> None:
    """Plain lines for steps that have ended or failed an attempt; those that went well are counted by name."""
    ended = [step for step in changed if step["event"] in (*ENDS, "attempt") and not is_root(step)]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for step in ended:
        alone = () if step["error"] is None else (step["id"],)
        groups.setdefault((step["event"], step["name"], *alone), []).append(step)
    for (event, name, *alone), group in groups.items():
        if alone:
            fault = _in_short(f"{group[0]['error']['type']}: {group[0]['error']['text']}")
            write(f"  {event:<9} {name}  {fault}")
            continue
        took = max((step["ended"] or 0.0) - step["started"] for step in group)
        write(f"  {event:<9} {name}{f' x{len(group)}' if len(group) > 1 else ''}  {seconds(max(took, 0.0))}")
