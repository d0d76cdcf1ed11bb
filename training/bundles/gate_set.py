"""Gate set of a bundle: training samples, or a folder of images that may travel, in; the bundle with its gate set out.

A surrogate's draws are chosen so that the fp32 reference answers them as it answers held-out images: drawn at random, most of
them are less certain than X-rays. Draws that come nearer to a training image than held-out images do are left out, and
if there are more of them than chance makes, nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.gate_file import GateFile, Truth, pack_images, pack_surrogate
from cxr_edge.bundle.gate_set import attach_gate_set
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.surrogate import draw_images
from cxr_edge.compiler.known_answers import in_turn
from cxr_edge.compiler.samples import image_paths, spread_evenly, true_label
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import InputError
from cxr_edge.ops.binomial import at_most
from cxr_edge.records import GrayPixels, Image, Screening
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.preprocess import PreprocessSpec
from training.bundles.surrogate_model import (
    EXPOSURES,
    FittedSurrogate,
    SurrogateSettings,
    component_likeness,
    fit_surrogate,
    nearest_distances,
    shrunk,
)
from training.config import BundleConfig
from training.data.canvases import as_8_bit, cut_frames
from training.data.collections import COLLECTIONS
from training.data.dataset import Sample
from training.data.gate_images import GateImages
from training.data.targets import Target

__all__ = ["Nearness", "attach_configured", "attach_real_images", "attach_surrogate"]

_LEAST_ROUNDS, _MOST_ROUNDS = 3, 10  # of draws; each is moved towards those with the highest probability of the label
_ELITE = 0.2  # share of a round's draws that are those
_CANDIDATES = 3  # for each draw, in each round
_LEAST_HELD_OUT, _MOST_HELD_OUT = 20, 100  # images of each label
_NEAR = 0.01  # share of held-out images that are nearer than what counts as too near
_CHANCE = 0.01  # that more draws than seen are too near, if they are as held-out images

Frames = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """Distances to the nearest training frame, of draws and of held-out frames (`nearest_distances`)."""

    draws: int  # all that were made
    held_out: int
    draws_median: float
    held_out_median: float
    limit: float  # that 1 % of the held-out frames stay below
    nearer: int  # draws that do; they are left out
    chosen_least: float = 0.0  # of the draws that are in the set
    # Largest correlation of a component of the model with a training frame's difference from the mean, and with a held-out one's.
    component_training: float = 0.0
    component_held_out: float = 0.0

    def check(self) -> None:
        """Raise InputError if draws come nearer to training frames than held-out frames do."""
        by_chance = 1.0 - at_most(self.nearer - 1, self.draws, _NEAR) if self.nearer else 1.0
        if by_chance < _CHANCE or self.draws_median < self.held_out_median:
            raise InputError(
                f"the surrogate comes too near to training images: {self.nearer} of {self.draws} draws are nearer than "
                f"{self.limit:.3f}, which {_NEAR:.0%} of the held-out images are; medians {self.draws_median:.3f} and "
                f"{self.held_out_median:.3f}. No gate set is written: give more training images, or fewer components"
            )


@dataclass(eq=False, kw_only=True)
class _Pool:
    """Candidate draws of one label."""

    coefficients: list[Values] = field(default_factory=list)
    tones: list[int] = field(default_factory=list)
    probabilities: list[Values] = field(default_factory=list)  # (labels,) each, by the reference
    distances: list[float] = field(default_factory=list)


def attach_surrogate(
    bundle: Bundle,
    samples: Sequence[Sample],
    target: Target,
    *,
    settings: SurrogateSettings | None = None,
    images: int = 200,
    threads: int = 1,
) -> Bundle:
    """Make a surrogate of the training samples, and attach its draws as the bundle's gate set.

    Raises InputError for a multi-label bundle, too few images, and a surrogate that comes too near to training images.
    """
    settings, manifest = settings or SurrogateSettings(), bundle.manifest
    if manifest.multi_label:
        raise InputError(
            "a surrogate draws an image for one label; the labels of this bundle are findings that occur together: give real "
            "images that may travel (gate_images)"
        )
    labels = np.array([target.label_index(s.record.label) for s in samples])
    sides = np.array([s.side for s in samples])
    training = np.flatnonzero((labels >= 0) & (sides == "train"))
    held_out = _held_out(labels, sides == "validation", manifest.labels, settings.seed)
    spec = PreprocessSpec(region="frame", canvas_px=settings.side_px, crop_px=settings.side_px)
    rows = [*training, *held_out]
    frames = cut_frames([samples[i] for i in rows], spec, threads=threads).lungs
    held = frames[len(training) :]
    fitted = fit_surrogate(frames[: len(training)], labels[training], manifest.labels, settings)
    maker = _Maker(fitted, Screener(bundle, engines.reference(bundle, threads=threads)))
    file, nearness = maker.gate_set(held, labels[held_out], manifest.labels, -(-images // len(manifest.labels)))
    return attach_gate_set(
        bundle,
        file,
        licence="as the networks of this bundle",
        attribution="drawn from a model of training images; no patient's image",
        provenance=_facts(settings, len(fitted.frames), nearness),
    )


def attach_real_images(
    bundle: Bundle, request: GateImages, samples: Sequence[Sample] = (), *, seed: int = 1, threads: int = 1
) -> Bundle:
    """Attach the requested images as the bundle's gate set, reduced to `longest_px`.

    samples: of the run, for a collection. Raises InputError for a request without images, and for an image that cannot be read.
    """
    manifest = bundle.manifest
    if request.collection:
        chosen = _of_collection(request, samples, manifest, seed)
    else:
        paths = spread_evenly(image_paths(Path(request.folder), "gate_images"), request.images)
        chosen = [(path, true_label(path.parent.name, manifest)) for path in paths]
    screener = Screener(bundle, engines.reference(bundle, threads=threads))
    pixels = [_reduced(decode(path).pixels, request.longest_px) for path, _ in chosen]
    answers = [screener.screen(_image(p)) for p in pixels]
    truth = [label for _, label in chosen]
    file = pack_images(pixels, truth, manifest.labels, _probabilities(answers), _decisions(answers))
    facts = {"made_by": "training/gate_set.py", "images": len(pixels), "longest_px": request.longest_px}
    if request.collection:
        facts |= {"of": f"validation images of {request.collection}"}
    return attach_gate_set(bundle, file, licence=request.licence, attribution=request.attribution, provenance=facts)


def attach_configured(bundle: Bundle, samples: Sequence[Sample], config: BundleConfig) -> Bundle:
    """Attach the gate set that the configuration requests. Returns the same bundle if it requests none.

    A surrogate that cannot be made is a note, since engines can be compared on the known answers.
    """
    if config.gate_images is not None:
        return attach_real_images(bundle, config.gate_images, samples, seed=config.seed, threads=config.threads)
    if not config.gate_surrogate:
        return bundle
    try:
        settings = SurrogateSettings(seed=config.seed)
        return attach_surrogate(bundle, samples, config.target, settings=settings, threads=config.threads)
    except InputError as error:
        print(f"no gate set: {error}", file=sys.stderr)
        return bundle


class _Maker:
    """Draws candidates, has the reference answer them, and chooses among them."""

    def __init__(self, fitted: FittedSurrogate, screener: Screener) -> None:
        self._fitted, self._screener = fitted, screener
        self._grid = fitted.settings.grid_px
        self._training = shrunk(fitted.frames, self._grid)
        self._rng = np.random.default_rng(fitted.settings.seed)

    def gate_set(
        self, held_out: Frames, labels: npt.NDArray[np.int64], names: Sequence[str], each: int
    ) -> tuple[GateFile, Nearness]:
        """Return the gate set with `each` draws of each label, and how near they come. Raises InputError as `Nearness.check`."""
        distances = nearest_distances(shrunk(held_out, self._grid), self._training)
        limit = float(np.quantile(distances, _NEAR))
        answers = _probabilities(self._screened(held_out))
        wanted = [answers[labels == label] for label in range(len(names))]
        pools = [self._pool(label, each, float(np.median(wanted[label][:, label]))) for label in range(len(names))]
        near = np.concatenate([pool.distances for pool in pools])
        nearness = Nearness(
            draws=len(near),
            held_out=len(distances),
            draws_median=round(float(np.median(near)), 4),
            held_out_median=round(float(np.median(distances)), 4),
            limit=round(limit, 4),
            nearer=int((near < limit).sum()),
            component_training=component_likeness(self._fitted, self._training),
            component_held_out=component_likeness(self._fitted, shrunk(held_out, self._grid)),
        )
        nearness.check()
        chosen = [
            (label, i) for label, pool in enumerate(pools) for i in _matched(pool, label, wanted[label], limit, each)
        ]
        return self._packed(pools, chosen, names), _with_least(nearness, pools, chosen)

    def _pool(self, label: int, each: int, median: float) -> _Pool:
        """Return candidates of a label, until half of `each` reach the held-out images' median probability."""
        pool, steer = _Pool(), np.zeros(len(self._fitted.components))
        for i in range(_MOST_ROUNDS):
            if i >= _LEAST_ROUNDS and 2 * sum(row[label] >= median for row in pool.probabilities) >= each:
                break
            coefficients = self._fitted.draw(label, _CANDIDATES * each, self._rng, steer)
            tones = [i % EXPOSURES for i in range(len(coefficients))]
            frames = self._frames(coefficients, tones, label)
            answers = _probabilities(self._screened(frames))
            shares = answers[:, label]
            pool.coefficients += list(coefficients)
            pool.tones += tones
            pool.probabilities += list(answers)
            pool.distances += nearest_distances(shrunk(frames, self._grid), self._training).tolist()
            best = coefficients[np.argsort(shares)[-max(1, round(_ELITE * len(shares))) :]]
            steer = steer + best.mean(axis=0) - coefficients.mean(axis=0)
        return pool

    def _frames(self, coefficients: Values, tones: Sequence[int], label: int) -> Frames:
        model = self._fitted.model(coefficients, tones)
        return np.stack(list(draw_images(model, [label] * len(coefficients))))

    def _screened(self, frames: Frames) -> list[Screening]:
        return [self._screener.screen(_image(frame)) for frame in frames]

    def _packed(self, pools: Sequence[_Pool], chosen: Sequence[tuple[int, int]], names: Sequence[str]) -> GateFile:
        coefficients = np.stack([pools[label].coefficients[i] for label, i in chosen])
        model = self._fitted.model(coefficients, [pools[label].tones[i] for label, i in chosen])
        truth = [label for label, _ in chosen]
        answers = self._screened(
            np.stack(list(draw_images(model, truth)))
        )  # the grain is by the draw's place in the set
        return pack_surrogate(model, truth, names, _probabilities(answers), _decisions(answers))


