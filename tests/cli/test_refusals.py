"""`cxr-edge screen` with a bundle that refuses: status 0, a reason, and the options that override it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from cxr_edge.cli import main
from tests.builders.toy_bundle import build_toy_bundle, toy_refused_image


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a toy bundle with a checker, and of its engines."""
    bundle = build_toy_bundle(tmp_path_factory.mktemp("bundle"), checker=True)
    engines = ["--engines", str(tmp_path_factory.mktemp("engines"))]
    assert main(["build-engine", str(bundle.root), *engines, "--precision", "fp32"]) == 0
    return ["--bundle", str(bundle.root), *engines]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, cells in (("good", ()), ("child", ("child",)), ("turned", ("turned",))):
        cv2.imwrite(str(folder / f"{name}.png"), toy_refused_image(*cells))
    return folder


def _outcomes(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    capsys.readouterr()
    assert main(["screen", *arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    return {Path(r["source"]).stem: r["reason"]["code"] if r["reason"] else r["outcome"] for r in results}


def test_a_refusal_is_a_result_with_status_0(
    checked: list[str], pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _outcomes(capsys, str(pictures), *checked)
    assert found == {"good": "answered", "child": "answered", "turned": "turned"}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--population", "adults"], {"good": "answered", "child": "child", "turned": "turned"}),
        (["--population", "children"], {"good": "answered", "child": "answered", "turned": "turned"}),
        (["--answer-all"], dict.fromkeys(("good", "child", "turned"), "answered")),
        (["--answer-all", "--population", "adults"], dict.fromkeys(("good", "child", "turned"), "answered")),
    ],
)
def test_options_override(
    options: list[str], found: dict[str, str], checked: list[str], pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _outcomes(capsys, str(pictures), *options, *checked) == found


def test_text_shows_the_reason(checked: list[str], pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["screen", str(pictures), *checked]) == 0
    shown = capsys.readouterr().out
    assert "refused: the image is turned by a quarter or a half turn. [turned]" in shown
    assert "3 screened (1 refused), 0 failed" in shown


def test_a_population_needs_a_checker(built: list[str], images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["screen", str(images), "--population", "adults", *built]) == 2
    assert "population 'adults' needs a bundle with a checker" in capsys.readouterr().err
