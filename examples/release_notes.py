"""Release notes from the commits of a git repository: a model writes a line for each, you sign what is written.

    agentflow run examples/release_notes.py:release_notes -p repo=.

With OPENAI_API_KEY or ANTHROPIC_API_KEY set, that model writes. Without a key a script stands in for it, behind a real
OpenAI-compatible HTTP server on loopback; it only sorts and shortens what the commits say.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field

import agentflow.agents.anthropic
import agentflow.agents.openai
from agentflow import ApprovalDenied, NotDone, flow, task
from agentflow.testing.models import ModelRequest, Reply, ScriptedModelServer

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

MARK = "<!-- written by agentflow's release_notes example -->"
LINE_WANTED = (
    "Write one line of release notes for users of the project about this commit. Answer with the line alone."
)
HEADLINE_WANTED = (
    "Write a headline for these release notes, at most twelve words. Answer with the headline alone."
)


class Commit(BaseModel):
    """What a commit says of itself."""

    sha: str
    author: str
    subject: str
    body: str


class Written(BaseModel):
    """What the flow did."""

    path: str | None
    """Where the notes are, relative to the repository; None if a person refused."""
    commits: int
    model: str
    refused: str = ""


class NotARepository(ValueError):
    """There is no git repository, or git cannot read it."""


Model = Callable[[str, str], Awaitable[str]]
"""Instructions and a text to an answer."""


@flow
async def release_notes(
    repo: Path = Path(),
    since: str = "",
    limit: Annotated[int, Field(ge=1, le=50)] = 12,
    output: str = "RELEASE_NOTES.md",
    model: str = "",
) -> Written:
    """Write release notes from the newest commits of a git repository; a person signs the text before it is written.

    Args:
        repo: A folder in the repository.
        since: Only commits after this tag, branch or commit.
        limit: At most so many commits, the newest.
        output: The file to write, relative to the repository.
        model: "openai:NAME", "anthropic:NAME" or "scripted"; default: by the keys in the environment.
    """
    root = find_repository(repo)
    head, base = resolve(root, "HEAD"), resolve(root, since) if since else ""
    commits = read_commits(root, head, base, limit)
    chosen = choose_model(model)
    async with open_model(chosen) as ask:
        lines = await asyncio.gather(*(describe(ask, commit) for commit in commits))
        headline = await ask(HEADLINE_WANTED, "\n".join(lines))
    text = assemble(headline, lines)
    try:
        written = await write_notes(root, output, text)
    except ApprovalDenied as denied:
        return Written(path=None, commits=len(commits), model=chosen, refused=denied.reason)
    return Written(path=written, commits=len(commits), model=chosen)


@task
def find_repository(folder: Path) -> Path:
    """The top folder of the repository around `folder`."""
    return Path(git(folder, "rev-parse", "--show-toplevel").strip())


@task
def resolve(root: Path, name: str) -> str:
    """The commit that a tag, a branch or an abbreviated hash names."""
    if name.startswith("-"):
        raise NotARepository(f"{name!r} is no name of a commit")
    return git(root, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}").strip()


@task(cache_expiration=timedelta(days=7))  # what a hash stands for never changes
def read_commits(root: Path, head: str, base: str, limit: int) -> list[Commit]:
    """The newest commits up to `head` and after `base`, merges left out."""
    wanted = f"{base}..{head}" if base else head
    form = "--format=%H%x1f%an%x1f%s%x1f%b%x1e"
    listed = git(
        root, "log", "--no-merges", "--no-show-signature", f"--max-count={limit}", form, wanted, "--"
    )
    commits: list[Commit] = []
    for record in listed.split("\x1e"):
        if record.strip():
            sha, author, subject, body = record.strip("\n").split("\x1f")
            commits.append(Commit(sha=sha, author=author, subject=subject, body=body.strip()[:2_000]))
    return commits


def git(folder: Path, *arguments: str) -> str:
    """Ask git. It gets no terminal, starts no other program of the repository's choice, and has half a minute."""
    if str(folder).startswith("-"):
        raise NotARepository(f"{folder} is no folder")
    safe = ["--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    try:
        done = subprocess.run(  # noqa: S603 - fixed options, and names that cannot be taken for options
            ["git", "-C", str(folder), *safe, *arguments],  # noqa: S607 - the git on PATH
            capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=30,
            env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        )  # fmt: skip
    except FileNotFoundError:
        raise NotARepository("git is not installed") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotARepository(f"{folder.resolve()}: {reason[-1] if reason else 'git failed'}")
    return done.stdout.decode(errors="replace")


@task
def choose_model(wanted: str) -> str:
    """The model that writes; recorded, so that a resumed run asks the same one."""
    if wanted:
        return wanted
    if os.environ.get("OPENAI_API_KEY"):
        return "openai:gpt-5.4-mini"
    if os.environ.get("ANTHROPIC_API_KEY"):
        return "anthropic:claude-haiku-5-5"
    return "scripted"


@task
async def describe(ask: Model, commit: Commit) -> str:
    """A line about a commit, by the model."""
    return one_line(await ask(LINE_WANTED, f"{commit.subject}\n\n{commit.body}".strip()))


@task
def assemble(headline: str, lines: Sequence[str]) -> str:
    """The notes as they are to be written."""
    listed = "\n".join(f"- {line}" for line in lines)
    return f"{MARK}\n# {one_line(headline)}\n\n{listed}\n"


def one_line(text: str) -> str:
    """The text without line breaks and list marks."""
    return " ".join(text.split()).lstrip("#-* ")


# Not declared idempotent: run twice, it could overwrite what somebody has changed in the file in between.
@task(side_effect=True)
async def write_notes(repo: Path, path: str, text: str) -> str:
    """Write the release notes into a file of the repository. Replaces only a file that it has written before."""
    replace_notes(confined(repo, path), text)
    return path


def replace_notes(target: Path, text: str) -> None:
    """Write the file in one step, unless it holds something else than such notes."""
    if target.exists() and not target.read_text(errors="replace").startswith(MARK):
        raise NotDone(f"{target.name} was not written by this flow; choose another `output`, or move it away")
    draft = target.with_name(f".{target.name}.draft")
    draft.write_text(text)
    draft.replace(target)


def confined(repo: Path, path: str) -> Path:
    """The file `path` of the repository; raises `NotDone` where that would lie outside of it, or be git's own."""
    top = repo.resolve()
    target = top / path
    if Path(path).is_absolute() or ".." in Path(path).parts or not Path(path).name:
        raise NotDone(f"{path!r} is not the name of a file inside the repository")
    folder = target.parent.resolve()
    if not folder.is_relative_to(top) or ".git" in folder.relative_to(top).parts or target.is_symlink():
        raise NotDone(f"{path!r} leads out of the repository, or into git's own folder")
    if not folder.is_dir() or target.is_dir():
        raise NotDone(f"{path!r}: there is no such folder, or a folder of that name")
    return target


@asynccontextmanager
async def open_model(name: str) -> AsyncGenerator[Model]:
    """A model to ask; every request to it is a step of the flow."""
    provider, _, model = name.partition(":")
    if provider == "anthropic":
        async with agentflow.agents.anthropic.async_client() as client:
            yield partial(ask_anthropic, client, model)
    elif provider == "openai":
        async with agentflow.agents.openai.async_client() as client:
            yield partial(ask_openai, client, model)
    else:
        with scripted_server() as url:
            async with agentflow.agents.openai.async_client(base_url=url, api_key="none") as client:
                yield partial(ask_openai, client, "scripted-model")


async def ask_openai(client: AsyncOpenAI, model: str, instructions: str, text: str) -> str:
    """One request to OpenAI, or to whatever speaks its protocol."""
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "system", "content": instructions}, {"role": "user", "content": text}],
    )
    return answer.choices[0].message.content or ""


