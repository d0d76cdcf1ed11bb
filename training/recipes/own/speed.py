"""Speed of this machine, measured: a configuration and how many processes train in; images a second out.

Batches of the real task, augmentation included, on drawn canvases; as many at a time as processes will train, since they share
memory and caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cxr_edge.records import NO_FINDING
from training.data.canvases import MARGIN, Canvases
from training.data.dataset import Sample, pixels
from training.data.records import Record
from training.loop.batches import Batch
from training.loop.cpu_speed import DepthwiseInFp32
from training.loop.optimizer import build_optimizer
from training.loop.plan import Plan
from training.models import NetworkSpec, build
from training.parallel import computes_bfloat16, world
from training.recipes.config import Config
from training.tasks.classify import ClassifyTask
from training.tasks.findings import FindingsTask
from training.tasks.images import ImageTask, MemberData, Sampling
from training.tasks.segment import FrameWithMask, SegmentTask

__all__ = ["Speed", "decoding_s", "measure", "measure_segmenter"]

_DRAWN = 64  # images
_STEPS = 3
_DECODED = 12


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Images a second of one network in one of the processes."""

    train: float
    predict: float


def decoding_s(records: Sequence[Record], threads: int) -> float:
    """Return the seconds of an image's decoding with `threads` threads, from some images spread over all."""
    chosen = records[:: max(1, len(records) // _DECODED)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(pixels, chosen))
    return (time.perf_counter() - begin) / len(chosen)


def measure(config: Config, member: str, *, processes: int, threads: int) -> Speed:
    """Return the speed of a member with `processes` processes of `threads` threads at a time."""
    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(lambda _: _measure(config, member, threads), range(processes)))
    return Speed(train=float(np.mean([s.train for s in found])), predict=float(np.mean([s.predict for s in found])))


def _measure(config: Config, member: str, threads: int) -> Speed:
    return _speed_of(_task(config, member), config.members[member].train, threads)


def measure_segmenter(config: Config, *, threads: int) -> Speed:
    """Return the speed of the segmenter's training in one process."""
    plan, side = config.segmenter, config.segmenter_px * 3 // 2
    pixels = np.random.default_rng(1).integers(0, 256, (side, side), dtype=np.uint8)
    frame = FrameWithMask(frame=pixels, mask=np.full_like(pixels, 255))
    network = build(NetworkSpec(architecture=config.segmenter_architecture, labels=1))
    task = SegmentTask([frame] * plan.batch, [frame], config.segmenter_spec, batch=plan.batch, seed=1, model=network)
    return _speed_of(task, plan, threads)


def _speed_of(task: ImageTask | SegmentTask, plan: Plan, threads: int) -> Speed:
    torch.set_num_threads(threads)
    device = world().device
    network = task.model.to(device).to(memory_format=torch.channels_last)
    optimizer, half = build_optimizer(network, plan), computes_bfloat16(device)
    batches = task.batches(0, world())

    def step(train: bool) -> None:
        images, *truth = batches[0]
        images = images.to(device, memory_format=torch.channels_last)
        batch: Batch = (images, *(t.to(device) for t in truth))
        fp32 = DepthwiseInFp32() if half and device.type == "cpu" else nullcontext()
        with torch.set_grad_enabled(train), torch.autocast(device.type, torch.bfloat16, enabled=half), fp32:
            loss = task.loss(network.train(train), batch)
        if train:
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for a GPU

    return Speed(train=plan.batch / _seconds(lambda: step(True)), predict=plan.batch / _seconds(lambda: step(False)))


def _seconds(run: Callable[[], None]) -> float:
    """Return the mean seconds of a few runs after one that is not counted."""
    run()
    begin = time.perf_counter()
    for _ in range(_STEPS):
        run()
    return (time.perf_counter() - begin) / _STEPS


def _task(config: Config, member: str) -> ImageTask:
    """Return the task of a member on drawn canvases."""
    plan, labels = config.members[member].train, config.labels
    kinds = (*labels, NO_FINDING) if config.multi_label else labels
    samples = [
        Sample(
            record=_record(i, kinds[i % len(kinds)], config),
            group=str(i),
            side="train" if i >= 2 * len(kinds) else "validation",
        )
        for i in range(max(_DRAWN, 4 * len(kinds)))
    ]
    data = MemberData(
        samples=samples,
        canvases=_drawn(len(samples), config.canvas_px),
        spec=config.member_spec,
        target=replace(config.target, guard=None),
    )
    sampling = Sampling(batch=plan.batch, seed=1, augmentation=config.augmentation)
    network = build(config.members[member].network(len(labels), config.member_spec.channels))
    if config.multi_label:
        return FindingsTask(network, data, sampling, kind=plan.loss or "bce", smoothing=config.label_smoothing)
    return ClassifyTask(network, data, sampling, smoothing=config.label_smoothing)


def _record(i: int, label: str, config: Config) -> Record:
    findings = {name: name == label for name in config.labels} if config.multi_label else None
    return Record(
        path=Path("drawn"),
        key=str(i),
        patient=str(i),
        label=label,
        source="drawn",
        view="",
        finding=label,
        adult=True,
        findings=findings,
    )


def _drawn(count: int, px: int) -> Canvases:
    wide = round(px * (1 + 2 * MARGIN))
    rng = np.random.default_rng(1)
    edge = (wide - px) / 2
    return Canvases(
        lungs=rng.integers(0, 256, (count, px, px), dtype=np.uint8),
        wide=rng.integers(0, 256, (count, wide, wide), dtype=np.uint8),
        boxes=np.tile(np.array([edge, edge, wide - edge, wide - edge], dtype=np.float32), (count, 1)),
        rois=np.zeros((count, 4), dtype=np.int32),
        failed=np.zeros(count, dtype=bool),
    )
