"""Writers that are killed while they write, a few of them; `python -m tests.killed_evidence` does it a thousand times."""

from __future__ import annotations

from tests.killed_evidence import disturb


def test_thirty_kills_damage_no_log_and_lose_no_line(tmp_path):
    outcome = disturb(tmp_path, kills=30, seed=3)
    assert (outcome.kills, outcome.damaged, outcome.lost) == (30, [], 0)
    assert outcome.written >= outcome.reported
