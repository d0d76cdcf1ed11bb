"""Members of a recipe whose members have stages of their own: a run in; trained, exported and assembled networks out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cxr_edge.bundle import Bundle
from cxr_edge.specs.combination import Combination
from training.bundles.assemble import assemble
from training.bundles.card_words import CardWords
from training.bundles.findings import assemble_findings
from training.bundles.gate_set import attach_configured
from training.bundles.reference import attach_validation
from training.data.dataset import Sample
from training.data.targets import Target
from training.evaluation.finding_results import FindingsEvaluation
from training.evaluation.results import Evaluation
from training.json_records import write_json
from training.models import ARCHITECTURES, load_network
from training.pruning.prune import export_network
from training.recipes.config import Config, StagedMember
from training.recipes.run import Run
from training.recipes.staged import train_stages

__all__ = ["StarterRun", "assemble_members", "export_members"]


class StarterRun(Run):
    """Run of the starter's recipe."""

    config: Config

    def tasks(self) -> Iterator[tuple[str, Target, list[Sample]]]:
        for name in (n for n, m in self.config.members.items() if m.modality is not None):
            yield f"modality of {name}", self.modality_target, self.samples
        yield from super().tasks()

    def train_member(self, name: str) -> Path:
        """Train a member through its stages. Returns the folder of its last network."""
        target = self.config.target
        return train_stages(self, self.config.members[name], target, self.out / name, self.evaluated_rows(target))


def export_members(run: StarterRun) -> None:
    """Train all members, unless their folders hold them, and export them as OUT/NAME.onnx."""
    for name in run.config.members:
        network, spec = load_network(run.train_member(name))
        file = run.out / f"{name}.onnx"
        difference = export_network(network, spec, run.config.member_spec, file)
        print(f"{file.name}: relative difference to torch at most {difference:.1e}", file=sys.stderr)


def assemble_members(
    run: StarterRun,
    facts: Mapping[str, Any] | None = None,
    words: CardWords | None = None,
    combination: Combination | None = None,
) -> Evaluation | FindingsEvaluation:
    """Write OUT/bundle and OUT/results.json. Returns the results on test patients.

    facts: for the provenance, besides the members' plans. words, combination: as of `assemble`.
    """
    config = run.config
    plans = {name: asdict(member) for name, member in config.members.items()}
    if config.segmenter_of is None:
        plans = {"segmenter": asdict(config.segmenter), **plans}
    make = assemble_findings if config.multi_label else assemble
    results = make(
        run.out / "bundle",
        run.out,
        {name: _design(member) for name, member in config.members.items()},
        run.samples,
        run.canvases,
        config,
        {
            "made_by": "training/starter.py",
            "training": plans,
            **_segmenter_facts(config.segmenter_of),
            **(facts or {}),
        },
        combination=combination,
        words=words,
        below_floor=run.below_floor,
    )
    bundle = Bundle.open(run.out / "bundle")
    bundle = attach_validation(bundle, run.samples, seed=config.seed, threads=config.threads)
    attach_configured(bundle, run.samples, config)
    write_json(run.out / "results.json", results)  # last: with it the bundle counts as finished
    return results


def _segmenter_facts(name: str | None) -> dict[str, Any]:
    """Return the bundle that trained the segmenter, with its Dice, for the provenance; nothing for a segmenter of this run."""
    if name is None:
        return {}
    manifest = Bundle.open(name).manifest
    own = {"bundle": f"{manifest.name} {manifest.version}", "lung_dice": manifest.metrics.get("lung_dice")}
    return {"segmenter_of": manifest.provenance.get("segmenter_of", own)}


def _design(member: StagedMember) -> str:
    """Return a member's network and stages in words, for the model card."""
    network = ARCHITECTURES.get(member.architecture)
    words = [member.architecture if network is None else (network.__doc__ or member.architecture).splitlines()[0]]
    stages = {
        "ImageNet weights": member.imagenet,
        "trained on normal against abnormal first": member.modality,
        "pruned by APoZ": member.prune,
    }
    return "; ".join(words + [stage for stage, plan in stages.items() if plan is not None])
