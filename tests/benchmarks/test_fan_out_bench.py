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
    large = driven(tmp_path, "async", "10000", "10000")
    lines.append(f"map of 10,000 with results of 10 kB, async: {large['kilobytes_each']:.2f} kB a step")
    print("\n" + table(figures, {}) + "\n" + "\n".join(lines))
    assert large["kilobytes_each"] < 5.0
