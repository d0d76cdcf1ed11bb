"""Network files: save and load `network.json` (the spec) and `weights.safetensors` of a folder, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cxr_edge.errors import BundleError, InputError
from training.models.networks import NetworkSpec, build
from training.models.shapes import shapes_of
from training.shared_files import atomic_write, read_json, reading, write_text

__all__ = ["load_network", "save_network"]

SPEC, WEIGHTS = "network.json", "weights.safetensors"
_DIGEST = "sha256"  # in the metadata of the weights


def save_network(network: nn.Module, spec: NetworkSpec, folder: Path) -> NetworkSpec:
    """Write both files, the spec last, so that a folder with a spec is complete. Returns the spec with the network's shapes."""
    fresh = shapes_of(build(replace(spec, shapes={})))
    spec = replace(spec, shapes={k: v for k, v in shapes_of(network).items() if v != fresh[k]})
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as beside:
        save_file(weights, beside, metadata={_DIGEST: _digest(weights)})
    write_text(folder / SPEC, json.dumps(spec.as_json(), indent=1) + "\n")
    return spec


def load_network(folder: Path) -> tuple[nn.Module, NetworkSpec]:
    """Load a network, in evaluation mode, and its spec. Raises BundleError if the folder holds none, or a damaged one."""
    remedy = f"delete {folder} and start the same command again, which makes it again"
    try:
        values = read_json(folder / SPEC, remedy)
        with reading(folder / SPEC, remedy):
            spec = NetworkSpec.from_json(values)
        network = build(spec)
        with reading(folder / WEIGHTS, remedy):
            network.load_state_dict(_load_weights(folder / WEIGHTS))
    except InputError as error:
        raise BundleError(f"{folder} holds no network ({SPEC} and {WEIGHTS}): {error}") from error
    return network.eval(), spec


def _load_weights(file: Path) -> dict[str, Tensor]:
    """Load the weights and compare their digest; those of version 0.1 have none."""
    with safe_open(file, "pt") as opened:
        recorded = (opened.metadata() or {}).get(_DIGEST)
    weights: dict[str, Tensor] = load_file(file)
    if recorded not in (None, _digest(weights)):
        raise ValueError("the weights have another digest")
    return weights


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all values: the format has no checksum, and zeros after a power cut are weights, too."""
    digest = sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
