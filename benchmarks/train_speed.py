"""Benchmark of training: images a second of this project's loop against plain timm loops on the same network.

    python -m benchmarks.train_speed

A run is one epoch with its validation, from a new network to its saved weights: the loop (`training.loop.fit`) with its
augmentation, and the loops that timm's documentation shows, with a random crop and a flip. All read the same canvases, which
are in memory, in batches of the same size on as many threads, so that no decoding is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from benchmarks.harness.report import Target, publish
from benchmarks.harness.script import Benchmark, add_out, add_rounds, make_parser
from benchmarks.harness.side_by_side import Cell, Implementation, Measured, Table, latency_table, measure
from cxr_edge.cli.arguments import at_least_one
from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.augment import Augmentation
from training.data.canvases import MARGIN, Canvases
from training.data.dataset import Sample
from training.data.records import Record
from training.data.targets import Target as LabelTarget
from training.loop.fit import fit
from training.loop.plan import Plan
from training.models import NetworkSpec, build
from training.tasks.classify import ClassifyTask, MemberData, Sampling

__all__ = ["BENCHMARK", "Epoch", "main"]

BENCHMARK = Benchmark(name="train_speed", position=160, needs_engines=False, only_if_named=True)

OURS, PLAIN, TUNED = "cxr-edge", "timm loop, fp32", "timm loop, channels_last and bf16"
LABELS = ("normal", "abnormal")
_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a network of timm on drawn canvases: `images` train, a quarter as many validate."""

    network: str  # of timm
    images: int
    side_px: int
    batch: int
    threads: int

    @cached_property
    def spec(self) -> PreprocessSpec:
        return PreprocessSpec(
            region="frame", canvas_px=self.side_px, crop_px=self.side_px, standardize="image", channels=1
        )

    @cached_property
    def samples(self) -> list[Sample]:
        """Return the samples; labels alternate."""
        samples = []
        for i in range(self.images + self.images // 4):
            record = Record(
                path=Path(f"{i}.png"), key=f"{i}.png", patient=f"p{i}", label=LABELS[i % 2], source="drawn", view="PA",
                finding=LABELS[i % 2], adult=True,
            )  # fmt: skip
            samples.append(Sample(record=record, group=f"p{i}", side="train" if i < self.images else "validation"))
        return samples

    @cached_property
    def canvases(self) -> Canvases:
        """Smooth random pictures."""
        rng, n = np.random.default_rng(1), len(self.samples)
        wide = round(self.side_px * (1 + 2 * MARGIN))
        coarse = torch.from_numpy(rng.random((n, 1, 8, 8), dtype=np.float32))
        pictures = nn.functional.interpolate(coarse, size=(wide, wide), mode="bicubic").clamp(0, 1)[:, 0].numpy()
        edge = (wide - self.side_px) // 2
        box = np.array([edge, edge, edge + self.side_px, edge + self.side_px], dtype=np.float32)
        gray = (255 * pictures).astype(np.uint8)
        return Canvases(
            lungs=np.ascontiguousarray(gray[:, edge : edge + self.side_px, edge : edge + self.side_px]),
            wide=gray,
            boxes=np.tile(box, (n, 1)),
            rois=np.tile(box.astype(np.int32), (n, 1)),
            failed=np.zeros(n, dtype=bool),
        )

    def train_here(self, folder: Path) -> None:
        """Train with this project's loop in a new folder."""
        spec = NetworkSpec(architecture=f"timm:{self.network}", labels=len(LABELS), head_maps=0)
        torch.manual_seed(1)
        data = MemberData(
            samples=self.samples, canvases=self.canvases, spec=self.spec, target=LabelTarget(labels=LABELS)
        )
        sampling = Sampling(batch=self.batch, seed=1, epoch_images=self.images, augmentation=Augmentation())
        plan = Plan(epochs=1, batch=self.batch, threads=self.threads, learning_rate=_RATE)
        with contextlib.redirect_stderr(io.StringIO()):
            fit(ClassifyTask(build(spec), data, sampling, smoothing=0.0), plan, folder)

    def train_plainly(self, folder: Path, *, tuned: bool) -> None:
        """Train as timm's documentation shows. tuned: with channels_last and bf16 autocast."""
        torch.set_num_threads(self.threads)
        torch.manual_seed(1)
        form = torch.channels_last if tuned else torch.contiguous_format
        network = timm.create_model(self.network, num_classes=len(LABELS), in_chans=1).to(memory_format=form)
        optimizer = create_optimizer_v2(network, opt="adamw", lr=_RATE)
        crop = v2.RandomCrop(self.side_px, padding=self.side_px // 16)
        change = v2.Compose([crop, v2.RandomHorizontalFlip()])
        criterion = nn.CrossEntropyLoss()
        network.train()
        for images, labels in self._loader("train"):
            batch = torch.stack([change(image) for image in images]).contiguous(memory_format=form)
            with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
                loss = criterion(network(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            for images, _ in self._loader("validation"):
                network(images.contiguous(memory_format=form)).argmax(1)
        torch.save(network.state_dict(), folder / "weights.pth")

    def _loader(self, side: str) -> DataLoader[tuple[Tensor, ...]]:
        rows = [i for i, s in enumerate(self.samples) if s.side == side]
        labels = torch.tensor([LABELS.index(self.samples[i].record.label) for i in rows])
        dataset = TensorDataset(torch.from_numpy(self._tensors[rows]), labels)
        return DataLoader(dataset, batch_size=self.batch, shuffle=side == "train", drop_last=side == "train")

    @cached_property
    def _tensors(self) -> npt.NDArray[np.float32]:
        return np.stack([normalize(canvas, self.spec) for canvas in self.canvases.lungs])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    args = _parser().parse_args(argv)
    tables, targets = [], []
    for network in args.networks:
        table, target = _compare(network, args)
        tables.append(table)
        targets.append(target)
    publish(
        name=BENCHMARK.name,
        question="How many images a second does one epoch of training take, with its validation?",
        interval="canvases in memory to saved weights: one epoch, its validation, and the network's construction",
        settings={"threads": args.threads, "batch": args.batch, "side": f"{args.side_px} px", "images": args.images,
                  "rounds": args.rounds, "warm-up": args.warmup},
        tables=tables,
        targets=targets,
        notes=("cxr-edge augments as in training (box, contrast, sharpness, noise, letters), and keeps a moving average of the "
               "weights and a checkpoint; the timm loops crop and flip.",
               "Freed memory is kept for the next step (`training.loop.cpu_speed`) in this process, by the timm loops too."),
        out=args.out,
    )  # fmt: skip
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_rounds(parser, rounds=3, warmup=1)
    add_out(parser, BENCHMARK.name)
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["tf_efficientnet_lite0", "resnet18"],
        metavar="NAME",
        help="of timm (%(default)s)",
    )
    for name, default in (("images", 256), ("side-px", 128), ("batch", 32), ("threads", 2)):
        parser.add_argument(f"--{name}", type=at_least_one, default=default, metavar="N", help="(%(default)s)")
    return parser


def _compare(network: str, args: argparse.Namespace) -> tuple[Table, Target]:
    epoch = Epoch(network=network, images=args.images, side_px=args.side_px, batch=args.batch, threads=args.threads)
    _ = epoch.canvases, epoch._tensors
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(_implementations(epoch, Path(folder)), rounds=args.rounds, warmup=args.warmup)
    per_second: dict[str, Cell] = {m.implementation.name: 1e3 * args.images / m.p50_ms for m in measured}
    table = latency_table(network, measured, baseline=OURS, per_run=args.images, extra={"images/s": per_second})
    ratio = min(r for m in measured[1:] if (r := m.ratio_to(_of(measured, OURS))) is not None)
    return table, Target(
        text=f"{network}: time of the faster timm loop over ours", required=1.0, measured=ratio, at_least=True
    )


def _of(measured: Sequence[Measured], name: str) -> Measured:
    return next(m for m in measured if m.implementation.name == name)


def _implementations(epoch: Epoch, folder: Path) -> list[Implementation]:
    numbers = count()

    def new_folder() -> Path:
        own = folder / str(next(numbers))
        own.mkdir()
        return own

    def plainly(tuned: bool) -> Callable[[int], None]:
        return lambda _: epoch.train_plainly(new_folder(), tuned=tuned)

    return [
        Implementation(name=OURS, run=lambda _: epoch.train_here(new_folder())),
        Implementation(name=PLAIN, run=plainly(False)),
        Implementation(name=TUNED, run=plainly(True)),
    ]


if __name__ == "__main__":
    sys.exit(main())
