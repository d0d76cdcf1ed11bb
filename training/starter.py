"""Starter recipe: a data folder in, a bundle out, in resumable stages: `python -m training.starter`.

segment: split, train and export the lung segmenter. canvases: cut every image by the deployed lung box. members: train
and export the classifiers. bundle: combine and calibrate on validation patients, evaluate on test patients, write the bundle.
All outputs of a stage are in the run folder; deleting them makes the stage run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from cxr_edge.bundle import ENGINES_DIR, PACKAGED, Bundle
from cxr_edge.errors import CxrEdgeError
from training.bundles.assemble import assemble
from training.data.augment import Augmentation
from training.data.canvases import LUNG_BOX, Canvases, LungFinder, cut
from training.data.dataset import Sample, data_folder, prepare
from training.data.leakage import SplitSettings
from training.data.records import Record
from training.data.targets import check_labels
from training.loop.fit import fit, load_weights
from training.models import ARCHITECTURES, LungUNet, NetworkSpec, build_member, save_network
from training.models.onnx_export import SegmenterForExport, export
from training.recipes.config import Config, load_config
from training.shared_files import atomic_write, exclusive_lock, write_text
from training.tasks.classify import ClassifyTask, MemberData, Sampling
from training.tasks.mixing import mixing_from_plan
from training.tasks.segment import SegmentTask, frames_with_masks

__all__ = ["STAGES", "UNSEEN_FILE", "main", "train_member"]

UNSEEN_FILE = "unseen-site.json"  # in the run folder: results of `training.unseen`, for the model card

STAGES = ("segment", "canvases", "members", "bundle")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected stages. Returns the exit status: 0, or 2 for invalid data or an invalid configuration."""
    args = _parser().parse_args(arguments)
    try:
        data = data_folder(args.data)
        config = load_config(args.config)
        samples = prepare(data, args.out, SplitSettings(seed=config.seed), threads=config.threads)
        check_labels(config.target, _training_records(samples, config), min_images=config.least_images)
        for stage in STAGES if args.stage is None else (args.stage,):
            print(f"stage {stage}", file=sys.stderr, flush=True)
            with exclusive_lock(args.out / stage):
                _RUN[stage](samples, config, args.out)
        if args.install:
            _install(args.out / "bundle", PACKAGED)
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
    parser.add_argument("--install", action="store_true", help="install the bundle as cxr_edge's packaged starter")
    return parser


def _training_records(samples: Sequence[Sample], config: Config) -> list[Record]:
    return [s.record for s in samples if s.side == "train" and s.record.source not in config.left_out]


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
    network = load_weights(LungUNet(), fit(task, config.segmenter, out / "segmenter"))
    save_network(network, spec, out / "segmenter")  # for `training.reproduce --segmenter-of`
    difference = export(SegmenterForExport(network), config.segmenter_spec, ["mask"], out / "segmenter.onnx")
    print(f"segmenter.onnx: relative difference to torch at most {difference:.1e}", file=sys.stderr)


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
        _, weights = train_member(name, samples, canvases, config, out)
        network = load_weights(build_member(name, len(config.labels)), weights)
        save_network(network, NetworkSpec(architecture=name, labels=len(config.labels)), out / name)
        difference = export(network, config.member_spec, ["logits", "cam"], out / f"{name}.onnx")
        print(f"{name}.onnx: relative difference to torch at most {difference:.1e}", file=sys.stderr)


def train_member(
    name: str, samples: Sequence[Sample], canvases: Canvases, config: Config, out: Path
) -> tuple[ClassifyTask, Path]:
    """Train the member `name` in `out`/NAME. Returns the task and the file of the selected weights."""
    plan = config.members[name]
    torch.manual_seed(plan.seed)
    data = MemberData(
        samples=samples, canvases=canvases, spec=config.member_spec, target=config.target, left_out=config.left_out
    )
    sampling = Sampling(
        batch=plan.batch,
        seed=plan.seed,
        epoch_images=config.epoch_images,
        augmentation=Augmentation(),
        mixing=mixing_from_plan(plan),
        min_images=config.least_images,
    )
    task = ClassifyTask(build_member(name, len(config.labels)), data, sampling, smoothing=config.label_smoothing)
    return task, fit(task, plan, out / name)


def _bundle(samples: Sequence[Sample], config: Config, out: Path) -> None:
    canvases = Canvases.load(out / "canvases.npz")
    designs = {name: (ARCHITECTURES[name].__doc__ or name).splitlines()[0] for name in config.members}
    facts = {
        "made_by": "training/starter.py",
        "training": {name: asdict(plan) for name, plan in {"segmenter": config.segmenter, **config.members}.items()},
    }
    unseen = json.loads((out / UNSEEN_FILE).read_text()) if (out / UNSEEN_FILE).exists() else None
    _, results = assemble(out / "bundle", out, designs, samples, canvases, config, facts, unseen=unseen)
    write_text(out / "results.json", json.dumps(results, indent=1) + "\n")


def _install(bundle: Path, target: Path) -> None:
    """Replace the packaged starter by the finished bundle."""
    with atomic_write(target) as beside:
        shutil.copytree(bundle, beside, ignore=shutil.ignore_patterns(ENGINES_DIR, ".*"))
        Bundle.open(beside)


Stage = Callable[[Sequence[Sample], Config, Path], None]

_RUN: dict[str, Stage] = {"segment": _segment, "canvases": _canvases, "members": _members, "bundle": _bundle}

if __name__ == "__main__":
    sys.exit(main())
