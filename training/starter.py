"""From a data folder to a bundle, in stages that each go on where they stopped: `python -m training.starter`.

segment: split, train the lung segmenter, export it. canvases: cut every image by the deployed lung box. members: train
and export them. bundle: combine, calibrate, write the bundle and judge it on the test patients. Everything a stage makes
lies in the run folder; deleting it there makes the stage run again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.manifest import LungBoxRule
from training.canvases import Canvases, LungFinder, cut
from training.classify import ClassifyTask
from training.config import Config, load_config
from training.dataset import Sample, prepare
from training.engine import fit, load_best
from training.export import SegmenterForExport, export
from training.models import LungUNet, build_member
from training.segment import SegmentTask, frames_with_masks

__all__ = ["STAGES", "main"]

# Of R20's rule, a row or column of the 128 px mask counts from three lung pixels on: a speck is no lung.
LUNG_BOX = LungBoxRule(min_pixels=3)

STAGES = ("segment", "canvases", "members", "bundle")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages asked for. Returns the exit status: 0, or 2 for data or a configuration that cannot be used."""
    args = _parser().parse_args(arguments)
    try:
        data = _data_folder(args.data)
        config = load_config(args.config)
        samples = prepare(data, args.out, seed=config.seed, threads=config.threads)
        for stage in STAGES if args.stage is None else (args.stage,):
            print(f"stage {stage}", file=sys.stderr, flush=True)
            _RUN[stage](samples, config, args.out)
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
    return parser


def _data_folder(given: Path | None) -> Path:
    if given is None and not os.environ.get("CXR_EDGE_DATA"):
        raise InputError("no data folder: give --data DIR or set CXR_EDGE_DATA")
    return given or Path(os.environ["CXR_EDGE_DATA"])


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
    network = load_best(LungUNet(), fit(task, config.segmenter, out / "segmenter"))
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
    for name, plan in config.members.items():
        torch.manual_seed(plan.seed)
        task = ClassifyTask(
            build_member(name, len(config.labels)),
            samples,
            canvases,
            config.member_spec,
            config.labels,
            batch=plan.batch,
            seed=plan.seed,
            epoch_images=config.epoch_images,
            smoothing=config.label_smoothing,
            partial_tuberculosis=config.partial_tuberculosis,
            left_out=config.left_out,
        )
        network = load_best(build_member(name, len(config.labels)), fit(task, plan, out / name))
        difference = export(network, config.member_spec, ["logits", "cam"], out / f"{name}.onnx")
        print(f"{name}.onnx: at most {difference:.1e} from torch", file=sys.stderr)


_RUN = {"segment": _segment, "canvases": _canvases, "members": _members}

if __name__ == "__main__":
    sys.exit(main())