def _held_out(
    labels: npt.NDArray[np.int64], validation: npt.NDArray[np.bool_], names: Sequence[str], seed: int
) -> npt.NDArray[np.int64]:
    """Return rows of validation images of each label. Raises InputError for fewer than are needed to compare draws with."""
    rng, found = np.random.default_rng(seed), []
    for label, name in enumerate(names):
        own = rng.permutation(np.flatnonzero(validation & (labels == label)))[:_MOST_HELD_OUT]
        if len(own) < _LEAST_HELD_OUT:
            raise InputError(
                f"a surrogate is compared with {_LEAST_HELD_OUT} validation images of each label or more, {name} has {len(own)}: "
                f"give real images that may travel (gate_images)"
            )
        found.append(own)
    return np.concatenate(found)


def _of_collection(
    request: GateImages, samples: Sequence[Sample], manifest: Manifest, seed: int
) -> list[tuple[Path, Truth]]:
    """Return validation images of a collection and their labels, in turn of every label, at most as many as requested."""
    sources = COLLECTIONS[request.collection].sources
    own = [s for s in samples if s.side == "validation" and s.record.source in sources]
    if not own or manifest.multi_label:
        raise InputError(
            f"gate_images: the run has no validation images of {request.collection} with one label each: give a folder"
        )
    own = [own[i] for i in np.random.default_rng(seed).permutation(len(own))]
    queues = [[s for s in own if s.record.label == label] for label in manifest.labels]
    taken = in_turn(queues, request.images)
    return [(s.record.path, manifest.labels.index(s.record.label)) for s in taken]


