"""Surrogate of training frames: frames and labels in; a small model (`cxr_edge.bundle.surrogate`) and candidate draws out.

Principal components of the frames on a coarse grid; of each label, and of each of its groups of frames that look alike, the mean
and covariance of the coefficients, from which draws are made; and the strength of what the components leave, as grain. A draw
mixes all frames of its group: no frame is stored, and `nearest_distances` measures how near a draw comes to any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2
from scipy.optimize import nnls

from cxr_edge.bundle.surrogate import MEAN_UNIT, TEXTURE_UNIT, SurrogateModel, SurrogateSize, grain, grain_sd
from cxr_edge.errors import InputError

__all__ = [
    "EXPOSURES",
    "FittedSurrogate",
    "SurrogateSettings",
    "component_likeness",
    "fit_surrogate",
    "nearest_distances",
    "shrunk",
]

Frames = npt.NDArray[np.uint8]  # (n, side, side)
Values = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

_COEFFICIENT = 32  # of a standard deviation
_GAMMAS = (1.0, 0.85, 1.2, 0.7, 1.4)  # exposures; the first leaves a draw as it is
EXPOSURES = len(_GAMMAS)
_BLURS_PX = (3, 7, 15)  # between which the bands of the grain lie
_POWER_STEPS = 2  # of the randomized decomposition
_EXTRA = 20  # directions of it beyond the components


@dataclass(frozen=True, kw_only=True)
class SurrogateSettings:
    """Settings of a surrogate."""

    side_px: int = 192
    grid_px: int = 64
    map_px: int = 12
    components: int = 160
    octaves: int = 3
    grain: float = 0.5  # share of the standard deviation that the components leave
    groups: int = 4  # of frames of a label that look alike
    least_frames: int = 100  # of a group; so many that a draw mixes many
    most_frames: int = 900  # of a label, which the model is made of
    seed: int = 1

    def size(self, *, labels: int, draws: int) -> SurrogateSize:
        """Return the sizes of the model."""
        return SurrogateSize(
            side_px=self.side_px,
            grid_px=self.grid_px,
            map_px=self.map_px,
            components=self.components,
            octaves=self.octaves,
            labels=labels,
            tones=len(_GAMMAS),
            draws=draws,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedSurrogate:
    """Components of training frames, and of each label the coefficients that draws mix."""

    settings: SurrogateSettings
    mean: npt.NDArray[np.int16]  # (grid,)
    components: npt.NDArray[np.int8]  # (components, grid)
    texture: npt.NDArray[np.uint8]  # (labels, octaves, map)
    coefficients: tuple[Values, ...]  # of each label (frames, components)
    groups: tuple[Labels, ...]  # of each label (frames,): those that look alike
    frames: Frames  # all that the model is made of

    def draw(self, label: int, count: int, rng: np.random.Generator, steer: Values) -> Values:
        """Return coefficients (count, components), whole numbers, from a normal distribution for each group of frames.

        steer: (components,) added to all of them.
        """
        own, groups = self.coefficients[label], self.groups[label]
        drawn = []
        for group in rng.choice(groups, count):  # a group as often as it has frames
            members = own[groups == group]
            centre = members.mean(axis=0)
            mixed = rng.standard_normal(len(members)) / np.sqrt(len(members) - 1)
            drawn.append(centre + mixed @ (members - centre) + steer)
        return np.asarray(np.clip(np.rint(_COEFFICIENT * np.stack(drawn)), -127, 127) / _COEFFICIENT)

    def model(self, coefficients: Values, tones: Sequence[int]) -> SurrogateModel:
        """Return the model with these draws (n, components). tones: index of each draw's exposure, below `EXPOSURES`."""
        return SurrogateModel(
            size=self.settings.size(labels=len(self.coefficients), draws=len(coefficients)),
            mean=self.mean,
            components=self.components,
            coefficients=np.rint(_COEFFICIENT * coefficients).astype(np.int8),
            tones=np.array(tones, np.uint8),
            texture=self.texture,
            curves=np.stack([_curve(gamma) for gamma in _GAMMAS]),
        )


def fit_surrogate(frames: Frames, labels: Labels, names: Sequence[str], settings: SurrogateSettings) -> FittedSurrogate:
    """Fit the surrogate of training frames (n, side, side). labels: index of each among `names`.

    Raises InputError for a label with too few frames.
    """
    rng = np.random.default_rng(settings.seed)
    rows = _chosen(labels, names, settings, rng)
    frames, labels = frames[rows], labels[rows]
    grids = shrunk(frames, settings.grid_px)
    mean = np.rint(MEAN_UNIT * grids.mean(axis=0)).astype(np.int16)
    centred = grids - mean.astype(np.float32) / MEAN_UNIT
    components = _components(centred, settings.components, rng)
    # Coefficients against the rounded components, which are what a draw is made with.
    basis = components.astype(np.float64)
    coefficients = np.linalg.solve(basis @ basis.T, basis @ centred.T.astype(np.float64)).T
    by_label = tuple(coefficients[labels == k] for k in range(len(names)))
    return FittedSurrogate(
        settings=settings,
        mean=mean,
        components=components,
        texture=_texture(frames, labels, coefficients, mean, components, len(names), settings),
        coefficients=by_label,
        groups=tuple(_groups(own, settings, rng) for own in by_label),
        frames=frames,
    )


def shrunk(frames: Frames, side: int) -> npt.NDArray[np.float32]:
    """Return frames as rows (n, side * side) of means."""
    n, factor = len(frames), frames.shape[1] // side
    means = frames.reshape(n, side, factor, side, factor).mean((2, 4), dtype=np.float32)
    return np.asarray(means.reshape(n, -1))


