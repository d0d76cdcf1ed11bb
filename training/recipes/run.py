"""Run folder of a paper's pipeline: a configuration and collections in; split, canvases and trained networks out.

Each is made once. The stages of a paper load the output of earlier stages through a `Run`; everything in memory is also a file
of the run folder, so that any stage can be run by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.canvases import LUNG_BOX, Canvases, LungFinder, cut, cut_frames
from training.data.collections import DEFAULT_COLLECTIONS
from training.data.dataset import Sample, load, mark_unseen, prepare
from training.data.findings import FRONTAL_VIEWS, projection
from training.data.leakage import SplitSettings
from training.data.splits import Side
from training.data.targets import Target, check_sides
from training.evaluation.metrics import Predictions
from training.evaluation.sites import configured_variant
from training.json_records import read_json, write_json
from training.loop.cpu_speed import keep_freed_memory
from training.loop.fit import fit, load_weights
from training.loop.plan import Plan
from training.loop.settings import check_same_settings
from training.models import NetworkSpec, build, load_network, save_network
from training.models.imagenet import load_imagenet, weights_file
from training.models.networks import Network
from training.parallel import barrier, world
from training.pruning.plan import PrunePlan
from training.pruning.prune import best_step, prune, step_folder, steps_of
from training.recipes.config import RunConfig
from training.recipes.r20.tasks import modality
from training.shared_files import atomic_write, exclusive_lock, read_arrays
from training.tasks.classify import ClassifyTask
from training.tasks.findings import FindingsTask
from training.tasks.images import ImageTask, MemberData, Sampling
from training.tasks.mixing import mixing_from_plan
from training.tasks.predict import predict_logits
from training.tasks.segment import FrameWithMask, SegmentTask, frames_with_masks
from training.tasks.views import VIEW_NETWORK, VIEW_PX, VIEW_WEIGHTS, Views, check_views, estimate_views, frame_features

__all__ = ["PREDICTIONS", "Run", "SampleLogits", "probabilities_of", "selected_step"]

PREDICTIONS = "predictions.npz"


@dataclass(frozen=True, kw_only=True)
class SampleLogits:
    """Logits of one network on samples of the run."""

    rows: npt.NDArray[np.int64]  # (N,), indices of the run's samples
    logits: npt.NDArray[np.float32]  # (N, K)

    def save(self, file: Path) -> None:
        """Write to `file`; a killed process leaves no partial file."""
        with atomic_write(file) as beside:
            np.savez(beside, rows=self.rows, logits=self.logits)

    @classmethod
    def load(cls, file: Path) -> SampleLogits:
        """Load from `file`. Raises InputError if it is missing or damaged."""
        return cls(**read_arrays(file, ("rows", "logits")))


class Run:
    """Data and networks of one run folder.

    config: configuration of the pipeline.
    data: folder of the collections.
    out: run folder.
    """

    below_floor = False  # write a bundle although a watched group is below its floor

    def __init__(self, config: RunConfig, data: Path, out: Path) -> None:
        self.config, self.data, self.out = config, data, out
        keep_freed_memory()

    @cached_property
    def samples(self) -> list[Sample]:
        """All images with group and side; on first use they are read, split and checked for leaks."""
        here, c = world(), self.config
        if not here.is_main:
            barrier(here)
            return mark_unseen(load(self.data, self.out / "table.csv"), c.unseen_sources)
        samples = prepare(self.data, self.out, self.split_settings, threads=c.threads)
        barrier(here)
        return mark_unseen(samples, c.unseen_sources)

    @property
    def split_settings(self) -> SplitSettings:
        """Settings that determine the split."""
        c = self.config
        return SplitSettings(
            seed=c.seed,
            shares=c.side_shares,
            unit=c.unit,
            preset=c.preset,
            collections=DEFAULT_COLLECTIONS if c.read_collections is None else c.read_collections,
            findings=c.findings,
            without=c.without,
        )

    @cached_property
    def modality_target(self) -> Target:
        """Task of the modality stage, normal or abnormal, with every label of the run's images."""
        return modality({s.record.label for s in self.samples}, self.config.renamed)

    def tasks(self) -> Iterator[tuple[str, Target, list[Sample]]]:
        """Yield the stages that train classifiers, each with its target and samples."""
        yield "train", self.config.target, self.samples

    def samples_of(self, sources: Sequence[str]) -> list[Sample]:
        """Return the run's samples of these sources; empty for all."""
        self._check_sources(sources)
        return [s for s in self.samples if not sources or s.record.source in sources]

    def _check_sources(self, sources: Sequence[str]) -> set[str]:
        """Return all sources of the run. Raises InputError if one of `sources` has no images."""
        known = {s.record.source for s in self.samples}
        if set(sources) - known:
            raise InputError(f"no images of {sorted(set(sources) - known)}: the data folder holds {sorted(known)}")
        return known

    def check_tasks(self) -> None:
        """Name, before any stage is run, labels with no images, or with one patient only, on a side.

        Raises InputError if a label of a stage has too few training images, a side has no images at all, or results that the
        configuration names are missing.
        """
        configured_variant(self.config)
        stages: dict[str, list[str]] = {}  # of each warning
        for stage, target, samples in self.tasks():
            try:
                warnings = check_sides(target, samples, min_images=self.config.least_images)
            except InputError as error:
                raise InputError(f"stage {stage}: {error}") from None
            for warning in warnings:
                stages.setdefault(warning, []).append(stage)
        for warning, names in stages.items() if world().is_main else ():
            print(f"warning: {'; '.join(names)}: {warning}", file=sys.stderr, flush=True)

    @cached_property
    def canvases(self) -> Canvases:
        """Every image cropped to the exported segmenter's box, or the full frame if members see that; made on first use.

        Made by the process that requests them first; there is no barrier, since often only rank 0 needs them.
        """
        file = self.out / "canvases.npz"
        with exclusive_lock(file):
            if not file.exists():
                self._cut_canvases().save(file)
        return Canvases.load(file)

    def _cut_canvases(self) -> Canvases:
        c = self.config
        if not c.sees_lungs:
            return cut_frames(self.samples, c.member_spec, threads=c.threads)
        if not self.segmenter_onnx.exists():
            raise InputError(f"{self.segmenter_onnx} is missing: run the stages in order, or all of them")
        find_lungs = LungFinder(self.segmenter_onnx, c.segmenter_spec, LUNG_BOX)
        canvases = cut(self.samples, find_lungs, c.member_spec, threads=c.threads, source_px=c.source_px)
        print(f"lung boxes: {canvases.failed.sum()} of {len(self.samples)} failed", file=sys.stderr)
        return canvases

    @cached_property
    def views(self) -> Views:
        """AP or PA of every image, estimated where it is not stated; made on first use."""
        file = self.out / "views.json"
        with exclusive_lock(file):
            if not file.exists():
                write_json(file, self._estimate_views())
        return read_json(Views, file)

    def _estimate_views(self) -> Views:
        spec = PreprocessSpec(region="frame", canvas_px=VIEW_PX, crop_px=VIEW_PX, standardize="image")
        network = self.init_network(NetworkSpec(architecture=VIEW_NETWORK, labels=2, head_maps=0), VIEW_WEIGHTS, 1)
        torch.set_num_threads(self.config.threads)
        frames = cut_frames(self.samples, spec, threads=self.config.threads).lungs
        features = frame_features(network, frames, spec)
        names = [s.record.key for s in self.samples]
        return Views(
            views=dict(zip(names, estimate_views(self.samples, features), strict=True)),
            accuracy=check_views(self.samples, features),
        )

    @property
    def segmenter_onnx(self) -> Path:
        """Path of the exported segmenter."""
        return self.out / "segmenter.onnx"

    @cached_property
    def segmenter_samples(self) -> Sequence[Sample]:
        """Samples with the sides that train and validate the segmenter."""
        return self.samples

    @cached_property
    def _frames(self) -> dict[Side, list[FrameWithMask]]:
        masked = [s for s in self.segmenter_samples if s.record.mask is not None]
        side = self.config.segmenter_px
        return {
            "train": frames_with_masks([s for s in masked if s.side == "train"], side * 3 // 2),
            "validation": frames_with_masks([s for s in masked if s.side == "validation"], side),
        }

    def segment_task(self, network: nn.Module, plan: Plan) -> SegmentTask:
        """Return the training task of the segmenter."""
        spec = self.config.segmenter_spec
        frames = self._frames
        return SegmentTask(frames["train"], frames["validation"], spec, batch=plan.batch, seed=plan.seed, model=network)

    def task(
        self,
        network: nn.Module,
        target: Target,
        plan: Plan,
        sources: Sequence[str] = (),
        samples: Sequence[Sample] | None = None,
    ) -> ImageTask:
        """Return the training task of a member on `target`.

        sources: to train and validate on; empty for all.
        samples: the run's samples with other sides; None for the run's own sides.
        """
        c, known = self.config, self._check_sources(sources)
        data = MemberData(
            samples=self.samples if samples is None else samples,
            canvases=self.canvases,
            spec=c.member_spec,
            target=target,
            left_out=sorted(known - set(sources)) if sources else (),
            views=self._drawn_views(),
        )
        sampling = Sampling(
            batch=plan.batch,
            seed=plan.seed,
            balance=c.balance,
            levels=c.balance_levels,
            epoch_images=c.epoch_images,
            augmentation=c.augmentation,
            turn_pa=c.turn_pa,
            mixing=mixing_from_plan(plan),
            min_images=c.least_images,
        )
        smoothing = c.label_smoothing if c.preset == "sane" else 0.0
        if target.multi_label:
            return FindingsTask(
                network, data, sampling, kind=plan.loss or "bce", smoothing=smoothing, by_loss=c.by_loss
            )
        return ClassifyTask(network, data, sampling, smoothing=smoothing, by_loss=c.by_loss)

    def _drawn_views(self) -> list[str] | None:
        """Return the views by which batches are balanced; None without such balance, and if every image states its view."""
        stated = all(projection(s.record.view) in FRONTAL_VIEWS for s in self.samples)
        if "view" not in self.config.balance_levels or stated:
            return None
        return [self.views.views[s.record.key] for s in self.samples]

    def init_network(self, spec: NetworkSpec, imagenet: str | None, seed: int) -> nn.Module:
        """Return a network with initial weights: random ones from `seed`, or ImageNet's (`hub`, `package` or a file).

        Raises InputError for a network without ImageNet weights.
        """
        torch.manual_seed(seed)
        network = build(spec)
        if imagenet is not None:
            if not isinstance(network, Network):  # gray networks, and COVID-Net with its own dense layers
                raise InputError(
                    f"{spec.architecture} has no ImageNet weights: train it from scratch, or from another X-ray task"
                )
            load_imagenet(network, spec, weights_file(imagenet, spec))
        return network

    def train_or_load(
        self,
        make_task: Callable[[], ImageTask],
        spec: NetworkSpec,
        plan: Plan,
        folder: Path,
        rows: npt.NDArray[np.int64],
        others: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        """Load the network of `folder`, or train it, save it and save its predictions on `rows`.

        others: further settings of the training, as JSON.
        Raises InputError if it was trained, or started, with another plan: networks of two plans are not comparable.
        """
        with exclusive_lock(folder, world()):
            self._check_same_training(spec, plan, folder, others or {})
            if not (folder / PREDICTIONS).exists():
                task = make_task()
                best = fit(task, plan, folder, name=f"{folder.name}, {folder.parent.name}")
                self.save(load_weights(task.model, best), spec, folder, rows)
            _delete_checkpoints(folder)  # the process may have been killed just before
        return load_network(folder)[0]

    def _check_same_training(self, spec: NetworkSpec, plan: Plan, folder: Path, others: Mapping[str, Any]) -> None:
        """Record the training settings in the folder, or compare them with the recorded ones."""
        c = self.config
        settings = {
            **others,
            "balance": c.balance,
            "augmentation": None if c.augmentation is None else asdict(c.augmentation),
            "turn_pa": c.turn_pa,
            **({"balance_levels": dict(c.balance_levels)} if c.balance_levels else {}),
            **self.further_settings(),
        }
        check_same_settings(folder, plan, spec, settings, done=(folder / PREDICTIONS).exists())

    def further_settings(self) -> Mapping[str, Any]:
        """Return settings of a recipe that change its networks, as JSON, to be recorded beside each."""
        return {}

    def save(self, network: nn.Module, spec: NetworkSpec, folder: Path, rows: npt.NDArray[np.int64]) -> None:
        """Save a network and then its predictions in `folder`, and delete its training checkpoints."""
        if world().is_main:
            save_network(network, spec, folder)
            self.predict(network, rows).save(folder / PREDICTIONS)
        barrier(world())  # other ranks may still read the checkpoint that the main process deletes
        _delete_checkpoints(folder)

    def predict(self, network: nn.Module, rows: npt.NDArray[np.int64]) -> SampleLogits:
        """Return the logits of samples `rows`, on canvases as in deployment."""
        network = network.to(world().device)
        logits = predict_logits(network, self.canvases.lungs[rows], self.config.member_spec)
        return SampleLogits(rows=rows, logits=logits)

    def evaluated_rows(self, target: Target, sources: Sequence[str] = ()) -> npt.NDArray[np.int64]:
        """Return the rows of validation and test images with a label, or a known finding, of `target`.

        sources: to include; empty for all.
        """
        rows = [
            i
            for i, s in enumerate(self.samples)
            if s.side in ("validation", "test")
            and target.is_evaluated(s.record)
            and (not sources or s.record.source in sources)
        ]
        return np.array(rows)

    @cached_property
    def unseen_rows(self) -> npt.NDArray[np.int64]:
        """Rows of the images of `unseen_sources`."""
        return np.array(
            [i for i, s in enumerate(self.samples) if s.record.source in self.config.unseen_sources], dtype=np.int64
        )

    def predict_once(self, folder: Path, rows: npt.NDArray[np.int64]) -> None:
        """Save the predictions of the network in `folder`, unless they exist."""
        if world().is_main and not (folder / PREDICTIONS).exists():
            self.predict(load_network(folder)[0], rows).save(folder / PREDICTIONS)
        barrier(world())

    def prune(
        self,
        start: Path,
        plan: PrunePlan,
        folder: Path,
        rows: npt.NDArray[np.int64],
        sources: Sequence[str] = (),
        samples: Sequence[Sample] | None = None,
    ) -> None:
        """Prune the network of `start` iteratively in `folder`, and save the selected step's predictions on `rows`.

        sources, samples: as of `task`.
        """
        retrained = partial(self.task, target=self.config.target, plan=plan.retrain, sources=sources, samples=samples)
        prune(retrained, start, plan, folder, self.config.member_spec)
        self.predict_once(selected_step(folder, plan), rows)

    def side_mask(self, side: Side, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return the mask (N,) of the samples on one side."""
        return np.array([self.samples[i].side == side for i in rows], dtype=bool)

    def input_of(self, row: int) -> Tensor:
        """Return a sample's input of members (1, C, S, S), as in deployment."""
        return torch.from_numpy(normalize(self.canvases.lungs[row], self.config.member_spec)[None])

    def predictions_on(
        self,
        rows: npt.NDArray[np.int64],
        probabilities: npt.NDArray[np.floating],
        predicted: npt.NDArray[np.integer] | None = None,
        target: Target | None = None,
    ) -> Predictions:
        """Return predictions on samples, for figures.

        predicted: label indices (N,); None for the most probable. target: of the columns; None for all labels.
        """
        predicted = probabilities.argmax(axis=1) if predicted is None else predicted
        return Predictions(
            true=self.truth(rows, self.config.target if target is None else target),
            predicted=predicted.astype(np.int64),
            probabilities=probabilities.astype(np.float64),
            patients=self.patients(rows),
        )

    def truth(self, rows: npt.NDArray[np.int64], target: Target) -> npt.NDArray[np.int64]:
        """Return the true label indices (N,) of samples; -1 for a label that is not in `target`."""
        return np.array([target.label_index(self.samples[i].record.label) for i in rows], dtype=np.int64)

    def patients(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
        """Return the group names (N,) of samples; patients that share an image are one group."""
        return np.array([self.samples[i].group for i in rows])


def selected_step(folder: Path, plan: PrunePlan) -> Path:
    """Return the folder of the pruning step that is selected on validation images."""
    return step_folder(folder, best_step(steps_of(folder), tolerance=plan.tolerance))


def probabilities_of(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the softmax over the last axis, the labels, in float64."""
    probabilities: npt.NDArray[np.float64] = softmax(logits.astype(np.float64), axis=-1)
    return probabilities


def _delete_checkpoints(folder: Path) -> None:
    if world().is_main:
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()
