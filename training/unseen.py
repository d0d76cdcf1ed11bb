"""What a member says of a site it never saw: `python -m training.unseen`, a run folder in, JSON and Markdown out, and
the JSON into the run folder, from where the next model card takes it.

Trains the members of a configuration without the collections in its `left_out`, then asks them of all images of those
collections. The lung segmenter of the run saw that site; the members did not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_edge.errors import CxrEdgeError, InputError
from training.data.canvases import Canvases
from training.data.dataset import Sample, data_folder, load
from training.evaluation.bundle import GUARDED
from training.evaluation.metrics import proportion
from training.evaluation.pages import unseen_as_markdown
from training.loop.fit import load_best
from training.models import build_member
from training.recipes.config import Config, load_config
from training.shared_files import write_text
from training.starter import UNSEEN_FILE, train_member
from training.tasks.predict import logits_of

__all__ = ["main", "said_of_unseen"]


def said_of_unseen(samples: Sequence[Sample], canvases: Canvases, config: Config, out: Path) -> dict[str, Any]:
    """Train in `out`/MEMBER and judge. Returns member -> "source/label" -> counts said and the share not called COVID-19."""
    if not config.left_out:
        raise InputError("the configuration leaves no source out: give left_out = [...]")
    return {name: _judged(name, samples, canvases, config, out) for name in config.members}


def _judged(name: str, samples: Sequence[Sample], canvases: Canvases, config: Config, out: Path) -> dict[str, Any]:
    _, best = train_member(name, samples, canvases, config, out)
    torch.set_num_threads(config.threads)
    network = load_best(build_member(name, len(config.labels)), best)
    rows = [i for i, s in enumerate(samples) if s.record.source in config.left_out]
    said = logits_of(network, canvases.lungs[rows], config.member_spec).argmax(axis=1)
    kinds = np.array([f"{samples[i].record.source}/{samples[i].record.label}" for i in rows])
    return {kind: _counted(said[kinds == kind], config.labels) for kind in sorted(set(kinds.tolist()))}


def _counted(said: npt.NDArray[np.int64], labels: Sequence[str]) -> dict[str, Any]:
    counts = dict(zip(labels, np.bincount(said, minlength=len(labels)).tolist(), strict=True))
    return {"said": counts, "not_called_covid": proportion(len(said) - counts[GUARDED], len(said)).as_json()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 for what cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.unseen", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the collections; default: CXR_EDGE_DATA")
    parser.add_argument("--run", type=Path, default=Path("runs/starter"), help="run folder (%(default)s)")
    parser.add_argument(
        "--config", type=Path, default=Path("training/configs/unseen-site.toml"), help="TOML (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/unseen-site"), help="without suffix (%(default)s)"
    )
    args = parser.parse_args(arguments)
    try:
        config = load_config(args.config)
        samples = load(data_folder(args.data), args.run / "table.csv")
        canvases = Canvases.load(args.run / "canvases.npz")
        found = said_of_unseen(samples, canvases, config, args.run / config.name)
    except CxrEdgeError as error:
        print(f"training.unseen: {error}", file=sys.stderr)
        return 2
    facts = {
        "preset": "sane",
        "left_out": list(config.left_out),
        "seed": config.seed,
        "split": "all images of the left-out sources",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results = {**facts, "members": found}
    text = json.dumps(results, indent=1) + "\n"
    for file in (args.out.with_suffix(".json"), args.run / UNSEEN_FILE):
        write_text(file, text)
    write_text(args.out.with_suffix(".md"), unseen_as_markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
