"""Parameter reduction of R20's three networks after each pruning step: `python -m training.recipes.r20.reductions`.

Random weights, zeros counted on synthetic X-rays, no retraining. The page shows the reduction per step for the two readings
of the paper (2 % of all channels together, or of each layer), and the steps that are nearest to its Table 6.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec
from training.json_records import write_json
from training.markdown import table
from training.models import NetworkSpec, build
from training.phantoms import LABELS, make_phantom
from training.pruning import cost
from training.pruning.apoz import zero_shares
from training.pruning.channels import prunable, remove, select_channels
from training.recipes.arguments import add_out_argument
from training.shared_files import write_text

__all__ = ["PRINTED", "curve", "images", "main"]

# Table 6: % fewer parameters.
PRINTED = {"vgg16": 46.03, "vgg19": 16.13, "inception-v3": 36.10}
_STEPS = 25

Scope = Literal["global", "layer"]
_SCOPES: tuple[Scope, ...] = ("global", "layer")


def curve(architecture: str, scope: Scope, *, side_px: int = 96, count: int = 8, steps: int = _STEPS) -> list[float]:
    """Return % fewer parameters after each step, starting with 0 for no step."""
    spec = PreprocessSpec(canvas_px=side_px, crop_px=side_px, channels=3)
    torch.manual_seed(0)
    network = build(NetworkSpec(architecture=architecture, labels=3, channels=3)).eval()
    example = torch.zeros(1, 3, side_px, side_px)
    original = {u.root: u.channels for u in prunable(network, example)}
    unpruned, reductions = cost.parameters(network), [0.0]
    for step in range(1, steps + 1):
        shares = zero_shares(network, images(spec, count))
        chosen = select_channels(prunable(network, example), shares, step=step, original=original, scope=scope)
        remove(network, example, chosen)
        reductions.append(100 * (1 - cost.parameters(network) / unpruned))
    return reductions


def images(spec: PreprocessSpec, count: int) -> Iterator[Tensor]:
    """Yield one batch of synthetic X-rays, (count, channels, side, side)."""
    drawn = [make_phantom(LABELS[i % len(LABELS)], size_px=spec.canvas_px, seed=i).pixels for i in range(count)]
    yield torch.from_numpy(np.stack([normalize(pixels, spec) for pixels in drawn]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute and write OUT.json and OUT.md. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m training.recipes.r20.reductions", description=__doc__)
    add_out_argument(parser, "docs/results/r20-reductions")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    found = {name: {scope: curve(name, scope) for scope in _SCOPES} for name in PRINTED}
    write_json(args.out.with_suffix(".json"), found)
    write_text(args.out.with_suffix(".md"), _page(found))
    return 0


def _page(found: Mapping[str, Mapping[Scope, list[float]]]) -> str:
    head = [
        "network, scope",
        "Table 6 (%)",
        *(f"step {k}" for k in (1, 5, 10, 15, 20, _STEPS)),
        "step nearest to Table 6",
    ]
    rows = []
    for name, scopes in found.items():
        for scope, reductions in scopes.items():
            near = int(np.argmin(np.abs(np.array(reductions) - PRINTED[name])))
            at = [f"{reductions[k]:.2f}" for k in (1, 5, 10, 15, 20, _STEPS)]
            rows.append([f"{name}, {scope}", f"{PRINTED[name]:.2f}", *at, f"{near} ({reductions[near]:.2f})"])
    return (
        "# What R20's pruning takes away\n\n% fewer parameters after steps of 2 % of the original channels, R20's head "
        "included, random weights, zeros counted on synthetic X-rays, no retraining. `global` ranks all channels of a network "
        "together, as the published code does; `layer` takes 2 % of each layer, as the text says. The paper does not print the "
        "step that its Table 6 chose. How much `layer` removes does not depend on the weights, so that where none of its steps "
        "gives the printed share, that reading is excluded; `global` follows the zeros, and passes through it. Made by "
        "`training/recipes/r20/reductions.py`.\n\n" + table(head, rows) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
