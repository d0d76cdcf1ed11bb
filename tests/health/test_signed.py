"""Self-test of a signed bundle with engines that the box has signed: it passes, and notices another key and other files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cxr_edge.bundle import Bundle
from cxr_edge.cli import main
from cxr_edge.engines import MEASURED_FILE
from cxr_edge.signing.authority import certify
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.sign import sign_bundle, with_counter
from cxr_edge.signing.statements import ReleaseKey

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def box(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a signed bundle with signed engines, and the arguments that require the signatures."""
    folder = tmp_path_factory.mktemp("box")
    root, key = PrivateKey.new(), PrivateKey.new()
    certify(folder / "keys", root, ReleaseKey(key=key.public, name="Test maker"))
    shutil.copytree(kept, folder / "toy", ignore=shutil.ignore_patterns("engines"))
    sign_bundle(with_counter(Bundle.open(folder / "toy"), 3), key)
    require = ["--require-signature", "--trusted-keys", str(folder / "keys"), "--state", str(folder / "state")]
    assert main(["build-engine", str(folder / "toy"), "--precision", "fp32", *require]) == 0
    return folder / "toy", require


def items(capsys: Capture, bundle: Path, *options: str) -> dict[str, dict[str, str]]:
    capsys.readouterr()
    main(["self-test", "--bundle", str(bundle), "--time-factor", "1000", "--json", *options])
    return {item["name"]: item for item in json.loads(capsys.readouterr().out)["items"]}


def test_a_signed_bundle_with_signed_engines_passes(box: tuple[Path, list[str]], capsys: Capture) -> None:
    found = items(capsys, box[0], *box[1])
    assert found["signature"]["figure"].startswith("signed by Test maker (")
    assert found["signature"]["figure"].endswith("), counter 3")
    assert found["engines"]["status"] == found["known answers"]["status"] == "passed"


def test_what_the_build_measured_is_signed_too(box: tuple[Path, list[str]], tmp_path: Path, capsys: Capture) -> None:
    """Else whoever replaces the engines could change what they are compared with."""
    shutil.copytree(box[0].parent, tmp_path / "box")
    bundle, require = tmp_path / "box" / "toy", [w.replace(str(box[0].parent), str(tmp_path / "box")) for w in box[1]]
    file = bundle / "engines" / "onnxruntime" / MEASURED_FILE
    file.write_text(file.read_text().replace('"screenings": 15', '"screenings": 16'))
    assert f"has signed {MEASURED_FILE}" in items(capsys, bundle, *require)["engines"]["message"]


def test_an_unsigned_bundle_fails_where_signatures_are_required(
    box: tuple[Path, list[str]], kept: Path, capsys: Capture
) -> None:
    found = items(capsys, kept, *box[1])
    assert found["engines"]["status"] == "failed"
    assert "were not signed by this box" in found["engines"]["message"]
