"""Shares of a build's report."""

from __future__ import annotations

from cxr_edge.compiler.shares import Share


def test_a_share_is_shown_with_its_counts() -> None:
    assert str(Share.of(152, 160)) == "0.950 [0.904, 0.978] (152/160)"
    assert str(Share.of(0, 0)) == "-"
    assert (Share.of(0, 0).low, Share.of(0, 0).high) == (0.0, 1.0)
