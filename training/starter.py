"""From a data folder to a bundle, in stages that each go on where they stopped: `python -m training.starter`.

segment: split, train the lung segmenter, export it. canvases: cut every image by the deployed lung box. members: train
and export them. bundle: combine and calibrate on validation patients, judge on test patients, write the bundle. Everything
a stage makes lies in the run folder; deleting it there makes the stage run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cxr_edge.bundle
from cxr_edge.errors import CxrEdgeError
from training.augment import Augmentation
from training.bundle import Fitted, add_figures, add_known_answers, member_logits, write_draft
from training.canvases import LUNG_BOX, Canvases, LungFinder, cut
from training.card import key_metrics, model_card
from training.classify import ClassifyTask
from training.config import Config, load_config
from training.dataset import Sample, data_folder, prepare
from training.engine import fit, load_best
from training.ensemble import choose_combination, choose_decision
from training.evaluate import evaluate
from training.export import SegmenterForExport, export
from training.models import LungUNet, NetworkSpec, build_member, save_network
from training.segment import SegmentTask, frames_with_masks
from training.splits import SIDES

__all__ = ["STAGES", "UNSEEN_FILE", "main", "train_member"]

UNSEEN_FILE = "unseen-site.json"  # in the run folder: what `training.unseen` found, for the model card

STAGES = ("segment", "canvases", "members", "bundle")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages asked for. Returns the exit status: 0, or 2 for data or a configuration that cannot be used."""
    args = _parser().parse_args(arguments)
    try:
        data = data_folder(args.data)
        config = load_config(args.config)
        samples = prepare(data, args.out, seed=config.seed, threads=config.threads)
        for stage in STAGES if args.stage is None else (args.stage,):
            print(f"stage {stage}", file=sys.stderr, flush=True)
            _RUN[stage](samples, config, args.out)
        if args.install:
            _install(args.out / "bundle", Path(cxr_edge.bundle.__file__).parent / cxr_edge.bundle.STARTER)
    except CxrEdgeError as error:
        print(f"training.starter: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.starter", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the collections; default: CXR_EDGE_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="run folder (%(default)s)")
    parser.add_argument("--config", type=Path, default=Path("training/configs/starter.toml"), help="TOML (%(default)s)")
    parser.add_argument("--stage", choices=STAGES, help="one stage only; default: all, in order")
    parser.add_argument("--install", action="store_true", help="make the bundle cxr_edge's packaged starter")
    return parser


