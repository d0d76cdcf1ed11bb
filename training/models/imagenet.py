"""ImageNet weights for a network with one of timm's trunks: a file, or timm's hub, in; the trunk filled in place.

R20 and FLANNEL both start from ImageNet. Their networks read color; one that reads gray gets the sum of the first
convolution's three input channels, which is exactly what three copies of the gray image would give.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import timm.models
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.networks import Network, NetworkSpec

__all__ = ["load_imagenet"]

# Modules of timm and torchvision that classify: not in a trunk, so their entries in a file are passed over.
_CLASSIFIERS = ("pre_logits", "head", "fc", "last_linear", "classifier", "classif", "AuxLogits")

# What reading a damaged or foreign file raises, the hub's errors (OSError) included.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    RuntimeError,
    EOFError,
    pickle.PickleError,
    SafetensorError,
)


def load_imagenet(network: Network, spec: NetworkSpec, file: Path | None) -> None:
    """Give the trunk of `network` ImageNet weights, in place; the head stays as it is.

    network: `build(spec)`, not pruned. file: a state dict (.safetensors, .pth) of the same network as timm, or torchvision
    where the names agree, publishes it; its classifier is passed over. None: download it as timm does. With one input
    channel the image must be normalised by one mean and standard deviation, since three copies have no others.
    Raises InputError where the network has no such weights, and for a file that is not theirs; the network is then unchanged.
    """
    trunk, config = _timm_network(network, spec)
    given, where = (_read(file), str(file)) if file is not None else (_download(spec, config), "timm's hub")
    given = _for_trunk(given, trunk)
    if spec.channels == 1:
        given = _folded_to_gray(given, config["first_conv"])
    _check(given, trunk, spec, where)
    # Old files do not count batches; the count is used by no layer here, so it stays what it was.
    trunk.load_state_dict({**trunk.state_dict(), **given})


def _timm_network(network: Network, spec: NetworkSpec) -> tuple[nn.Module, Mapping[str, object]]:
    """timm's network in the trunk and what timm knows of its published weights; only timm's own designs have both."""
    trunk = getattr(network.trunk, "network", None)
    config = getattr(trunk, "pretrained_cfg", None)
    if trunk is None or not config:
        raise InputError(
            f"{spec.architecture} has no ImageNet weights: train it from scratch, or from another X-ray task"
        )
    return trunk, config


def _read(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise InputError(f"there is no file {file}: give a state dict of timm's, .safetensors or .pth")
    try:
        given = timm.models.load_state_dict(str(file))  # unpickles tensors only
    except _UNREADABLE as error:
        raise InputError(f"{file} is no state dict (.safetensors or .pth): {error}") from error
    if not all(isinstance(v, Tensor) for v in given.values()):
        raise InputError(f"{file} holds more than tensors: give the state dict alone")
    return given


def _download(spec: NetworkSpec, config: Mapping[str, object]) -> Mapping[str, Tensor]:
    """From the Hugging Face hub where timm has the weights there, else from the address that timm names."""
    hub, address = config.get("hf_hub_id"), config.get("url")
    if not hub and not address:
        raise InputError(f"timm publishes no weights of {spec.architecture}: give a file or train from scratch")
    try:
        if hub:
            return timm.models.load_state_dict_from_hf(str(hub))
        return torch.hub.load_state_dict_from_url(str(address), map_location="cpu", weights_only=True, progress=False)
    except _UNREADABLE as error:
        raise InputError(
            f"ImageNet weights of {spec.architecture} could not be had from {hub or address}: {error}. "
            "Give them as a file (.safetensors or .pth), or train from scratch"
        ) from error


def _for_trunk(given: Mapping[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """Without the classifiers, and with today's names of DenseNet's layers: torchvision's files say norm.1 for norm1."""
    expected = trunk.state_dict().keys()
    renamed = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", k): v for k, v in given.items()}
    return {k: v for k, v in renamed.items() if k in expected or k.split(".")[0] not in _CLASSIFIERS}


def _folded_to_gray(given: dict[str, Tensor], first_conv: object) -> dict[str, Tensor]:
    """The first convolution (of some designs several) summed over its three input channels."""
    names = {f"{name}.weight" for name in ([first_conv] if isinstance(first_conv, str) else first_conv or ())}
    gray = {k: v.double().sum(dim=1, keepdim=True) for k, v in given.items() if k in names and v.ndim == 4}
    return {**given, **{k: v.to(given[k].dtype) for k, v in gray.items()}}


def _check(given: Mapping[str, Tensor], trunk: nn.Module, spec: NetworkSpec, where: str) -> None:
    expected = trunk.state_dict()
    missing = [k for k in expected if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in expected]
    other = [f"{k} {list(v.shape)}" for k, v in given.items() if k in expected and v.shape != expected[k].shape]
    found = [_named("missing", missing), _named("unexpected", unexpected), _named("of another shape", other)]
    if any(found):
        pruned = " (the network is pruned: load before pruning)" if spec.shapes else ""
        raise InputError(
            f"{where} does not hold the weights of {spec.architecture}{pruned}: {'; '.join(filter(None, found))}"
        )


def _named(what: str, names: Collection[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what}: {', '.join(list(names)[:5])}{more}" if names else ""
