"""Self-test of installed engines: what decides, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxr_edge import engines
from cxr_edge.errors import ContractError
from cxr_edge.health.checks import failed
from cxr_edge.installation import self_test as module
from cxr_edge.installation.self_test import NOT_DECIDING, self_test
from tests.builders.two_versions import TwoVersions


def loaded(versions: TwoVersions) -> engines.EngineSet:
    return engines.load(versions.old, versions.engines[versions.old.digest])


def test_the_engines_of_a_build_pass(two_versions: TwoVersions) -> None:
    report = self_test(two_versions.old, loaded(two_versions))
    assert next(i for i in report.items if i.name == "known answers").status == "passed"


@pytest.mark.parametrize("name", ["known answers", *NOT_DECIDING])
def test_items_that_decide(two_versions: TwoVersions, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = module.run

    def fails(*arguments: object) -> object:
        report = found(*arguments)  # type: ignore[arg-type]
        items = tuple(replace(i, finding=failed("it is wrong")) if i.name == name else i for i in report.items)
        return replace(report, items=items)

    monkeypatch.setattr(module, "run", fails)
    if name in NOT_DECIDING:
        self_test(two_versions.old, loaded(two_versions))
    else:
        with pytest.raises(ContractError, match="the self-test failed: known answers: it is wrong"):
            self_test(two_versions.old, loaded(two_versions))
