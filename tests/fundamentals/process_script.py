"""A program whose flow uses processes: ``FOLDER [RUN_ID]`` begins a run in FOLDER's journal, or resumes one."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentflow import flow, task
from agentflow.flows import default_options
from agentflow.journal.opening import open_journal
from agentflow.task_runners import ProcessPoolTaskRunner


@dataclass
class Box:
    content: int


class Label(BaseModel):
    text: str


class Odd(Exception):
    pass


@task
def work(box: Box, folder: Path) -> Box:
    with (folder / "ran").open("a") as file:
        file.write(f"{box.content}\n")
    return Box(box.content * 10)


@task
def hangs(folder: Path) -> int:
    with (folder / "ran").open("a") as file:
        file.write("hangs\n")
    if not (folder / "go").exists():
        (folder / "fifo").write_text(str(os.getpid()))
        signal.pause()
    return 1


@task
def labelled(number: int) -> Label:
    if number % 2:
        raise Odd(number)
    return Label(text=str(number + half(number)))


@task
def half(number: int) -> int:
    return number // 2 if number < 10 else half(number // 10)


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def run(folder: Path) -> dict[str, Any]:
    boxes = [future.result() for future in work.map([Box(number) for number in range(4)], folder)]
    hung = hangs.submit(folder).result()
    label, odd = labelled.submit(40).result(), labelled.submit(1).exception()
    return {
        "boxes": [box.content for box in boxes if type(box) is Box],
        "hung": hung,
        "label": label.text if type(label) is Label else "",
        "odd": isinstance(odd, Odd),
    }


# no guard: worker processes do not run the program again
place = Path(sys.argv[1])
journal, options = open_journal(), default_options()
if len(sys.argv) > 2:
    outcome = run.resume(sys.argv[2], journal=journal, options=options)
else:
    outcome = run.run({"folder": place}, journal=journal, options=options)
print(json.dumps({"value": outcome.value, "error": repr(outcome.error), "reused": outcome.tally.reused}))