def _segment(samples: Sequence[Sample], config: Config, out: Path) -> None:
    torch.manual_seed(config.seed)
    masked = [s for s in samples if s.record.mask is not None]
    side = config.segmenter_px
    task = SegmentTask(
        frames_with_masks([s for s in masked if s.side == "train"], side * 3 // 2),
        frames_with_masks([s for s in masked if s.side == "validation"], side),
        config.segmenter_spec,
        batch=config.segmenter.batch,
        seed=config.segmenter.seed,
    )
    spec = NetworkSpec(architecture="lung-unet", labels=1)
    network = load_best(LungUNet(), fit(task, config.segmenter, out / "segmenter"))
    save_network(network, spec, out / "segmenter")  # for a later run on the same split (`training.reproduce --segmenter-of`)
    difference = export(SegmenterForExport(network), config.segmenter_spec, ["mask"], out / "segmenter.onnx")
    print(f"segmenter.onnx: at most {difference:.1e} from torch", file=sys.stderr)


def _canvases(samples: Sequence[Sample], config: Config, out: Path) -> None:
    if (out / "canvases.npz").exists():
        return
    find_lungs = LungFinder(out / "segmenter.onnx", config.segmenter_spec, LUNG_BOX)
    canvases = cut(samples, find_lungs, config.member_spec, threads=config.threads)
    print(f"lung boxes: {canvases.failed.sum()} of {len(samples)} failed", file=sys.stderr)
    canvases.save(out / "canvases.npz")


def _members(samples: Sequence[Sample], config: Config, out: Path) -> None:
    canvases = Canvases.load(out / "canvases.npz")
    for name in config.members:
        _, best = train_member(name, samples, canvases, config, out)
        network = load_best(build_member(name, len(config.labels)), best)
        difference = export(network, config.member_spec, ["logits", "cam"], out / f"{name}.onnx")
        print(f"{name}.onnx: at most {difference:.1e} from torch", file=sys.stderr)


def train_member(
    name: str, samples: Sequence[Sample], canvases: Canvases, config: Config, out: Path
) -> tuple[ClassifyTask, Path]:
    """Train the member `name` in `out`/NAME. Returns the task and the file of the best weights."""
    plan = config.members[name]
    torch.manual_seed(plan.seed)
    task = ClassifyTask(
        build_member(name, len(config.labels)),
        samples,
        canvases,
        config.member_spec,
        config.target,
        batch=plan.batch,
        seed=plan.seed,
        epoch_images=config.epoch_images,
        smoothing=config.label_smoothing,
        left_out=config.left_out,
        augmentation=Augmentation(),
    )
    return task, fit(task, plan, out / name)


def _bundle(samples: Sequence[Sample], config: Config, out: Path) -> None:
    canvases = Canvases.load(out / "canvases.npz")
    rows = [i for i, s in enumerate(samples) if s.side == "validation"]
    validation = [samples[i] for i in rows]
    files = [out / f"{name}.onnx" for name in config.members]
    logits = member_logits(files, canvases.lungs[rows], config.member_spec, threads=config.threads)
    fitted = _fit_on_validation(validation, logits, config, samples)
    draft = write_draft(out / "bundle", out, fitted, config, validation, _rows(canvases, rows))
    bundle = add_known_answers(draft, count=config.known_answers)
    results = evaluate(bundle, samples, canvases, config)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    unseen = json.loads((out / UNSEEN_FILE).read_text()) if (out / UNSEEN_FILE).exists() else None
    bundle = add_figures(bundle, key_metrics(results), model_card(bundle.manifest, results, unseen))
    size = sum(f.stat().st_size for f in bundle.root.rglob("*") if f.is_file()) / 1e6
    print(f"{bundle.root}: {size:.1f} MB, {bundle.manifest.combination.strategy}", file=sys.stderr)


def _fit_on_validation(
    validation: Sequence[Sample], logits: np.ndarray, config: Config, samples: Sequence[Sample]
) -> Fitted:
    """Combination, temperatures and decision. Findings that no label covers take part in the decision's specificity only."""
    labels = config.labels
    truth = np.array([labels.index(s.record.label) if s.record.label in labels else -1 for s in validation])
    known = truth >= 0
    patients = [s.group for s, k in zip(validation, known, strict=True) if k]
    combined = choose_combination(logits[known], truth[known], patients, seed=config.seed)
    adult_normal = np.array([s.record.adult and s.record.label == "normal" for s in validation])
    decided = choose_decision(combined.combination, logits, truth, adult_normal, labels)
    chosen = {"images": len(validation), "log_loss_out_of_fold": dict(combined.log_loss), **asdict(decided)}
    print(f"on validation: {json.dumps(chosen)}", file=sys.stderr)
    return Fitted(
        combination=combined.combination,
        decision=decided.decision,
        lung_box=LUNG_BOX,
        provenance=_provenance(samples, config, chosen),
    )


def _provenance(samples: Sequence[Sample], config: Config, chosen: dict[str, Any]) -> dict[str, Any]:
    images = {s: Counter(f"{r.record.source}/{r.record.label}" for r in samples if r.side == s) for s in SIDES}
    return {
        "made_by": "training/starter.py",
        "preset": "sane",
        "split": "by patient, patients that share an image kept together",
        "seed": config.seed,
        "images": {side: dict(sorted(counts.items())) for side, counts in images.items()},
        "licences": "of the sources: mixed, some non-commercial, some unstated",
        "validation": chosen,
        "training": {name: asdict(plan) for name, plan in {"segmenter": config.segmenter, **config.members}.items()},
    }


def _rows(canvases: Canvases, rows: Sequence[int]) -> Canvases:
    return Canvases(**{name: values[rows] for name, values in vars(canvases).items()})


def _install(bundle: Path, target: Path) -> None:
    """Copy the finished bundle to where the package looks for it, in place of what was there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bundle, target, ignore=shutil.ignore_patterns(cxr_edge.bundle.ENGINES_DIR, ".*"))
    cxr_edge.bundle.Bundle.open(target)


Stage = Callable[[Sequence[Sample], Config, Path], None]

_RUN: dict[str, Stage] = {"segment": _segment, "canvases": _canvases, "members": _members, "bundle": _bundle}

if __name__ == "__main__":
    sys.exit(main())
