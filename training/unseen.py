"""Leave-one-site-out evaluation: a run folder in, JSON and Markdown out: `python -m training.unseen`.

Trains the members of a configuration without the sources in its `left_out` and evaluates them on all images of those sources.
The run's lung segmenter was trained with that site, the members were not. The JSON is also written to the run folder, for the
next model card.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from cxr_edge.errors import CxrEdgeError, InputError
from training.data.dataset import Sample, data_folder, load
from training.evaluation.metrics import proportion
from training.evaluation.pages import unseen_as_markdown
from training.evaluation.results import UnseenCounts, UnseenSite
from training.json_records import as_stored, write_json
from training.recipes.arguments import add_out_argument, add_run_arguments
from training.recipes.config import Config, load_config
from training.shared_files import write_text
from training.starter import UNSEEN_FILE, StarterRun
from training.tasks.predict import predict_logits

__all__ = ["FinishedRun", "evaluate_unseen_site", "main"]


class FinishedRun(StarterRun):
    """Run folder with a split and canvases, used with another configuration."""

    @cached_property
    def samples(self) -> list[Sample]:
        return load(self.data, self.out / "table.csv")


def evaluate_unseen_site(run: StarterRun) -> UnseenSite:
    """Train the members without the left-out sources, in a folder of the configuration's name, and evaluate them on those."""
    config = run.config
    if not config.left_out:
        raise InputError("the configuration leaves no source out: give left_out = [...]")
    found = UnseenSite(
        preset=config.preset,
        left_out=config.left_out,
        seed=config.seed,
        guard=config.guarded,
        split="all images of the left-out sources",
        members={name: _evaluate_member(run, name) for name in config.members},
    )
    return as_stored(found)


def _evaluate_member(run: StarterRun, name: str) -> dict[str, UnseenCounts]:
    """Return "source/label" -> counts."""
    network = run.train_member(name, run.out / run.config.name / name)
    torch.set_num_threads(run.config.threads)
    rows = [i for i, s in enumerate(run.samples) if s.record.source in run.config.left_out]
    predicted = predict_logits(network, run.canvases.lungs[rows], run.config.member_spec).argmax(axis=1)
    kinds = np.array([f"{run.samples[i].record.source}/{run.samples[i].record.label}" for i in rows])
    return {kind: _count(predicted[kinds == kind], run.config) for kind in sorted(set(kinds.tolist()))}


def _count(predicted: npt.NDArray[np.int64], config: Config) -> UnseenCounts:
    """Return the counts of predicted labels and, with a guarded label, the share of images not predicted as it."""
    labels, n = config.labels, len(predicted)
    counts = dict(zip(labels, np.bincount(predicted, minlength=len(labels)).tolist(), strict=True))
    guarded = None if config.guard is None else proportion(n - counts[config.guard], n)
    return UnseenCounts(predicted=counts, guard_specificity=guarded)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training.unseen`. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.unseen", description=__doc__)
    add_run_arguments(parser, config="training/configs/unseen-site.toml")
    add_out_argument(parser, "docs/results/unseen-site")
    args = parser.parse_args(arguments)
    try:
        results = evaluate_unseen_site(FinishedRun(load_config(args.config), data_folder(args.data), args.run))
    except CxrEdgeError as error:
        print(f"training.unseen: {error}", file=sys.stderr)
        return 2
    for file in (args.out.with_suffix(".json"), args.run / UNSEEN_FILE):
        write_json(file, results)
    write_text(args.out.with_suffix(".md"), unseen_as_markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
