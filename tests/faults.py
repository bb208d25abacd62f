"""What tests of faults have measured, and the table that `make faults` ends with. No test and no fault stands here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import pytest

_KEY = "fault"


class Measured(Protocol):
    """Called by a test with what it has counted, before it asserts that all but the points is nothing."""

    def __call__(self, points: int, *, lost: int, corrupt: int = 0, doubled: int = 0) -> None:
        """`points`: how often the fault was injected; acknowledged writes lost; journals corrupt; effects doubled."""
        ...


class _Line(NamedTuple):
    points: int = 0
    lost: int = 0
    corrupt: int = 0
    doubled: int = 0
    tests: int = 0


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Takes what a test that is marked ``fault(number, name)`` has measured."""
    marker = request.node.get_closest_marker(_KEY)
    assert marker is not None, "mark the test: @pytest.mark.fault(number, name)"
    number, name = marker.args

    def measured(points: int, *, lost: int, corrupt: int = 0, doubled: int = 0) -> None:
        request.node.user_properties.append((_KEY, [number, name, points, lost, corrupt, doubled]))

    return measured


def table(reports: list[Any]) -> list[str]:
    """The lines of the table, of the reports of tests; none where no test has measured anything."""
    lines: dict[tuple[int, str], _Line] = {}
    for report in reports:
        for key, told in getattr(report, "user_properties", ()):
            if key == _KEY:
                known, (number, name, *more) = lines.get((told[0], told[1]), _Line()), told
                sums = [before + one for before, one in zip(known, (*more, 1), strict=True)]
                lines[number, name] = _Line(*sums)
    if not lines:
        return []
    head = f"{'':>3} {'fault':<46}{'tests':>6}{'points':>8}{'lost':>6}{'corrupt':>9}{'doubled':>9}"
    return [
        head,
        *(
            f"{number:>3} {name:<46}{line.tests:>6}{line.points:>8}{line.lost:>6}{line.corrupt:>9}{line.doubled:>9}"
            for (number, name), line in sorted(lines.items())
        ),
    ]