def _matched(pool: _Pool, label: int, wanted: Values, limit: float, count: int) -> list[int]:
    """Return `count` draws that the reference answers like held-out images, none nearer to a training frame than `limit`.

    wanted: (n, labels) answers to held-out images of the label, of which `count` are taken evenly.
    """
    order = wanted[np.argsort(-wanted[:, label])]  # the highest first, of which draws have fewest
    targets = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
    answers, free = np.array(pool.probabilities), np.array(pool.distances) >= limit
    chosen = []
    for target in targets:
        away = np.where(free, np.abs(answers - target).sum(axis=1), np.inf)
        chosen.append(int(away.argmin()))
        free[chosen[-1]] = False
    return chosen


def _with_least(nearness: Nearness, pools: Sequence[_Pool], chosen: Sequence[tuple[int, int]]) -> Nearness:
    least = min(pools[label].distances[i] for label, i in chosen)
    return Nearness(**{**nearness.__dict__, "chosen_least": round(least, 4)})


def _facts(settings: SurrogateSettings, frames: int, nearness: Nearness) -> dict[str, Any]:
    return {
        "made_by": "training/gate_set.py",
        "seed": settings.seed,
        "training_images": frames,
        "components": settings.components,
        "nearest_training_image": dict(nearness.__dict__),
    }


def _reduced(pixels: GrayPixels, longest_px: int) -> Frames:
    """Return 8-bit pixels whose longer side is at most `longest_px`."""
    height, width = pixels.shape
    scale = min(1.0, longest_px / max(height, width))
    if scale == 1.0:
        return np.asarray(as_8_bit(pixels))
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    return np.asarray(as_8_bit(cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA)))


def _image(pixels: Frames) -> Image:
    return Image.from_array(pixels, source="gate set")


def _probabilities(answers: Sequence[Screening]) -> Values:
    return np.array([s.probabilities for s in answers])


def _decisions(answers: Sequence[Screening]) -> list[str]:
    return [s.forced_decision for s in answers]
