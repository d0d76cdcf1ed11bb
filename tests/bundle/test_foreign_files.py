"""Files that are no ONNX file are named, with the call that makes one of them, wherever a network or a bundle is expected."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import onnx
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.foreign_files import describe_foreign
from cxr_edge.bundle.onnx_check import read_model
from cxr_edge.errors import BundleError
from tests.builders.toy_bundle import member_model
from tests.bundle.test_onnx_check import SPEC


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return content.getvalue()


CHECKPOINT = zipped("net/data.pkl", "net/data/0", "net/version")
EXPORT = r"torch.onnx.export\(network, \(image,\), .*external_data=False\)"
TF2ONNX = r"tf2onnx.convert {} .*--inputs-as-nchw INPUT --rename-inputs image --rename-outputs logits"

FILES = {
    "torch-script": (
        zipped("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"),
        r"a TorchScript file: call torch.onnx.export\(torch.jit.load\('net'\), .*dynamo=False\)",
    ),
    "torch-program": (
        zipped("net/archive_format", "net/models/model.json", "net/data/sample_inputs/model.pt"),
        r"a program of torch.export: call torch.onnx.export\(torch.export.load\('net'\)",
    ),
    "torch-checkpoint": (CHECKPOINT, rf"a PyTorch checkpoint \(torch.save\), .* load_state_dict, then call {EXPORT}"),
    "torch-checkpoint-old": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", f"a Python pickle.* then call {EXPORT}"),
    "pickle": (pickle.dumps({"a": 1}), "a Python pickle"),
    "safetensors": (b"\x40" + bytes(7) + b'{"w":{"dtype":"F32","shape":[1],', f"a safetensors file, .* then call {EXPORT}"),
    "keras": (zipped("config.json", "metadata.json", "model.weights.h5"), "a Keras model: .*" + TF2ONNX.format("--keras net")),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(500), "a Keras model: .*" + TF2ONNX.format("--keras net")),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(500), "a TensorFlow Lite file: .*" + TF2ONNX.format("--tflite net")),
    "tensorrt": (b"ftrt" + bytes(500), r"a TensorRT plan, .* give the \.onnx file that it was made from"),
    "ort": (b"\x10\x00\x00\x00ORTM" + bytes(500), r"a file of ONNX Runtime's own format .* give the \.onnx file"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="x">', "a network of OpenVINO"),
    "zip-of-onnx": (zipped("a/net.onnx"), "a ZIP archive: unpack it, and give 'a/net.onnx' of it"),
    "zip": (zipped("a.txt"), "a ZIP archive, of an unknown kind"),
    "zip-truncated": (zipped("net/data.pkl")[:40], "a ZIP archive that is truncated"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "a compressed file: unpack it first"),
    "lfs": (b"version https://git-lfs.example/spec/v1\noid sha256:0\n", "a pointer of Git LFS.* `git lfs pull`"),
    "html": (b"\n<!DOCTYPE html><html>", "a web page, so the download failed"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_file_is_named_with_its_remedy(tmp_path: Path, name: str) -> None:
    content, message = FILES[name]
    (tmp_path / "net").write_bytes(content)
    with pytest.raises(BundleError, match=f"net is no ONNX file but {message}"):
        read_model(tmp_path / "net")
    with pytest.raises(BundleError, match=f"a bundle is a folder with manifest.json in it, .*net is {message}"):
        Bundle.open(tmp_path / "net")


def test_files_of_torch_are_recognised_as_torch_writes_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Conv2d(1, 2, 3)
    torch.save(network.state_dict(), tmp_path / "new")
    torch.save(network.state_dict(), tmp_path / "old", _use_new_zipfile_serialization=False)
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, 8, 8),)), tmp_path / "program")
    found = [describe_foreign(tmp_path / name) or "" for name in ("new", "old", "program")]
    expected = ("a PyTorch checkpoint", "a Python pickle", "a program of torch.export")
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))


def test_a_folder_of_tensorflow_is_named(tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model" / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(
        BundleError, match=r"my model has no manifest.json, so it is a TensorFlow SavedModel .*'my model'"
    ):
        Bundle.open(tmp_path / "my model")


def test_a_folder_of_onnx_files_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "b.onnx").touch()
    (tmp_path / "a.onnx").touch()
    with pytest.raises(BundleError, match=r"give one of them \(a.onnx, b.onnx\), with --spec"):
        Bundle.open(tmp_path)


def test_an_onnx_file_is_not_foreign(tmp_path: Path) -> None:
    onnx.save(member_model("plain", SPEC), tmp_path / "net")
    assert describe_foreign(tmp_path / "net") is None
    assert read_model(tmp_path / "net").graph.output[0].name == "logits"
    with pytest.raises(
        BundleError, match=r"net is a file, which cxr-edge build-engine takes alone if it is an .onnx file"
    ):
        Bundle.open(tmp_path / "net")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert describe_foreign(tmp_path / "net.onnx") is None
    with pytest.raises(BundleError, match=r"there is no file .*net.onnx: give the path of an ONNX file"):
        read_model(tmp_path / "net.onnx")
