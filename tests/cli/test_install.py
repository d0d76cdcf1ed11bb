"""`cxr-edge install` and `compare`: output, exit status, and how other commands use what was installed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.cli import main
from cxr_edge.installation import install as steps
from tests.builders.two_versions import TwoVersions

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def versions(two_versions: TwoVersions, monkeypatch: pytest.MonkeyPatch) -> TwoVersions:
    monkeypatch.setattr(steps, "build", two_versions.build)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # disks are slow
    return two_versions


@pytest.fixture
def box(versions: TwoVersions, tmp_path: Path, capsys: Capture) -> Path:
    """Return a box with the first version."""
    assert install(versions.old, tmp_path / "box") == 0
    capsys.readouterr()
    return tmp_path / "box"


def install(bundle: Bundle, box: Path, *options: str) -> int:
    return main(["install", str(bundle.root), "--into", str(box), "--precision", "fp32", *options])


def pictures(bundle: Bundle) -> list[str]:
    return [str(p) for p in sorted(bundle.root.glob("known-*.png"))]


def test_an_update_from_its_first_version_to_its_rollback(
    versions: TwoVersions, tmp_path: Path, capsys: Capture
) -> None:
    box, old, new = tmp_path / "box", versions.old.digest[:12], versions.new.digest[:12]
    assert install(versions.old, box) == 0
    assert f"installed toy 1 ({old}), in use now" in capsys.readouterr().out.splitlines()
    assert install(versions.new, box, "--compare", *pictures(versions.old), "--max-changed", "100%") == 0
    out, err = capsys.readouterr()
    assert "Changed verdicts: " in out
    assert f"Before: toy 1 ({old}), which cxr-edge install --rollback goes to" in out.splitlines()
    assert "screening the files with the old and the new version" in err
    assert main(["install", "--rollback", "--into", str(box)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"rolled back to toy 1 ({old})", f"In use: toy 1 ({old})", "Before: none",
    ]  # fmt: skip
    assert main(["install", "--list", "--into", str(box)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"toy 1 ({old}), installed ")
    assert lines[0].endswith("onnxruntime: segmenter fp32, plain fp32  in use")
    assert lines[1].startswith(f"toy 2 ({new}), installed ")
    assert [line.split(" ")[1] for line in lines[4:]] == ["installed", "installed", "rolled"]


def test_other_commands_take_the_box(versions: TwoVersions, box: Path, capsys: Capture) -> None:
    install(versions.new, box)
    for place in (box, box / "current"):
        capsys.readouterr()
        assert main(["screen", "--bundle", str(place), "--json", *pictures(versions.old)]) == 0
        assert json.loads(capsys.readouterr().out)["run"]["digest"] == versions.new.digest
    assert main(["inspect", str(box), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == versions.new.digest


def test_too_many_changes_give_1_and_the_report(versions: TwoVersions, box: Path, capsys: Capture) -> None:
    assert install(versions.new, box, "--compare", *pictures(versions.old)) == 1
    out = capsys.readouterr().out
    assert "NOT installed: " in out
    assert "allow more with --max-changed SHARE" in out
    assert f"In use: toy 1 ({versions.old.digest[:12]})" in out
    assert "Changed files:" in out
    assert install(versions.new, box, "--compare", *pictures(versions.old), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["switched"] is False
    assert found["current"]["version"] == "1"
    assert len(found["comparison"]["results"]) == 3
    assert found["build"]["complete"] is True


def test_the_version_in_use_gives_0(versions: TwoVersions, box: Path, capsys: Capture) -> None:
    assert install(versions.old, box, "--compare", *pictures(versions.old)) == 0
    assert "is in use already, and its engines work: nothing to do" in capsys.readouterr().out


def test_the_list_as_json(versions: TwoVersions, box: Path, capsys: Capture) -> None:
    install(versions.new, box)
    capsys.readouterr()
    assert main(["install", "--list", "--into", str(box), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["current"], found["previous"]) == tuple(v["folder"] for v in reversed(found["versions"]))
    assert [event["event"] for event in found["events"]] == ["installed", "installed"]


def test_an_empty_box_is_listed(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "box.json").write_text("{}", encoding="utf-8")
    assert main(["install", "--list", "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no version is installed\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--into", "BOX"], "expected NEW, or --rollback or --list without it"),
        (["NEW", "--into", "BOX", "--rollback"], "expected NEW, or --rollback or --list without it"),
        (["NEW"], "the following arguments are required: --into"),
        (["NEW", "--into", "BOX", "--max-changed", "6"], "expected a share from 0 to 1, such as 0.05 or 5%, got '6'"),
        (["NEW", "--into", "BOX", "--max-changed", "x%"], "expected a share from 0 to 1, such as 0.05 or 5%, got 'x%'"),
        (["--into", "BOX", "--rollback", "--list"], "not allowed with"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["install", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_other_errors_have_a_status(versions: TwoVersions, box: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["install", "--rollback", "--into", str(box)]) == 2
    assert "nothing to go back to" in capsys.readouterr().err
    assert main(["install", "--rollback", "--into", str(box), "--compare", "x"]) == 2
    assert "--compare goes with a new version" in capsys.readouterr().err
    assert main(["install", "--list", "--into", str(tmp_path / "none")]) == 2
    assert "is no folder that cxr-edge install made" in capsys.readouterr().err
    assert install(versions.new, box, "--compare", str(tmp_path / "none" / "*.png")) == 2
    assert "the pattern matches no file" in capsys.readouterr().err
    assert main(["install", str(tmp_path / "nothing"), "--into", str(box)]) == 3


def test_a_failure_after_the_switch_gives_3(
    versions: TwoVersions, box: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    original, calls = steps.self_test, []

    def fails(*args: object, **options: object) -> int:
        calls.append(args)
        if len(calls) == 2:
            raise steps.ContractError("the self-test failed: for x")
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "self_test", fails)
    assert install(versions.new, box) == 3
    assert "the new version failed after the switch, toy-1-" in capsys.readouterr().err
    assert Bundle.open(box).digest == versions.old.digest


def test_compare_two_bundles(versions: TwoVersions, capsys: Capture) -> None:
    arguments = ["compare", str(versions.old.root), str(versions.new.root), *pictures(versions.old), "--fp32"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"Old: toy 1 ({versions.old.digest[:12]}; onnxruntime: segmenter fp32, plain fp32)\nNew: toy 2 ("
    )
    assert "-> covid-19 0." in out
    assert main([*arguments, "--max-changed", "5%"]) == 1
    assert main([*arguments, "--max-changed", "100%"]) == 0
    capsys.readouterr()
    assert main(["compare", "--json", "--fp32", *arguments[1:-1], "missing.png"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == 1
    assert found["results"][3]["new"]["verdict"] == "failed"


def test_compare_needs_engines_unless_told_otherwise(versions: TwoVersions, box: Path, capsys: Capture) -> None:
    assert main(["compare", str(box), str(versions.new.root), *pictures(versions.old)]) == 3
    assert "there are no engines for bundle 'toy'" in capsys.readouterr().err
    assert main(["compare", str(box), str(box), *pictures(versions.old)]) == 0


def test_inspect_against(versions: TwoVersions, box: Path, capsys: Capture) -> None:
    assert main(["inspect", str(versions.new.root), "--against", str(box)]) == 0
    out, err = capsys.readouterr()
    assert "1. Description of Modifications" in out
    assert "threshold of covid-19: 0.9 -> 0.05" in out
    assert "screening 3 images" in err
    assert "Engines of onnxruntime built here" not in out
    assert main(["inspect", str(box), "--against", str(versions.new.root)]) == 0
    assert (
        "Engines of onnxruntime built here (segmenter fp32, plain fp32), on 3 synthetic known-answer images of the bundle: "
        "same decision on 100.0% of 3 images, largest change of a probability 0.000; passed."
    ) in " ".join(capsys.readouterr().out.splitlines())
    folder = str(Path(pictures(versions.old)[0]).parent)
    assert main(["inspect", str(versions.new.root), "--against", str(box), "--images", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["modification_protocol"]["tests"][0]["name"] == "files"


def test_inspect_against_needs_two_usable_bundles(
    versions: TwoVersions, tmp_path: Path, toy_bundle_copy: Path, capsys: Capture
) -> None:
    (toy_bundle_copy / "plain.onnx").write_bytes(b"altered")
    assert main(["inspect", str(versions.new.root), "--against", str(toy_bundle_copy)]) == 3
    assert "was altered" in capsys.readouterr().err
    assert main(["inspect", str(versions.new.root), "--against", str(tmp_path / "none"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["usable"] is False
    assert main(["inspect", str(versions.new.root), "--images", str(tmp_path)]) == 2
    assert "--images goes with --against OLD" in capsys.readouterr().err
