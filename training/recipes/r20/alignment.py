"""Latency of pruned networks by channel alignment: any channel counts, multiples of 8 and multiples of 16, in one run.

`python -m training.recipes.r20.alignment` writes a page and its JSON. Latency does not depend on weights, so the networks are
random and are not retrained; zeros are counted on synthetic X-rays.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cxr_edge.specs.preprocess import PreprocessSpec
from training.markdown import table
from training.models import NetworkSpec, build
from training.pruning import cost
from training.pruning.apoz import zero_shares
from training.pruning.channels import prunable, remove, select_channels
from training.pruning.prune import export_network
from training.recipes.r20.reductions import images
from training.shared_files import write_text

__all__ = ["main", "measure"]

MULTIPLES = (1, 8, 16)
_STEPS = 10
_FRACTION = 0.05


def measure(spec: NetworkSpec, side_px: int, *, threads: int, steps: int = _STEPS) -> list[dict[str, Any]]:
    """Return channels, parameters, macs and milliseconds per step and multiple; the multiples of a step are timed in turn."""
    preprocess = PreprocessSpec(canvas_px=side_px, crop_px=side_px)
    example = torch.zeros(1, *preprocess.tensor_shape)
    networks = {}
    for multiple in MULTIPLES:
        torch.manual_seed(0)
        networks[multiple] = build(spec).eval()
    original = {u.root: u.channels for u in prunable(networks[1], example)}
    rows = []
    for step in range(steps + 1):
        for multiple, network in networks.items():
            if step:
                shares = zero_shares(network, images(preprocess, 8))
                units = prunable(network, example)
                chosen = select_channels(
                    units,
                    shares,
                    step=step,
                    original=original,
                    fraction=_FRACTION,
                    multiple_of=multiple,
                    ahead=2.0,
                )
                remove(network, example, chosen)
            with tempfile.TemporaryDirectory() as folder:
                export_network(network, spec, preprocess, Path(folder) / "network.onnx")
                ms = cost.latency_ms(Path(folder) / "network.onnx", threads=threads, repeats=100)
            channels = sum(u.channels for u in prunable(network, example))
            counts = {"parameters": cost.parameters(network), "macs": cost.macs(network, example)}
            rows.append({"step": step, "multiple_of": multiple, "channels": channels, **counts, "milliseconds": ms})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write OUT.json and OUT.md. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m training.recipes.r20.alignment", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/r20-alignment"), help="without suffix (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    spec = NetworkSpec(architecture="narrow-vgg", labels=3, head_maps=128)
    found = {
        "network": "narrow-vgg",
        "side_px": 128,
        "threads": args.threads,
        "rows": measure(spec, 128, threads=args.threads),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    write_text(args.out.with_suffix(".md"), _page(found))
    return 0


def _page(found: dict[str, Any]) -> str:
    head = [
        "step",
        *(f"{what}, {'any' if m == 1 else f'multiples of {m}'}" for m in MULTIPLES for what in ("channels", "ms")),
    ]
    by_step: dict[int, list[str]] = {}
    for row in found["rows"]:
        by_step.setdefault(row["step"], []).extend([str(row["channels"]), f"{row['milliseconds']:.2f}"])
    return (
        f"# What channel counts cost\n\n{found['network']}, {found['side_px']} px, ONNX Runtime fp32 on this machine's CPU, "
        f"{found['threads']} threads, batch 1, median of 100 runs after 3. 5 % of the channels go a step. "
        "Random weights: time does not depend on them. Made by `training/recipes/r20/alignment.py`.\n\n"
        + table(head, ([step, *cells] for step, cells in by_step.items()))
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
