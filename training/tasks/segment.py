"""Segmentation task: samples with lung masks in; training batches, loss and validation Dice out.

Frames are stored at 1.5 times the network's side, so that the augmentation can zoom without interpolating new pixels. These
collections have no masks of children: strong augmentation of shape, framing and opacity replaces them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.ops.preprocess import canvas, normalize
from cxr_edge.records import Roi
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.augment import Augmentation, Gray
from training.data.canvases import as_8_bit
from training.data.dataset import Sample, pixels
from training.data.faults import each, refuse
from training.data.masks import UNKNOWN, read_mask
from training.loop.batches import Batch, Batches
from training.models import LungUNet
from training.parallel import World
from training.tasks.losses import mask_loss

__all__ = ["FrameWithMask", "SegmentTask", "dice", "frames_with_masks", "read_mask"]

AUGMENTATION = Augmentation(
    shift=0.12, zoom=0.3, stretch=0.2, rotation_deg=12, histogram_swap=0.0, shading=0.5, erase=0.3
)


@dataclass(frozen=True, kw_only=True)
class FrameWithMask:
    """A training example of the segmenter."""

    frame: Gray  # (S, S), the full image resized to a square
    mask: Gray  # (S, S): 255 lung, 127 not known, 0 other


def frames_with_masks(samples: Sequence[Sample], side_px: int) -> list[FrameWithMask]:
    """Return the frames (side_px, side_px) of samples with masks, resized by the deployed canvas.

    Raises InputError, with all of them, if images or masks cannot be read.
    """
    spec = PreprocessSpec(region="frame", canvas_px=side_px, crop_px=side_px)

    def example(sample: Sample) -> FrameWithMask:
        image = pixels(sample.record)
        mask = read_mask(sample.record, image.shape)
        frame = as_8_bit(canvas(image, Roi.full(image.shape[1], image.shape[0]), spec))
        return FrameWithMask(frame=frame, mask=cv2.resize(mask, (side_px, side_px), interpolation=cv2.INTER_NEAREST))

    examples, faults = each(samples, example, lambda _: "")
    refuse(faults)
    return examples


class SegmentTask:
    """Training of a segmenter.

    train: frames at 1.5 times spec.canvas_px.
    validation: frames at spec.canvas_px.
    model: default LungUNet.
    """

    def __init__(
        self,
        train: Sequence[FrameWithMask],
        validation: Sequence[FrameWithMask],
        spec: PreprocessSpec,
        *,
        batch: int,
        seed: int,
        model: nn.Module | None = None,
    ) -> None:
        if len(train) < batch:
            raise InputError(f"{len(train)} images with masks do not fill a batch of {batch}: choose a smaller batch")
        if not validation:  # its score would be no number
            raise InputError(
                "no image with a mask validates the segmenter: add images with masks, or give another seed"
            )
        self.model: nn.Module = model or LungUNet()
        self.train, self.validation, self.spec = train, validation, spec
        self.batch, self.seed = batch, seed
        self.batches_per_epoch = len(train) // batch

    def batches(self, epoch: int, process: World) -> Batches:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        share = process.share(self.batch)

        def make(b: int) -> Batch:
            # As in ClassifyTask: each image has its own random numbers, in whichever process.
            rows = range(share.start, share.stop)
            frames = [self.train[order[b * self.batch + r]] for r in rows]
            rngs = [np.random.default_rng([self.seed, epoch, b, r]) for r in rows]
            return _stack([_augmented(f, self.spec, rng) for f, rng in zip(frames, rngs, strict=True)], self.spec)

        return Batches(self.batches_per_epoch, make)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        image, lung, known = batch
        return mask_loss(model(image).float(), lung, known)

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        device, values = next(model.parameters()).device, []
        for start in range(0, len(self.validation), self.batch):
            image, lung, known = _stack(self.validation[start : start + self.batch], self.spec)
            p = model(image.to(device, memory_format=torch.channels_last)).float().sigmoid().cpu()
            values += [dice(*(x.numpy() for x in t)) for t in zip(p, lung, known, strict=True)]
        return {"score": float(np.mean(values)), "worst": float(np.min(values))}

    def validation_images(self) -> Iterator[Tensor]:
        """Yield batches (N, 1, S, S) of the validation frames, on which pruning counts zeros."""
        for start in range(0, len(self.validation), self.batch):
            yield _stack(self.validation[start : start + self.batch], self.spec)[0]


def dice(probability: npt.NDArray[np.float32], lung: npt.NDArray[np.float32], known: npt.NDArray[np.float32]) -> float:
    """Return the Dice of one image's mask with threshold 0.5, over the known pixels; all arrays have the same shape."""
    predicted = (probability >= 0.5) * known
    lung = lung * known
    return float((2 * (predicted * lung).sum() + 1e-6) / (predicted.sum() + lung.sum() + 1e-6))


def _augmented(sample: FrameWithMask, spec: PreprocessSpec, rng: np.random.Generator) -> FrameWithMask:
    side = sample.frame.shape[0]
    warp = AUGMENTATION.warp((0, 0, side, side), spec.canvas_px, rng)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.7 else cv2.BORDER_REPLICATE
    warped = FrameWithMask(
        frame=warp.apply(sample.frame, border=border),
        mask=warp.apply(sample.mask, interpolation=cv2.INTER_NEAREST),
    )
    hazed = _haze(warped, rng) if rng.random() < 0.4 else warped
    return replace(hazed, frame=AUGMENTATION.gray(hazed.frame, rng))


def _haze(sample: FrameWithMask, rng: np.random.Generator) -> FrameWithMask:
    """Whiten a part of the lungs, as a consolidation does: lungs in annotated images are mostly clear, patients' are not."""
    side = sample.frame.shape[0]
    centre, axes = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.08, 0.3, 2) * side
    blob = np.zeros((side, side), np.float32)
    cv2.ellipse(
        blob, (*centre.astype(int).tolist(),), (*axes.astype(int).tolist(),), rng.uniform(0, 180), 0, 360, 1.0, -1
    )
    blob = cv2.GaussianBlur(blob, (0, 0), 0.04 * side) * rng.uniform(0.3, 0.9)
    bright = np.percentile(sample.frame, rng.uniform(60, 95))
    frame = sample.frame + blob * np.maximum(bright - sample.frame, 0)
    return replace(sample, frame=frame.astype(np.uint8))


def _stack(samples: Sequence[FrameWithMask], spec: PreprocessSpec) -> tuple[Tensor, Tensor, Tensor]:
    images = np.stack([normalize(s.frame, spec) for s in samples])
    masks = np.stack([s.mask for s in samples])[:, None]
    known = torch.from_numpy((masks != UNKNOWN).astype(np.float32))
    return torch.from_numpy(images), torch.from_numpy((masks == 255).astype(np.float32)), known
