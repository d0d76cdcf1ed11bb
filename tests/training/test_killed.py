"""The random kill test itself: it counts kills, and reports a run that fails or ends with other files."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import killed


class _Process:
    """Ends by itself with `status`, or runs until it is killed if that is None."""

    def __init__(self, status: int | None) -> None:
        self.status, self.exitcode = status, None

    def join(self, _: float | None = None) -> None:
        self.exitcode = self.status

    def kill(self) -> None:
        self.status = -signal.SIGKILL


def _disturb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statuses: list[int | None], different: list[str]
) -> killed.Outcome:
    processes = iter([_Process(status) for status in statuses])
    monkeypatch.setattr(killed, "run_to_end", lambda *_: {})
    monkeypatch.setattr(killed, "start", lambda *_: next(processes))
    monkeypatch.setattr(killed, "differences", lambda *_: different)
    return killed.disturb(tmp_path, "r20", 3, 1)


def test_kills_are_counted_over_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcome = _disturb(monkeypatch, tmp_path, [None, None, 0, None, 0], [])
    assert str(outcome) == "r20: 3 kills in 2 runs: every run ended as the one without kills"


@pytest.mark.parametrize(
    ("statuses", "different", "named"),
    [([None, 0], ["last.pt"], "r20-0: last.pt"), ([None, 1], [], "r20-0: exit status 1")],
)
def test_a_run_that_ends_otherwise_is_reported(
    statuses: list[int | None], different: list[str], named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outcome = _disturb(monkeypatch, tmp_path, statuses, different)
    assert str(outcome) == f"r20: 1 kills in 1 runs: {named}"
