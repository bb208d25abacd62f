"""``python -m tests.simulation FIRST COUNT``: many seeds; with one number only: that seed, and all that happens."""

from __future__ import annotations

import contextlib
import io
import sys
import time

from tests.simulation.world import BrokenError, World, simulate

#: Seeds between two lines on how far it is.
_STRIDE = 1000


def many(first: int, count: int) -> int:
    """Simulate so many seeds; those that break are printed."""
    began, turns, disasters, bad = time.perf_counter(), 0, 0, list[int]()
    for seed in range(first, first + count):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                world = simulate(seed)
            turns, disasters = turns + world.turns.switches, disasters + world.disasters
        except Exception as error:  # noqa: BLE001 - whatever a seed breaks, the others are simulated
            told = str(error) if isinstance(error, BrokenError) else f"seed {seed}: {error!r}"
            print(told, f"(again: make simulate SEED={seed})", flush=True)
            bad.append(seed)
        if (seed - first + 1) % _STRIDE == 0:
            print(f"{seed - first + 1} seeds", flush=True)
    seconds = time.perf_counter() - began
    print(
        f"{count} seeds, {disasters} crashes and freezes, {turns} turns, {seconds:.0f} s: {len(bad)} broken"
    )
    return int(bool(bad))


def one(seed: int) -> int:
    """Simulate one seed and print its course."""
    world = World(seed, keep=True)
    try:
        world.run()
    except AssertionError as error:
        fault = str(error)
    else:
        fault = ""
    print(*world.trace, sep="\n")
    print(f"seed {seed}, course {world.course}: {fault or 'all holds'}")
    return int(bool(fault))


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    raise SystemExit(one(numbers[0]) if len(numbers) == 1 else many(numbers[0], numbers[1]))