def nearest_distances(frames: npt.NDArray[np.float32], training: npt.NDArray[np.float32]) -> Values:
    """Return the distance of each of `frames` to the nearest of `training`, both rows of `shrunk`.

    Each frame is brought to mean 0 and standard deviation 1, since an exposure hides nobody; the distance is the RMS of the
    difference, from 0 (the same frame) to 2 (its negative); of unrelated ones it is the square root of 2.
    """
    a, b = _standard(frames), _standard(training)
    correlation = (a @ b.T).max(axis=1) / a.shape[1]
    return np.asarray(np.sqrt(np.maximum(2.0 - 2.0 * correlation.astype(np.float64), 0.0)))


def component_likeness(fitted: FittedSurrogate, rows: npt.NDArray[np.float32]) -> float:
    """Return the largest correlation of a component with the difference of a frame, a row of `shrunk`, from the mean.

    A component that shows one frame has 1 with it.
    """
    differences = _standard((rows - fitted.mean / MEAN_UNIT).astype(np.float32))
    components = _standard(fitted.components.astype(np.float32))
    return float(round(float(np.abs(components @ differences.T).max()) / rows.shape[1], 4))


def _standard(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-6))


def _chosen(labels: Labels, names: Sequence[str], settings: SurrogateSettings, rng: np.random.Generator) -> Labels:
    """Return the rows that the model is made of: of each label at most `most_frames`."""
    chosen = []
    for label, name in enumerate(names):
        own = rng.permutation(np.flatnonzero(labels == label))[: settings.most_frames]
        if len(own) < settings.least_frames:
            raise InputError(
                f"a surrogate needs {settings.least_frames} training images of each label or more, so that a draw shows nobody; "
                f"{name} has {len(own)}: give real images that may travel (gate_images)"
            )
        chosen.append(own)
    return np.concatenate(chosen)


def _components(centred: npt.NDArray[np.float32], count: int, rng: np.random.Generator) -> npt.NDArray[np.int8]:
    """Return the principal components (count, grid), each the change by one standard deviation in whole gray levels.

    By a randomized decomposition (Halko et al., 2011): the exact one takes minutes.
    """
    basis = rng.standard_normal((centred.shape[1], count + _EXTRA)).astype(np.float32)
    for _ in range(_POWER_STEPS):
        basis, _ = np.linalg.qr(centred @ basis)
        basis, _ = np.linalg.qr(centred.T @ basis)
    _, spread, turned = np.linalg.svd(centred @ basis, full_matrices=False)
    scaled = (basis @ turned.T)[:, :count] * (spread[:count] / np.sqrt(len(centred)))
    return np.asarray(np.clip(np.rint(scaled.T), -127, 127), np.int8)


def _groups(own: Values, settings: SurrogateSettings, rng: np.random.Generator) -> Labels:
    """Return the group of each frame; groups with too few are merged with all others."""
    count = min(settings.groups, len(own) // settings.least_frames)
    if count < 2:
        return np.zeros(len(own), np.int64)
    _, group = kmeans2(own[:, :10], count, minit="++", seed=rng)
    sizes = np.bincount(group, minlength=count)
    small = sizes[group] < settings.least_frames
    largest = int(sizes.argmax())
    return np.where(small, largest, group).astype(np.int64)


def _texture(
    frames: Frames,
    labels: Labels,
    own: Values,
    mean: npt.NDArray[np.int16],
    components: npt.NDArray[np.int8],
    count: int,
    settings: SurrogateSettings,
) -> npt.NDArray[np.uint8]:
    """Return the maps of the grain (labels, octaves, map): what the components leave of up to 100 frames of each label."""
    size = settings.size(labels=count, draws=1)
    mixing = _band_energies(size)
    maps = np.zeros((count, settings.octaves, settings.map_px**2))
    for label in range(count if settings.octaves else 0):
        rows = np.flatnonzero(labels == label)[:100]
        grids = own[rows] @ components + mean / MEAN_UNIT
        side = (settings.side_px, settings.side_px)
        sizes = (settings.grid_px, settings.grid_px)
        left = [
            np.asarray(frame - cv2.resize(grid.reshape(sizes).astype(np.float32), side), np.float32)
            for frame, grid in zip(frames[rows], grids, strict=True)
        ]
        energy = np.mean([[band**2 for band in _bands(rest)] for rest in left], axis=0)
        small = np.stack([cv2.resize(e, (settings.map_px,) * 2, interpolation=cv2.INTER_AREA).ravel() for e in energy])
        solved = np.stack([nnls(mixing, small[:, at])[0] for at in range(small.shape[1])], axis=1)
        maps[label] = settings.grain * np.sqrt(solved[: settings.octaves])
    return np.asarray(np.clip(np.rint(TEXTURE_UNIT * maps), 0, 255), np.uint8)


def _bands(image: npt.NDArray[np.floating]) -> list[npt.NDArray[np.floating]]:
    """Return the differences of ever more blurred versions: what is finer than 3 px, than 7 px and so on."""
    levels = [image, *(cv2.blur(image, (k, k)) for k in _BLURS_PX)]
    return [a - b for a, b in pairwise(levels)]


def _band_energies(size: SurrogateSize) -> Values:
    """Return the energy (bands, octaves) that grain of strength 1 has in each band."""
    energies = []
    for octave in range(max(size.octaves, 1)):
        samples = [grain(size, i, octave).astype(np.float32) / grain_sd(size, octave) for i in range(8)]
        energies.append([float(np.mean([(_bands(s)[k] ** 2).mean() for s in samples])) for k in range(len(_BLURS_PX))])
    return np.asarray(np.array(energies).T)


def _curve(gamma: float) -> npt.NDArray[np.uint8]:
    return np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
