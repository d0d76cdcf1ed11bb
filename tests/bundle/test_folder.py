"""Bundle folders: opening one verifies every file, and error messages name the problem and the remedy."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle import folder as bundle_folder
from cxr_edge.bundle.networks import FileRef
from cxr_edge.errors import BundleError, ContractError
from tests.builders.toy_bundle import build_toy_bundle

COPY_AGAIN = "copy the whole bundle again from where it came, or export it again"


def edit(root: Path, **changes: Any) -> None:
    """Change top-level keys of manifest.json."""
    path = root / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def open_error(root: Path | str) -> str:
    """Return the message of the BundleError that Bundle.open must raise."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(root)
    return str(caught.value)


def test_open_returns_root_manifest_and_digest(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    assert bundle.root == toy_bundle.resolve()
    assert bundle.manifest.name == "toy"
    assert bundle.digest == hashlib.sha256((toy_bundle / "manifest.json").read_bytes()).hexdigest()
    for _, ref in bundle.manifest.files():
        assert hashlib.sha256(bundle.file(ref).read_bytes()).hexdigest() == ref.sha256
    assert bundle.unlisted_files() == ()


def test_open_accepts_a_relative_path(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy_bundle.parent)
    assert Bundle.open(toy_bundle.name).root == toy_bundle.resolve()


def test_building_the_toy_bundle_is_deterministic(toy_bundle: Path, tmp_path: Path) -> None:
    assert build_toy_bundle(tmp_path).digest == Bundle.open(toy_bundle).digest


def test_activation_ranges_are_files_of_the_bundle(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, activation_ranges=True)
    listed = {key: ref.path for key, ref in bundle.manifest.files() if key.endswith("activation_ranges")}
    assert listed["segmenter.activation_ranges"] == "segmenter.ranges.json"
    assert listed["members[2].activation_ranges"] == "residual.ranges.json"
    (tmp_path / "residual.ranges.json").write_text("{}", encoding="utf-8")
    assert "residual.ranges.json in" in open_error(tmp_path)


def test_starter_opens_the_packaged_bundle(
    toy_bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package").mkdir()
    toy_bundle_copy.rename(tmp_path / "package" / "starter")
    monkeypatch.setattr(bundle_folder, "PACKAGED", tmp_path / "package" / "starter")
    assert Bundle.open("starter").root == (tmp_path / "package" / "starter").resolve()


def test_an_installation_without_starter_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_folder, "PACKAGED", tmp_path / "starter")
    assert "without its starter bundle: install it again" in open_error("starter")


def test_an_empty_path_is_not_the_current_folder(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy_bundle)
    with pytest.raises(BundleError, match="expected the folder of a bundle, or the word starter, got an empty path"):
        Bundle.open("")


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    message = open_error(tmp_path / "nowhere")
    assert f"there is no folder {tmp_path / 'nowhere'}" in message
    assert "or the word starter" in message


def test_a_file_instead_of_a_folder_is_reported(toy_bundle: Path) -> None:
    assert "manifest.json is a file: give its folder" in open_error(toy_bundle / "manifest.json")


def test_a_folder_without_manifest_is_reported(tmp_path: Path) -> None:
    assert "has no manifest.json, so it is no bundle" in open_error(tmp_path)


def test_a_manifest_that_is_too_large_is_not_read(toy_bundle_copy: Path) -> None:
    with (toy_bundle_copy / "manifest.json").open("r+b") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    assert "has 16777217 bytes, a manifest of cxr-edge has at most 16777216" in open_error(toy_bundle_copy)


def test_a_malformed_manifest_names_folder_key_and_remedy(toy_bundle_copy: Path) -> None:
    edit(toy_bundle_copy, labels="normal")
    message = open_error(toy_bundle_copy)
    assert message.startswith(f"{toy_bundle_copy.resolve()}: manifest.json: labels must be a list")
    assert message.endswith(COPY_AGAIN)


def test_edited_preprocessing_is_a_contract_error_that_names_the_folder(toy_bundle_copy: Path) -> None:
    members = json.loads((toy_bundle_copy / "manifest.json").read_text(encoding="utf-8"))["members"]
    members[0]["preprocess"]["median"] = True
    edit(toy_bundle_copy, members=members)
    with pytest.raises(ContractError, match=r'toy: manifest\.json: the preprocessing of "plain" was altered'):
        Bundle.open(toy_bundle_copy)


FILES = ["plain.onnx", "segmenter.onnx", "known-smooth.png", "model-card.md"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_reported(toy_bundle_copy: Path, name: str) -> None:
    (toy_bundle_copy / name).unlink()
    message = open_error(toy_bundle_copy)
    assert f"{name} (" in message
    assert f"is missing from {toy_bundle_copy.resolve()}: {COPY_AGAIN}" in message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("index", [0, -1])
def test_one_altered_byte_is_detected(toy_bundle_copy: Path, name: str, index: int) -> None:
    content = bytearray((toy_bundle_copy / name).read_bytes())
    content[index] ^= 1
    (toy_bundle_copy / name).write_bytes(content)
    message = open_error(toy_bundle_copy)
    assert f"{name} in {toy_bundle_copy.resolve()} was altered" in message
    assert hashlib.sha256(content).hexdigest() in message
    assert message.endswith(COPY_AGAIN)


def test_a_truncated_file_is_detected(toy_bundle_copy: Path) -> None:
    os.truncate(toy_bundle_copy / "plain.onnx", 100)
    assert "plain.onnx in" in open_error(toy_bundle_copy)


def test_a_link_out_of_the_folder_is_rejected(toy_bundle_copy: Path) -> None:
    moved = toy_bundle_copy.parent / "plain.onnx"
    (toy_bundle_copy / "plain.onnx").rename(moved)
    (toy_bundle_copy / "plain.onnx").symlink_to(moved)
    assert "plain.onnx (members[0].file) is a link that leads out of the bundle" in open_error(toy_bundle_copy)


def test_a_linked_folder_out_of_the_bundle_is_rejected(toy_bundle_copy: Path) -> None:
    outside = toy_bundle_copy.parent / "outside"
    outside.mkdir()
    (outside / "card.md").write_text("card", encoding="utf-8")
    (toy_bundle_copy / "docs").symlink_to(outside)
    edit(toy_bundle_copy, model_card={"path": "docs/card.md", "sha256": hashlib.sha256(b"card").hexdigest()})
    assert "docs/card.md (model_card) is a link that leads out" in open_error(toy_bundle_copy)


def test_a_link_inside_the_folder_is_accepted(toy_bundle_copy: Path) -> None:
    (toy_bundle_copy / "plain.onnx").rename(toy_bundle_copy / "net.onnx")
    (toy_bundle_copy / "plain.onnx").symlink_to("net.onnx")
    assert Bundle.open(toy_bundle_copy).unlisted_files() == ("net.onnx",)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_anything_but_a_regular_file_is_rejected(toy_bundle_copy: Path, kind: str) -> None:
    path = toy_bundle_copy / "model-card.md"
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to("model-card.md")}[kind]()
    assert "model-card.md (model_card) " in open_error(toy_bundle_copy)


@pytest.mark.parametrize("path", ["../plain.onnx", "/etc/passwd", "a/../../b", "..\\b", "C:\\b", "a//b", "./b", ""])
def test_a_path_out_of_the_folder_is_rejected_before_any_file_is_read(toy_bundle_copy: Path, path: str) -> None:
    edit(toy_bundle_copy, model_card={"path": path, "sha256": "0" * 64})
    assert "model_card.path must be " in open_error(toy_bundle_copy)


def test_unlisted_files_are_reported_but_engines_and_hidden_ones_are_not(toy_bundle_copy: Path) -> None:
    for name in ("notes.txt", "old/plain.onnx", "engines/onnxruntime/plain.onnx", ".cache/x"):
        (toy_bundle_copy / name).parent.mkdir(parents=True, exist_ok=True)
        (toy_bundle_copy / name).write_text("x", encoding="utf-8")
    assert Bundle.open(toy_bundle_copy).unlisted_files() == ("notes.txt", "old/plain.onnx")


def test_a_file_deleted_after_opening_is_reported(toy_bundle_copy: Path) -> None:
    bundle = Bundle.open(toy_bundle_copy)
    (bundle.root / "plain.onnx").unlink()
    with pytest.raises(BundleError, match=r"plain\.onnx .* is missing"):
        bundle.file(bundle.manifest.members[0].file)


def test_write_bundle_round_trips_and_ends_with_a_newline(toy_bundle_copy: Path) -> None:
    bundle = Bundle.open(toy_bundle_copy)
    renamed = write_bundle(toy_bundle_copy, dataclasses.replace(bundle.manifest, name="Prüfung"))
    text = (toy_bundle_copy / "manifest.json").read_bytes()
    assert renamed.manifest.name == "Prüfung"
    assert text.endswith(b"}\n")
    assert b"\r" not in text
    assert list(json.loads(text))[:2] == ["schema", "name"]
    assert [p.name for p in toy_bundle_copy.iterdir() if p.name.startswith(".")] == []


def test_write_bundle_keeps_the_old_manifest_if_a_file_does_not_match(toy_bundle_copy: Path) -> None:
    bundle = Bundle.open(toy_bundle_copy)
    before = (toy_bundle_copy / "manifest.json").read_bytes()
    card = FileRef(path="model-card.md", sha256="0" * 64)
    with pytest.raises(BundleError, match=r"model-card\.md in .* was altered"):
        write_bundle(toy_bundle_copy, dataclasses.replace(bundle.manifest, model_card=card))
    assert (toy_bundle_copy / "manifest.json").read_bytes() == before


def test_file_ref_of_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.onnx .* is missing"):
        file_ref(tmp_path, "gone.onnx")


def test_opening_a_bundle_needs_no_onnx(toy_bundle: Path) -> None:
    """Screening opens bundles, and importing onnx would add a large part of a second to its start."""
    program = (
        "import sys; from cxr_edge.bundle import Bundle; Bundle.open(sys.argv[1]); "
        "print(sorted({'onnx', 'onnxruntime', 'torch', 'pydicom'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program, str(toy_bundle)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_file_that_cannot_be_read_is_named(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if by its permissions, which do not stop root."""

    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("cxr_edge.bundle.folder.sha256_file", refused)
    with pytest.raises(BundleError, match=r"cannot be read \(Permission denied\): check its permissions"):
        Bundle.open(toy_bundle)
