"""Network files: save and load `network.json` (the spec) and `weights.safetensors` of a folder, without pickle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cxr_edge.errors import BundleError
from training.models.networks import NetworkSpec, build
from training.models.shapes import shapes_of
from training.shared_files import atomic_write, write_text

__all__ = ["load_network", "save_network"]

SPEC, WEIGHTS = "network.json", "weights.safetensors"


def save_network(network: nn.Module, spec: NetworkSpec, folder: Path) -> NetworkSpec:
    """Write both files, the spec last, so that a folder with a spec is complete. Returns the spec with the network's shapes."""
    fresh = shapes_of(build(replace(spec, shapes={})))
    spec = replace(spec, shapes={k: v for k, v in shapes_of(network).items() if v != fresh[k]})
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / WEIGHTS) as beside:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}, beside)
    write_text(folder / SPEC, json.dumps(spec.as_json(), indent=1) + "\n")
    return spec


def load_network(folder: Path) -> tuple[nn.Module, NetworkSpec]:
    """Load a network, in evaluation mode, and its spec. Raises BundleError if the folder holds none."""
    try:
        spec = NetworkSpec.from_json(json.loads((folder / SPEC).read_text(encoding="utf-8")))
        network = build(spec)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"{folder} holds no network ({SPEC} and {WEIGHTS}): {error}") from error
    return network.eval(), spec