async def ask_anthropic(client: AsyncAnthropic, model: str, instructions: str, text: str) -> str:
    """One request to Anthropic."""
    answer = await client.messages.create(
        model=model, max_tokens=200, system=instructions, messages=[{"role": "user", "content": text}]
    )
    return "".join(part.text for part in answer.content if part.type == "text")


@contextmanager
def scripted_server() -> Generator[str]:
    """Where the script is served: at RELEASE_NOTES_MODEL_URL if somebody serves it there, else by ourselves."""
    url = os.environ.get("RELEASE_NOTES_MODEL_URL")
    if url:
        yield url
        return
    with ScriptedModelServer(scripted_model) as server:
        yield server.openai_url


KINDS = {
    "add": "Added",
    "feat": "Added",
    "fix": "Fixed",
    "bug": "Fixed",
    "remove": "Removed",
    "drop": "Removed",
}
FIRST_WORD = re.compile(r"(\w+)(?:\([^)]*\))?!?:?\s+(?=\S)")


def scripted_model(request: ModelRequest) -> Reply:
    """What stands in for a model: sorts a commit by its first word, and counts for the headline."""
    if request.instructions == HEADLINE_WANTED:
        kinds = [line.partition(":")[0] for line in request.prompt.splitlines()]
        counts = [f"{kinds.count(kind)} {kind.lower()}" for kind in dict.fromkeys(kinds)]
        return Reply(f"{len(kinds)} change{'s' * (len(kinds) != 1)}: {', '.join(counts)}")
    subject = request.prompt.partition("\n")[0]
    word = FIRST_WORD.match(subject)
    kind = KINDS.get(word[1].lower()) if word else None
    return Reply(f"{kind}: {subject[word.end() :]}" if word and kind else f"Changed: {subject}")
