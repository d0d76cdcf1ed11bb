"""Every stage of both papers by itself under two processes: none waits for another for ever."""

from __future__ import annotations

from pathlib import Path

from tests.builders.two_processes import in_two_processes


def test_every_stage_comes_to_its_end(tmp_path: Path) -> None:
    in_two_processes(Path(__file__).parents[1] / "builders" / "stages_in_two_processes.py", tmp_path, within_s=400)
    assert {p.name for p in tmp_path.glob("done-*")} == {"done-0", "done-1"}
    for results in ("r20-results", "flannel-results"):
        assert {"bundle.json", "index.md"} <= {p.name for p in (tmp_path / results).iterdir()}
