"""Latency of pruned networks by channel alignment: any channel counts, multiples of 8 and multiples of 16, in one run.

`python -m training.recipes.r20.alignment` writes a page and its JSON. Latency does not depend on weights, so the networks are
random and are not retrained; zeros are counted on synthetic X-rays.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cxr_edge.specs.preprocess import PreprocessSpec
from training.json_records import write_json
from training.markdown import table
from training.models import NetworkSpec, build
from training.pruning import cost
from training.pruning.apoz import zero_shares
from training.pruning.channels import prunable, remove, select_channels
from training.pruning.prune import export_network
from training.recipes.arguments import add_out_argument
from training.recipes.r20.reductions import images
from training.shared_files import write_text

__all__ = ["Alignment", "Row", "main", "measure"]

MULTIPLES = (1, 8, 16)
_STEPS = 10
_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network after a pruning step."""

    step: int
    multiple_of: int
    channels: int
    parameters: int
    macs: int
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Contents of the JSON."""

    network: str
    side_px: int
    threads: int
    rows: tuple[Row, ...]


def measure(spec: NetworkSpec, side_px: int, *, threads: int, steps: int = _STEPS) -> tuple[Row, ...]:
    """Return a row per step and multiple; the multiples of a step are timed in turn."""
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
                chosen = select_channels(
                    prunable(network, example),
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
            row = Row(
                step=step,
                multiple_of=multiple,
                channels=sum(u.channels for u in prunable(network, example)),
                parameters=cost.parameters(network),
                macs=cost.macs(network, example),
                milliseconds=ms,
            )
            rows.append(row)
    return tuple(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write OUT.json and OUT.md. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m training.recipes.r20.alignment", description=__doc__)
    add_out_argument(parser, "docs/results/r20-alignment")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    spec = NetworkSpec(architecture="narrow-vgg", labels=3, head_maps=128)
    rows = measure(spec, 128, threads=args.threads)
    found = Alignment(network="narrow-vgg", side_px=128, threads=args.threads, rows=rows)
    write_json(args.out.with_suffix(".json"), found)
    write_text(args.out.with_suffix(".md"), _page(found))
    return 0


def _page(found: Alignment) -> str:
    head = [
        "step",
        *(f"{what}, {'any' if m == 1 else f'multiples of {m}'}" for m in MULTIPLES for what in ("channels", "ms")),
    ]
    by_step: dict[int, list[str]] = {}
    for row in found.rows:
        by_step.setdefault(row.step, []).extend([str(row.channels), f"{row.milliseconds:.2f}"])
    return (
        f"# What channel counts cost\n\n{found.network}, {found.side_px} px, ONNX Runtime fp32 on this machine's CPU, "
        f"{found.threads} threads, batch 1, median of 100 runs after 3. 5 % of the channels go a step. "
        "Random weights: time does not depend on them. Made by `training/recipes/r20/alignment.py`.\n\n"
        + table(head, ([step, *cells] for step, cells in by_step.items()))
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
