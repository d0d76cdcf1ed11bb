"""Files that are no ONNX file: what they are, by their first bytes, and the call that makes an ONNX file of them.

A path comes in; one sentence comes out, or None for an unknown format. Exporters' users mix up these formats, and `not an
ONNX file` leaves them without the call that they need. Nothing is unpickled or executed: only names and signatures are
read.
"""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path

__all__ = ["describe_foreign", "export_call", "tf2onnx_command"]

_HEAD_BYTES = 512

_NO_GRAPH = "which has no graph: build the network in Python, load it into that with load_state_dict, then call"
_FROM_ITS_SOURCE = "give the .onnx file that it was made from"


def export_call(network: str = "network", *, traced: bool = False) -> str:
    """Return the call of PyTorch's exporter that gives a file as cxr-edge reads it.

    network: an expression. traced: it is TorchScript, which only the older exporter takes.
    """
    new = 'dynamic_shapes=({0: "N"},), external_data=False'
    old = 'dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}}, dynamo=False'
    return (
        f'torch.onnx.export({network}, (image,), "net.onnx", input_names=["image"], output_names=["logits"], '
        f"{old if traced else new})"
    )


def tf2onnx_command(source: str) -> str:
    """Return the command that converts a network of TensorFlow; source: the option for the kind of its file, and the file."""
    return (
        f"python -m tf2onnx.convert {source} --output net.onnx --opset 17 --inputs INPUT --inputs-as-nchw INPUT "
        "--rename-inputs image --rename-outputs logits, INPUT being the name of its input"
    )


def describe_foreign(path: Path) -> str | None:
    """Return what the file or folder `path` is and how to make an ONNX file of it; None if it is not known here."""
    if path.is_dir():
        return _describe_folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    return _describe_head(head, path)


def _describe_folder(path: Path) -> str | None:
    if (path / "saved_model.pb").is_file():
        return f"a TensorFlow SavedModel folder: convert it with {tf2onnx_command(f'--saved-model {shlex.quote(path.name)}')}"
    onnx_files = sorted(p.name for p in path.glob("*.onnx"))
    if onnx_files and not (path / "manifest.json").is_file():
        return f"a folder with ONNX files but no manifest.json: give one of them ({', '.join(onnx_files[:3])}), with --spec"
    return None


def _describe_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a ZIP archive that is truncated: copy it again"
    last = {name.rsplit("/", 1)[-1] for name in names}
    if "model.weights.h5" in last:
        return _keras(path)
    if "data.pkl" in last and ("constants.pkl" in last or any("/code/" in name for name in names)):
        return f"a TorchScript file: call {export_call(f'torch.jit.load({path.name!r})', traced=True)}"
    if last & {"serialized_exported_program.json", "archive_format"}:
        load = f"torch.export.load({path.name!r})"
        call = f'torch.onnx.export({load}, (), "net.onnx", input_names=["image"], output_names=["logits"], external_data=False)'
        return f"a program of torch.export: call {call}"
    if "data.pkl" in last:
        return f"a PyTorch checkpoint (torch.save), {_NO_GRAPH} {export_call()}"
    inside = [name for name in names if name.endswith(".onnx")]
    return f"a ZIP archive: unpack it, and give {inside[0]!a} of it" if inside else "a ZIP archive, of an unknown kind"


def _keras(path: Path) -> str:
    return f"a Keras model: convert it with {tf2onnx_command(f'--keras {shlex.quote(path.name)}')}"


def _describe_head(head: bytes, path: Path) -> str | None:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _keras(path)
    if head[:4] in (b"ptrt", b"ftrt"):
        return f"a TensorRT plan, which is compiled for one GPU already: {_FROM_ITS_SOURCE}"
    if head[4:8] == b"TFL3":
        return f"a TensorFlow Lite file: convert it with {tf2onnx_command(f'--tflite {shlex.quote(path.name)}')}"
    if head[4:8] == b"ORTM":
        return f"a file of ONNX Runtime's own format (.ort): {_FROM_ITS_SOURCE}"
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 100 * 2**20:
        return f"a safetensors file, {_NO_GRAPH} {export_call()}"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"a Python pickle, as torch.save of old releases writes, {_NO_GRAPH} {export_call()}"
    return _describe_text(head.lstrip().lower())


def _describe_text(head: bytes) -> str | None:
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page, so the download failed: download the file itself"
    if head.startswith(b"<?xml") and b"<net " in head:
        return f"a network of OpenVINO: {_FROM_ITS_SOURCE}"
    if head.startswith((b"\x1f\x8b", b"\xfd7zxz", b"\x28\xb5\x2f\xfd", b"bzh")):
        return "a compressed file: unpack it first"
    return None
