"""Weight files from elsewhere: a file in, its state dict out, or one sentence on what it is and what to give in its place.

State dicts, TorchScript and ExportedPrograms are read; whole pickled networks and Keras files are not, and torch's own messages
about those are a page long. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import timm.models
from safetensors import SafetensorError
from torch import Tensor

from cxr_edge.errors import InputError
from training.models.weight_formats import (
    exported_program_weights,
    is_exported_program,
    is_torchscript,
    torchscript_weights,
)

__all__ = ["UNREADABLE", "read_state_dict"]

# Errors of reading a damaged or foreign file, the hub's errors (OSError) included.
UNREADABLE = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, EOFError),
    *(pickle.PickleError, SafetensorError, zipfile.BadZipFile, StopIteration),
)
_GIVE = "give a state dict, .safetensors or .pth"
_KERAS = (
    f"whose weights have other names and axes: export it to ONNX (tf2onnx), or {_GIVE} of the same network in PyTorch"
)
_FROM_SOURCE = "with torch.save(network.state_dict(), 'weights.pth') where the network was made"


def read_state_dict(file: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a state dict (.safetensors, .pth; or a checkpoint with one in it, as timm reads them), of
    TorchScript or of an ExportedProgram.

    Raises InputError for a file that is missing, damaged or of another kind.
    """
    if not file.is_file():
        raise InputError(f"{file} is a folder: {_GIVE}" if file.is_dir() else f"there is no file {file}: {_GIVE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript
            given = _read(file)
    except UNREADABLE as error:
        raise InputError(f"{file} is no state dict: {_kind(file, error)}") from error
    if other := sorted(str(k) for k, v in given.items() if not isinstance(v, Tensor)):
        raise InputError(
            f"{file} holds more than tensors ({', '.join(other[:3])}): save the weights alone, {_FROM_SOURCE}"
        )
    return given


def _read(file: Path) -> Mapping[str, Tensor]:
    if is_torchscript(file):
        return torchscript_weights(file)
    if is_exported_program(file):
        return exported_program_weights(file)
    given: Mapping[str, Tensor] = timm.models.load_state_dict(str(file))  # unpickles tensors only
    return given


def _kind(file: Path, error: Exception) -> str:
    """Return what the file is instead, and what to do."""
    with file.open("rb") as opened:
        head = opened.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _archive(file)
    if not head.strip(b"\0"):
        return "it is empty: copy it again"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"it is a Keras file (HDF5), {_KERAS}"
    if head[0] == 8 and head[1] < 32:
        return f"it is an ONNX file: give it the suffix .onnx, or {_GIVE}"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, so the download failed: download the file itself"
    return f"{_first_line(error)}: {_GIVE}"


def _archive(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return "it is cut off, or damaged: copy it again"
    if "constants.pkl" in names:
        return f"it is TorchScript that cannot be loaded, made by another version or damaged: {_GIVE}"
    if "data.pkl" in names:
        return (
            f"it holds Python objects, as of a whole network, which are not unpickled: save the weights, {_FROM_SOURCE}"
        )
    if "model.weights.h5" in names:
        return f"it is a Keras file, {_KERAS}"
    return f"it is a ZIP archive of another kind: {_GIVE}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
