"""What many steps side by side cost: `map` of a thousand and of a hundred thousand, in time and in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.measure import Bench, Figure, table

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("fan_out_driver.py")
#: Kilobytes of memory that a mapped step may take while nobody has asked for its result, which is 1,000 bytes large.
MOST_KILOBYTES = 2.0


def driven(folder: Path, *words: str) -> dict[str, Any]:
    """What a fresh process measures."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_many_mapped_steps(tmp_path: Path) -> None:
    """Time grows with their number and no faster; memory holds handles, not results."""
    figures: list[Figure] = []
    lines: list[str] = []
    for colour in ("sync", "async"):
        for count in (1_000, 100_000):
            found = driven(tmp_path, colour, str(count), "1")
            with Bench() as bench:
                floor = bench.floor(10_000) / 10_000
            each = found["seconds"] / count
            figures.append(Figure(f"map of {count:,}, {colour}", each * 1e6, each / floor))
            lines.append(f"map of {count:,}, {colour}: {found['kilobytes_each']:.2f} kB a step")
            if count > 1_000:
                assert found["kilobytes_each"] < MOST_KILOBYTES
        assert figures[-1].ratio < 2 * figures[-2].ratio
    few, many = (
        driven(tmp_path, "async", str(count), "10000")["kilobytes_each"] * count for count in (5_000, 25_000)
    )
    growth = (many - few) / 20_000  # what is in flight at once takes the same in both
    lines.append(f"map with results of 10 kB, async: {growth:.2f} kB more for each step more")
    print("\n" + table(figures, {}) + "\n" + "\n".join(lines))
    assert growth < MOST_KILOBYTES
