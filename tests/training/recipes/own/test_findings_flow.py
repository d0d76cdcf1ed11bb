"""The whole run of `cxr-edge train` on drawn images with several findings each, from a table with unknown cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.cli import main as cxr_edge
from tests.builders.cheap import make_cheap
from tests.builders.finding_phantoms import FINDINGS, write_finding_phantoms
from tests.builders.two_sites import TINY
from training.recipes.own.presets import PRESETS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", TINY)
        make_cheap(patch.setattr)
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finding_phantoms(tmp_path_factory.mktemp("own"), patients=210, size_px=64)


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("own") / "findings"
    assert cxr_edge(["train", str(table), "--out", str(out), "--threads", "1"]) == 0
    return out


def test_each_site_trains_nothing_in_turn_and_each_finding_is_measured(run: Path) -> None:
    found = json.loads((run / "sites.json").read_text())
    rows = found["candidates"][found["chosen"]]["rows"]
    assert {(r["site"], r["label"]) for r in rows} == {(s, f) for s in ("north", "south") for f in FINDINGS}
    with_cells = [r["images"] + r["others"] for r in rows]
    assert all(60 < n < 105 for n in with_cells), "unknown cells are in no figure"


def test_the_page_has_sites_first_and_says_what_unknown_means(run: Path) -> None:
    text = (run / "index.md").read_text()
    order = (
        "## Sites that trained nothing",
        "## Test patients",
        "A finding is present, absent or unknown",
        "## Limits",
    )
    assert sorted(order, key=text.index) == list(order)
    assert "| nodule |" in text
    assert "It looks for its findings only" in text


def test_the_bundle_is_of_findings_and_screens(run: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(run / "bundle")
    assert bundle.manifest.multi_label
    assert bundle.manifest.labels == FINDINGS
    assert set(bundle.manifest.decision.thresholds) == set(FINDINGS)
    card = (run / "bundle" / "MODEL_CARD.md").read_text()
    assert card.index("## Sites that trained nothing") < card.index("## Results on held-out patients")
    engines = str(run / "engines")
    assert cxr_edge(["build-engine", str(bundle.root), "--engines", engines, "--precision", "fp32"]) == 0
    capsys.readouterr()
    image = str(table.parent / "images" / "0.png")
    assert cxr_edge(["screen", image, "--bundle", str(bundle.root), "--engines", engines, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert set(result["findings"]) <= set(FINDINGS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guard", "nodule"], "leave --guard out"),
        (["--findings", "nodule", "line", "rare"], r"rare (present in 2, absent in"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    table: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table.read_text().splitlines()
    lines = [f"{rows[0]},rare", *(f"{row},{int(i < 2)}" for i, row in enumerate(rows[1:]))]
    changed = table.with_name(f"{tmp_path.name}.csv")
    changed.write_text("\n".join(lines))
    ignored = [] if "rare" in options else ["--ignore", "rare"]
    assert cxr_edge(["train", str(changed), "--out", str(tmp_path / "run"), "--threads", "1", *options, *ignored]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
