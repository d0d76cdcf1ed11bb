"""Self-test of an installed version: what `cxr-edge self-test` tests, of which load, speed and temperature decide nothing.

A bundle and its engines come in; a report comes out, or a ContractError with what failed. An installation keeps the machine
busy, and a slow or hot moment says nothing of the version.
"""

from __future__ import annotations

from cxr_edge.bundle import Bundle
from cxr_edge.engines import EngineSet
from cxr_edge.errors import ContractError
from cxr_edge.health.self_test import SelfTestReport, run
from cxr_edge.screening.screener import Screener

__all__ = ["NOT_DECIDING", "self_test"]

NOT_DECIDING = ("timing", "memory", "disk", "temperature")


def self_test(bundle: Bundle, engines: EngineSet, *, threads: int = 1) -> SelfTestReport:
    """Test a bundle and its engines on this machine. Raises ContractError for an item that fails and decides."""
    report = run(Screener(bundle, engines, threads=threads, whole=True))
    wrong = [item for item in report.failures if item.name not in NOT_DECIDING]
    if wrong:
        found = "; ".join(f"{item.name}: {item.finding.message or item.finding.figure}" for item in wrong)
        raise ContractError(f"the self-test failed: {found}")
    return report
