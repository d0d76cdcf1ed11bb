"""Installation of a bundle: what is switched, what is refused, and what stays when a step fails."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxr_edge import engines
from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import BuildSettings
from cxr_edge.errors import BundleError, ContractError, EngineError, InputError
from cxr_edge.installation import install as steps
from cxr_edge.installation import journal
from cxr_edge.installation.box import Box
from cxr_edge.installation.install import InstallRequest, install, roll_back
from cxr_edge.screening.screener import Screener
from tests.builders.two_versions import FP32, TwoVersions


def files_of(bundle: Bundle) -> list[Path]:
    return sorted(bundle.root.glob("known-*.png"))


def events(box: Box) -> list[str]:
    return [entry.event for entry in journal.read(box.journal)]


def test_a_first_version_is_installed(cheap: TwoVersions, tmp_path: Path, request_fp32: InstallRequest) -> None:
    box, said = Box.at(tmp_path / "box", create=True), []
    result = install(cheap.old, box, request_fp32, say=said.append)
    used = Bundle.open(box.root)
    assert used.digest == cheap.old.digest
    assert used.root == box.versions_dir / f"toy-1-{used.digest[:12]}" / "bundle", "links are resolved once"
    assert engines.load(used).describe() == "onnxruntime: segmenter fp32, plain fp32"
    assert Bundle.open(box.link).root == used.root
    assert result.switched
    assert result.lines() == [
        "Gate: 3 synthetic known-answer images of the bundle, engines segmenter fp32, plain fp32",
        f"installed toy 1 ({used.digest[:12]}), in use now",
        f"In use: toy 1 ({used.digest[:12]})",
        "Before: none",
    ]
    assert said == ["copying toy 1", "building its engines", "self-test"]
    assert used.unlisted_files() == ()


def test_an_update_keeps_the_version_before(cheap: TwoVersions, box: Box, request_fp32: InstallRequest) -> None:
    before = Bundle.open(box.root)
    result = install(cheap.new, box, request_fp32)
    assert Bundle.open(box.root).digest == cheap.new.digest
    assert result.previous is not None
    assert result.previous.digest == before.digest
    assert engines.load(before).backend == "onnxruntime"
    assert result.lines()[-1] == (f"Before: toy 1 ({before.digest[:12]}), which cxr-edge install --rollback goes to")
    assert json.loads(json.dumps(result.as_json()))["current"]["version"] == "2"


def test_a_screener_that_runs_keeps_its_version(cheap: TwoVersions, box: Box, request_fp32: InstallRequest) -> None:
    bundle = Bundle.open(box.root)
    screener = Screener(bundle, engines.load(bundle))
    install(cheap.new, box, request_fp32)
    assert screener.screen(decode(files_of(bundle)[0])).labels == bundle.manifest.labels
    again = pickle.loads(pickle.dumps(screener))
    assert again.bundle.digest == cheap.old.digest, "another process opens the same version"


def test_older_versions_are_removed(cheap: TwoVersions, box: Box, request_fp32: InstallRequest) -> None:
    install(cheap.new, box, request_fp32)
    first = box.installed()[0].folder
    result = install(cheap.old, box, request_fp32)
    assert result.removed == (first,)
    assert [r.version for r in box.installed()] == ["2", "1"]
    assert box.installed()[1].folder == f"{first}.2", "a version never takes the folder of another one"
    assert f"Removed: {first}" in result.lines()


def test_one_version_alone_can_be_kept(cheap: TwoVersions, box: Box, request_fp32: InstallRequest) -> None:
    result = install(cheap.new, box, replace(request_fp32, keep=1))
    assert [r.version for r in box.installed()] == ["2"]
    assert result.previous is None
    with pytest.raises(InputError, match="has no version before the one in use: nothing to go back to"):
        roll_back(box)


def test_rollback(cheap: TwoVersions, box: Box, request_fp32: InstallRequest) -> None:
    install(cheap.new, box, request_fp32)
    result = roll_back(box)
    assert Bundle.open(box.root).digest == cheap.old.digest
    assert result.summary == f"rolled back to toy 1 ({cheap.old.digest[:12]})"
    assert events(box) == ["installed", "installed", "rolled back"]
    with pytest.raises(InputError, match="nothing to go back to"):
        roll_back(box)
    assert install(cheap.new, box, request_fp32).switched, "what was rolled back from can be installed again"


def test_no_rollback_to_a_version_that_fails_its_self_test(
    cheap: TwoVersions, box: Box, request_fp32: InstallRequest
) -> None:
    first = Bundle.open(box.root).root
    install(cheap.new, box, request_fp32)
    (first / "engines" / "onnxruntime" / "plain.fp32.onnx").write_bytes(b"altered")
    with pytest.raises(EngineError, match="was altered"):
        roll_back(box)
    assert Bundle.open(box.root).digest == cheap.new.digest


def test_the_version_in_use_is_not_installed_again(cheap: TwoVersions, box: Box, request_fp32: InstallRequest) -> None:
    result = install(cheap.old, box, request_fp32)
    assert not result.switched
    assert result.comparison is None
    assert result.summary.endswith("is in use already, and its engines work: nothing to do")
    assert len(box.installed()) == 1


def test_the_version_in_use_is_installed_again_for_engines_that_no_longer_load(
    cheap: TwoVersions, box: Box, request_fp32: InstallRequest
) -> None:
    shutil.rmtree(box.link / "engines")
    assert install(cheap.old, box, request_fp32).switched
    assert engines.load(Bundle.open(box.root)).backend == "onnxruntime"


def test_the_version_in_use_is_installed_again_for_other_settings(
    cheap: TwoVersions, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    monkeypatch.setattr(steps, "build", lambda b, settings, **_: built.append(settings) or cheap.build(b, FP32))
    other = BuildSettings(precision="fp32", max_loss=0.02)
    assert install(cheap.old, box, InstallRequest(settings=other)).switched
    assert built == [other]


def test_few_changes_are_installed_with_their_report(
    cheap: TwoVersions, box: Box, request_fp32: InstallRequest
) -> None:
    request = replace(request_fp32, compare=files_of(cheap.old), max_changed=1.0)
    result = install(cheap.new, box, request)
    assert result.switched
    assert result.comparison is not None
    assert result.comparison.changed.hits > 0
    record = box.installed()[-1]
    changed = result.comparison.changed.hits
    assert record.compared == (f"of 3 files {changed} have another verdict than with toy 1 ({cheap.old.digest[:12]})")
    assert journal.read(box.journal)[-1].reason == record.compared


def test_many_changes_are_refused(cheap: TwoVersions, box: Box, request_fp32: InstallRequest) -> None:
    result = install(cheap.new, box, replace(request_fp32, compare=files_of(cheap.old)))
    assert not result.switched
    assert result.summary.startswith("NOT installed: ")
    assert "of 3 verdicts change, at most 0.05 was allowed" in result.summary
    assert Bundle.open(box.root).digest == cheap.old.digest
    assert [r.version for r in box.installed()] == ["1"], "what was staged is removed"
    assert events(box) == ["installed", "refused"]


def test_a_first_version_has_nothing_to_be_compared_with(
    cheap: TwoVersions, tmp_path: Path, request_fp32: InstallRequest
) -> None:
    said: list[str] = []
    box = Box.at(tmp_path / "box", create=True)
    result = install(cheap.old, box, replace(request_fp32, compare=files_of(cheap.old)), say=said.append)
    assert result.comparison is None
    assert "no version is in use yet: nothing to compare with" in said


def test_files_that_nothing_can_screen_are_no_comparison(
    cheap: TwoVersions, box: Box, request_fp32: InstallRequest, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(InputError, match="none of the files of --compare can be screened"):
        install(cheap.new, box, replace(request_fp32, compare=[tmp_path / "text.png"]))
    assert Bundle.open(box.root).digest == cheap.old.digest


def test_an_old_version_without_engines_is_compared_by_its_networks(
    cheap: TwoVersions, box: Box, request_fp32: InstallRequest
) -> None:
    shutil.rmtree(box.link / "engines")
    said: list[str] = []
    request = replace(request_fp32, compare=files_of(cheap.old), max_changed=1.0)
    assert install(cheap.new, box, request, say=said.append).switched
    assert any(line.startswith("toy 1 is compared by its fp32 networks: there are no engines") for line in said)


Break = Callable[[pytest.MonkeyPatch, TwoVersions], None]


def _gate(patch: pytest.MonkeyPatch, versions: TwoVersions) -> None:
    rows = [
        SimpleNamespace(part="segmenter", precision="fp32", reason=None),
        SimpleNamespace(part="plain", precision="fp32", reason="top label agreement 0.500, at least 0.970 is required"),
    ]
    report = SimpleNamespace(complete=False, rows=rows, precisions={"segmenter": "fp32"}, backend="onnxruntime")
    patch.setattr(steps, "build", lambda *_, **__: report)


def _build(patch: pytest.MonkeyPatch, versions: TwoVersions) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ContractError("this machine does not compute what training did")

    patch.setattr(steps, "build", fails)


def _self_test(patch: pytest.MonkeyPatch, versions: TwoVersions) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ContractError("the self-test failed: for known-coarse.png")

    patch.setattr(steps, "self_test", fails)


def _disk(patch: pytest.MonkeyPatch, versions: TwoVersions) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "plain.onnx")

    patch.setattr(steps.durable, "copy_file", full)


def _interrupt(patch: pytest.MonkeyPatch, versions: TwoVersions) -> None:
    def ctrl_c(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    patch.setattr(steps, "self_test", ctrl_c)


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (_gate, EngineError, "the gate passed no engine of plain: top label agreement 0.500, at least 0.970"),
        (_build, ContractError, "does not compute what training did"),
        (_self_test, ContractError, "the self-test failed"),
        (_disk, OSError, "No space left"),
        (_interrupt, KeyboardInterrupt, "^$"),
    ],
    ids=["gate", "build", "self-test", "disk", "Ctrl-C"],
)
def test_a_step_that_fails_leaves_the_version_in_use(
    cheap: TwoVersions,
    box: Box,
    request_fp32: InstallRequest,
    monkeypatch: pytest.MonkeyPatch,
    broken: Break,
    error: type[BaseException],
    message: str,
) -> None:
    with monkeypatch.context() as patch:
        broken(patch, cheap)
        with pytest.raises(error, match=message):
            install(cheap.new, box, request_fp32)
    assert Bundle.open(box.root).digest == cheap.old.digest
    assert [p.name for p in box.versions_dir.iterdir()] == [box.current()]
    assert events(box) == ["installed", "failed"]
    assert install(cheap.new, box, request_fp32).switched


def fails_after_the_switch(monkeypatch: pytest.MonkeyPatch, box: Box) -> None:
    original = steps.check

    def check(folder: Path, **options: object) -> object:
        if folder == box.link:
            raise EngineError("the engine does not load here")
        return original(folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "check", check)


def test_a_version_that_fails_after_the_switch_is_switched_back(
    cheap: TwoVersions, box: Box, request_fp32: InstallRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_after_the_switch(monkeypatch, box)
    back = f"the new version failed after the switch, {box.current()} is in use again: the engine does not load here"
    with pytest.raises(ContractError, match=back):
        install(cheap.new, box, request_fp32)
    assert Bundle.open(box.root).digest == cheap.old.digest
    assert [r.version for r in box.installed()] == ["1"]
    assert events(box) == ["installed", "switched back"]


def test_a_first_version_that_fails_after_the_switch_leaves_none(
    cheap: TwoVersions, tmp_path: Path, request_fp32: InstallRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box.at(tmp_path / "box", create=True)
    fails_after_the_switch(monkeypatch, box)
    with pytest.raises(ContractError, match="no version is in use again"):
        install(cheap.old, box, request_fp32)
    assert box.current() is None
    assert not os.path.lexists(box.link)


def test_a_bundle_that_changes_while_it_is_copied_is_refused(
    cheap: TwoVersions, box: Box, request_fp32: InstallRequest, tmp_path: Path
) -> None:
    source = Bundle.open(shutil.copytree(cheap.new.root, tmp_path / "source"))
    write_bundle(source.root, replace(source.manifest, version="3"))
    with pytest.raises(BundleError, match="changed while it was copied: install it again"):
        install(source, box, request_fp32)


def test_a_full_disk_is_named_before_the_work(
    cheap: TwoVersions, box: Box, request_fp32: InstallRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(
        InputError, match=r"has 1,000 bytes free, about [0-9,]{7,} are needed for the copy and the build"
    ):
        install(cheap.new, box, request_fp32)


def test_a_box_inside_the_bundle_is_refused(cheap: TwoVersions, request_fp32: InstallRequest) -> None:
    with pytest.raises(InputError, match="is inside the bundle: give --into another folder"):
        install(cheap.old, Box.at(cheap.old.root / "box", create=True), request_fp32)


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match=r"from 0 to 1, got 1\.5"):
        InstallRequest(max_changed=1.5)
    with pytest.raises(InputError, match="1 version or more is kept, got 0"):
        InstallRequest(keep=0)
