"""Leave-one-site-out evaluation: a run folder in, JSON and Markdown out: `python -m training.unseen`.

Trains the members of a configuration without the sources in its `left_out` and evaluates them on all images of those sources.
The run's lung segmenter was trained with that site, the members were not. The JSON is also written to the run folder, for the
next model card.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxr_edge.errors import CxrEdgeError, InputError
from training.data.canvases import Canvases
from training.data.dataset import Sample, data_folder, load
from training.evaluate import add_run_arguments
from training.evaluation.metrics import proportion
from training.evaluation.pages import unseen_as_markdown
from training.loop.fit import load_weights
from training.models import build_member
from training.recipes.config import Config, load_config
from training.shared_files import write_text
from training.starter import UNSEEN_FILE, train_member
from training.tasks.predict import predict_logits

__all__ = ["evaluate_unseen_site", "main"]


def evaluate_unseen_site(samples: Sequence[Sample], canvases: Canvases, config: Config, out: Path) -> dict[str, Any]:
    """Train the members in `out`/MEMBER and evaluate them.

    Returns member -> "source/label" -> counts of predicted labels and specificity for the guarded label.
    """
    if not config.left_out:
        raise InputError("the configuration leaves no source out: give left_out = [...]")
    return {name: _evaluate_member(name, samples, canvases, config, out) for name in config.members}


def _evaluate_member(
    name: str, samples: Sequence[Sample], canvases: Canvases, config: Config, out: Path
) -> dict[str, Any]:
    _, weights = train_member(name, samples, canvases, config, out)
    torch.set_num_threads(config.threads)
    network = load_weights(build_member(name, len(config.labels)), weights)
    rows = [i for i, s in enumerate(samples) if s.record.source in config.left_out]
    predicted = predict_logits(network, canvases.lungs[rows], config.member_spec).argmax(axis=1)
    kinds = np.array([f"{samples[i].record.source}/{samples[i].record.label}" for i in rows])
    return {kind: _count(predicted[kinds == kind], config) for kind in sorted(set(kinds.tolist()))}


def _count(predicted: npt.NDArray[np.int64], config: Config) -> dict[str, Any]:
    """Return the counts of predicted labels and, with a guarded label, the share of images not predicted as it."""
    labels, n = config.labels, len(predicted)
    counts = dict(zip(labels, np.bincount(predicted, minlength=len(labels)).tolist(), strict=True))
    if config.guard is None:
        return {"said": counts}
    return {"said": counts, "guard_specificity": proportion(n - counts[config.guard], n).as_json()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training.unseen`. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.unseen", description=__doc__)
    add_run_arguments(parser, config="training/configs/unseen-site.toml", out="docs/results/unseen-site")
    args = parser.parse_args(arguments)
    try:
        config = load_config(args.config)
        samples = load(data_folder(args.data), args.run / "table.csv")
        canvases = Canvases.load(args.run / "canvases.npz")
        members = evaluate_unseen_site(samples, canvases, config, args.run / config.name)
    except CxrEdgeError as error:
        print(f"training.unseen: {error}", file=sys.stderr)
        return 2
    facts = {
        "preset": "sane",
        "left_out": list(config.left_out),
        "seed": config.seed,
        "guard": None if config.guarded is None else asdict(config.guarded),
        "split": "all images of the left-out sources",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results = {**facts, "members": members}
    text = json.dumps(results, indent=1) + "\n"
    for file in (args.out.with_suffix(".json"), args.run / UNSEEN_FILE):
        write_text(file, text)
    write_text(args.out.with_suffix(".md"), unseen_as_markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
