"""`cxr-edge install --require-signature`: signed bundles, engines of this machine, no older version but by a rollback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.cli import main
from cxr_edge.signing.defaults import TRUST_VARIABLE
from tests.builders.two_versions import TwoVersions

Capture = pytest.CaptureFixture[str]
_REQUIRED = ("--require-signature", "--trusted-keys", "keys")


@pytest.fixture(autouse=True)
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_versions: TwoVersions, capsys: Capture) -> None:
    """Make keys and two signed versions, `one` and `two`, in the current folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("root", "release"):
        main(["keys", "new", name])
    main(["keys", "certify", "release.pub", "--name", "Maker", "--root-key", "root", "--trusted-keys", "keys"])
    for name, bundle, counter in (("one", two_versions.old, "1"), ("two", two_versions.new, "2")):
        shutil.copytree(bundle.root, name)
        assert main(["sign", name, "--key", "release", "--counter", counter]) == 0
    capsys.readouterr()


def install(bundle: str, *options: str) -> int:
    return main(["install", bundle, "--into", "box", "--precision", "fp32", *_REQUIRED, *options])


def version() -> str:
    return Bundle.open("box").manifest.version


def screens() -> bool:
    return main(["screen", "one/known-fine.png", "--bundle", "box", *_REQUIRED]) == 0


def test_updates_and_rollback(capsys: Capture) -> None:
    assert install("one") == 0
    assert screens()
    assert install("two", "--compare", "one", "--max-changed", "100%") == 0
    assert version() == "2"
    assert screens()
    assert "signatures" not in capsys.readouterr().out
    assert Bundle.open("box").unlisted_files() == ()
    assert main(["install", "--rollback", "--into", "box", *_REQUIRED]) == 0
    assert version() == "1"
    assert screens(), "an operator's rollback begins to count again"
    assert install("two") == 0


def test_an_older_version_is_refused(capsys: Capture) -> None:
    assert install("two") == 0
    assert install("one") == 3
    assert "counter" in capsys.readouterr().err
    assert version() == "2"


def test_a_bundle_without_a_signature_is_refused(capsys: Capture) -> None:
    assert install("one") == 0
    shutil.rmtree("two/signatures")
    assert install("two") == 3
    assert "has no signature" in capsys.readouterr().err
    assert len(list(Path("box/versions").iterdir())) == 1


def test_engines_of_another_machine_are_not_used(capsys: Capture) -> None:
    assert install("one") == 0
    (Path("box/current/engines/onnxruntime/box-signature.json")).unlink()
    capsys.readouterr()
    assert not screens()
    assert install("one") == 0, "they are built again"
    assert screens()
