"""Parameter counts of the papers' networks next to the printed ones: `python -m training.recipes.r20.parameters`.

The shipped full configurations in, a page and its JSON out: every member of R20 with two labels (Table 3) and, if Table 4 has
it, three, with the head of its configuration; and COVID-Net next to its published counts. Networks are built on the meta
device, without weights, so that this takes a few seconds and little memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from training.json_records import write_json
from training.markdown import table
from training.models import NetworkSpec, build
from training.pruning import cost
from training.recipes.arguments import add_out_argument
from training.recipes.r20.config import load_r20
from training.recipes.r20.published import MODALITY, TASK
from training.shared_files import write_text

__all__ = ["CONFIGS", "ROWS", "Count", "counts", "main"]

CONFIGS = ("r20-full", "r20-full-counts", "r20-full-code")
# Member of those configurations -> row of the paper's tables.
ROWS: Mapping[str, str] = {
    "custom": "Custom",
    "vgg16": "VGG-16",
    "vgg19": "VGG-19",
    "inception-v3": "Inception-V3",
    "xception": "Xception",
    "densenet201": "DenseNet-201",
    "mobilenet-v2": "MobileNet-V2",
    "nasnet-mobile": "NASNet-mobile",
    "inception-resnet-v2": "InceptionResNet-V2",
}
_NO_GAMMA = ("inception-v3", "inception-resnet-v2")  # Keras' batch norm has none in these
# COVID-Net with three labels, in millions of parameters and G MACs (its authors' docs/models.md), and parameters of the public
# PyTorch code, counted from its source.
_COVID = (("authors' COVIDNet-CXR Small", 117.4, 2.26), ("authors' COVIDNet-CXR Large", 127.4, 3.59))
_COVID_PUBLIC = ("github.com/iliasprc/COVIDNet: biases, no batch norm", 134_513_939)


@dataclass(frozen=True, kw_only=True)
class Count:
    """Parameter counts of one network."""

    configuration: str
    row: str  # of the paper's table
    labels: int
    network: str
    head: str
    parameters: int  # of the PyTorch network
    as_in_keras: int  # without the batch norm gammas that the Keras network lacks
    printed: int  # in the paper


def counts(members: Iterable[str] = tuple(ROWS)) -> Iterator[Count]:
    """Yield the members of the full configurations in the order of `ROWS`, without networks of an earlier configuration."""
    seen: list[tuple[str, NetworkSpec]] = []
    for name in CONFIGS:
        config = load_r20(Path(__file__).parents[2] / "configs" / f"{name}.toml")
        for member in members:
            row = ROWS[member]
            for labels, printed in _printed(row).items():
                spec = config.network(member, labels)
                if (member, spec) not in seen:
                    seen.append((member, spec))
                    yield _count(name, row, spec, printed)


def _printed(row: str) -> dict[int, int]:
    """Return the number of labels -> the printed count of Table 3 or 4."""
    tables = {2: MODALITY.get(("modality", row)), 3: TASK.get(("multiclass", row))}
    return {labels: int(r[-1].replace(",", "")) for labels, r in tables.items() if r is not None}


def _count(configuration: str, row: str, spec: NetworkSpec, printed: int) -> Count:
    network = _shapes(spec)
    norms = (m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    gammas = sum(m.weight.numel() for m in norms) if spec.architecture in _NO_GAMMA else 0
    parameters = cost.parameters(network)
    return Count(
        configuration=configuration,
        row=row,
        labels=spec.labels,
        network=spec.architecture,
        head="none" if spec.architecture == "custom" else spec.head,
        parameters=parameters,
        as_in_keras=parameters - gammas,
        printed=printed,
    )


def _shapes(spec: NetworkSpec) -> nn.Module:
    with torch.device("meta"):
        return build(spec).eval()


def _covid_rows() -> list[list[str]]:
    spec = NetworkSpec(architecture="covid-net", labels=3, channels=3, head_maps=0)
    rows = []
    for title, one in (("ours, dense layers", spec), ("ours, R20's head (conv-3x3)", replace(spec, head_maps=1024))):
        network = _shapes(one)
        macs = cost.macs(network, torch.zeros(1, 3, 224, 224, device="meta"))
        rows.append([title, f"{cost.parameters(network):,}", f"{macs / 1e9:.2f}"])
    rows.append([_COVID_PUBLIC[0], f"{_COVID_PUBLIC[1]:,}", ""])
    return rows + [[title, f"{millions} million", f"{macs}"] for title, millions, macs in _COVID]


def _numbers(*values: int) -> list[str]:
    return [f"{v:,}" for v in values]


def _more(c: Count) -> str:
    return f"{c.as_in_keras - c.printed:+,}" if c.as_in_keras != c.printed else "0"


def page(found: Sequence[Count]) -> str:
    """Return the counts as a Markdown page."""
    head = [
        "configuration",
        "row of the paper",
        "labels",
        "network",
        "head",
        "parameters",
        "as in Keras",
        "printed",
        "more",
    ]
    rows = [
        [
            c.configuration,
            c.row,
            c.labels,
            c.network,
            c.head,
            *_numbers(c.parameters, c.as_in_keras, c.printed),
            _more(c),
        ]
        for c in found
    ]
    return (
        "# Parameters of the papers' networks\n\nR20's networks with three input channels, as the full configurations build "
        "them, beside Tables 3 (two labels) and 4 (three). `r20-full` has the networks that the paper names, under the head "
        "that its tables count; `r20-full-counts` those whose counts the rows DenseNet-201 and MobileNet-V2 print ([decision "
        "0004](../decisions/0004-r20-parameter-counts.md)); `r20-full-code` the head of text and code, a separable 5x5, under "
        "which no row fits. The last two are listed where they differ from the first. *As in Keras*: without the gammas of batch "
        "norm that its Inception networks lack. *More*: as in Keras less printed. Made by "
        "`training/recipes/r20/parameters.py`.\n\n"
        f"{table(head, rows)}\n\n## COVID-Net, a baseline of FLANNEL\n\nThree labels, 224 px; G MACs. The authors publish "
        "trained graphs and these totals, not the layers: no text gives the inner widths of a block, and half and three quarters "
        "of what "
        "comes in, as in the public PyTorch code, make 134.5 million. That the authors' two are narrower inside is inference; by "
        "which widths is not known.\n\n"
        f"{table(['network', 'parameters', 'G MACs'], _covid_rows())}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and write OUT.json and OUT.md. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m training.recipes.r20.parameters", description=__doc__)
    add_out_argument(parser, "docs/results/r20-parameters")
    args = parser.parse_args(arguments)
    found = list(counts())
    write_json(args.out.with_suffix(".json"), found)
    write_text(args.out.with_suffix(".md"), page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
