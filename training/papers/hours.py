"""Hours of the papers' full recipes: configurations and measured speeds in, hours by stage and machine out.

Images are counted from the papers' own tables and the published configurations' epochs. A CPU's hours are those times measured
core seconds an image, over the threads; a GPU's are estimated from multiply-accumulates and an assumed share of its peak.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from training.loop.plan import Plan
from training.papers.speed import MODULE, PaperConfig, Speed
from training.recipes.flannel.config import FlannelConfig
from training.recipes.r20.config import R20Config
from training.recipes.segmenter import SEGMENTER

__all__ = ["GPUS", "MASKS", "R20_IMAGES", "TOP", "Gpu", "Hours", "Work", "hours", "total", "work_of"]

# R20's Table 1, training part (90 %, of which a tenth validates). Modality: B. Binary: A's normal, C and D. All labels: A, C, D.
R20_IMAGES: Mapping[str, int] = {
    "modality": 5412 + 5412,
    "binary": 1349 + 121 + 165,
    "multiclass": 1349 + 2538 + 121 + 165,
}
MASKS = 704  # public pairs of Shenzhen and Montgomery; R20 gives no number
TOP = ("vgg16", "vgg19", "inception-v3")  # the paper's three best go on
FLANNEL_TRAINING, FLANNEL_ALL = 4406, 5508  # its Table 1
_VARIANTS = 5  # of stage 2: the module under three losses, two perceptrons, which are no larger
_BACKWARD = 2  # a step's backward pass costs twice its forward pass

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """peak_tflops: dense bfloat16, accumulated in fp32, of its data sheet. utilisation: the share of it that training keeps up,
    an assumption, low and high."""

    name: str
    peak_tflops: float
    utilisation: Range


# Peaks: NVIDIA's data sheet of the H100 (SXM) and white paper of the Ada architecture. Shares: NVIDIA's own ResNet-50 v1.5
# (DeepLearningExamples, PyTorch) trains at 19 % of an A100's peak (2,470 images/s, batch 256), and in batches of 16 a V100
# gives a third of what it gives in batches of 256. So 19 % is the high end, and the larger the GPU, the lower the low end.
GPUS = (
    Gpu(name="H100 SXM", peak_tflops=989.4, utilisation=(0.03, 0.2)),
    Gpu(name="RTX 4090", peak_tflops=165.2, utilisation=(0.08, 0.2)),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Trainings of one network. epochs: fewest, if patience ends it as soon as it can, and most. trained, predicted: images of an
    epoch with and without gradients. times: how many such trainings."""

    stage: str
    network: str
    epochs: tuple[int, int]
    trained: int
    predicted: int
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Of one stage, fewest and most. trained: images with gradients, over all epochs. by_machine: hours; `CPU` is measured."""

    stage: str
    trained: Range
    by_machine: Mapping[str, Range]


def work_of(config: PaperConfig) -> tuple[Work, ...]:
    """All that the recipe trains, in the order of its stages."""
    return tuple(_r20(config) if isinstance(config, R20Config) else _flannel(config))


def _r20(c: R20Config) -> Iterator[Work]:
    sides = {k: _sides(n) for k, n in {**R20_IMAGES, "masks": MASKS * 9 // 10}.items()}
    yield Work(stage="segment", network=SEGMENTER, epochs=_epochs(c.segmenter), **sides["masks"])
    if c.search is not None:
        for m in c.members:
            epochs = (c.search.epochs, c.search.epochs)
            yield Work(stage="search", network=m, epochs=epochs, **sides["modality"], times=c.search.trials)
    for m in c.members:
        yield Work(stage="modality", network=m, epochs=_epochs(c.modality), **sides["modality"])
    for stage, plan in (("binary", c.binary), ("multiclass", c.multiclass)):
        if plan is not None:
            for m in TOP:
                yield Work(stage="task", network=m, epochs=_epochs(plan), **sides[stage])
    steps = round(c.prune.until / c.prune.step)
    for m in TOP:
        yield Work(stage="prune", network=m, epochs=_epochs(c.prune.retrain), **sides["multiclass"], times=steps)


def _flannel(c: FlannelConfig) -> Iterator[Work]:
    trained = FLANNEL_TRAINING * (c.folds - 1) // c.folds
    predicted = FLANNEL_TRAINING - trained
    for name in c.networks:
        stage = "learn" if name in c.learners else "baselines"
        yield Work(
            stage=stage, network=name, epochs=_epochs(c.learn), trained=trained, predicted=predicted, times=c.folds
        )
        yield Work(stage=stage, network=name, epochs=(1, 1), trained=0, predicted=FLANNEL_ALL, times=c.folds)
    epochs = (c.fit.epochs, c.fit.epochs)
    yield Work(stage="combine", network=MODULE, epochs=epochs, trained=trained, predicted=0, times=_VARIANTS * c.folds)


def _sides(images: int) -> dict[str, int]:
    return {"trained": images * 9 // 10, "predicted": images - images * 9 // 10}


def _epochs(plan: Plan) -> tuple[int, int]:
    return (plan.epochs if plan.patience is None else min(plan.epochs, plan.patience + 1), plan.epochs)


def hours(work: Iterable[Work], speeds: Mapping[str, Speed], gpus: Sequence[Gpu] = GPUS) -> list[Hours]:
    """Hours of each stage, from the speed of each network (by name)."""
    stages: dict[str, list[Work]] = {}
    for w in work:
        stages.setdefault(w.stage, []).append(w)
    return [_stage(stage, own, speeds, gpus) for stage, own in stages.items()]


def _stage(stage: str, work: Sequence[Work], speeds: Mapping[str, Speed], gpus: Sequence[Gpu]) -> Hours:
    on_cpu = _sum(_scaled(w, _cpu_s(w, speeds[w.network])) for w in work)
    by_machine = {"CPU": _in_hours(on_cpu)}
    for gpu in gpus:
        flop = _sum(_scaled(w, _flop(w, speeds[w.network])) for w in work)
        low, high = gpu.utilisation
        seconds = (flop[0] / (gpu.peak_tflops * 1e12 * high), flop[1] / (gpu.peak_tflops * 1e12 * low))
        # FLANNEL's module trains on the CPU, whatever trained the learners.
        by_machine[gpu.name] = _in_hours(on_cpu if stage == "combine" else seconds)
    return Hours(stage=stage, trained=_sum(_scaled(w, w.trained) for w in work), by_machine=by_machine)


def total(found: Sequence[Hours]) -> Hours:
    """All stages together."""
    machines = found[0].by_machine
    return Hours(
        stage="all",
        trained=_sum(h.trained for h in found),
        by_machine={m: _sum(h.by_machine[m] for h in found) for m in machines},
    )


def _cpu_s(w: Work, speed: Speed) -> float:
    """Seconds of an epoch on cores that have nothing else to do."""
    return (w.trained * speed.train_core_s + w.predicted * speed.ask_core_s) / speed.threads


def _flop(w: Work, speed: Speed) -> float:
    """Floating-point operations of an epoch: two a multiply-accumulate."""
    return 2.0 * speed.macs * ((1 + _BACKWARD) * w.trained + w.predicted)


def _scaled(w: Work, of_an_epoch: float) -> Range:
    return (w.epochs[0] * w.times * of_an_epoch, w.epochs[1] * w.times * of_an_epoch)


def _sum(ranges: Iterable[Range]) -> Range:
    both = list(ranges)
    return (sum(r[0] for r in both), sum(r[1] for r in both))


def _in_hours(seconds: Range) -> Range:
    return (seconds[0] / 3600, seconds[1] / 3600)
