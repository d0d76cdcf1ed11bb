"""Run the checker network of a bundle on an image and apply its checks.

An `Image` and, where the segmenter has the same input, its tensor come in; the scores by name come out, with every reason
to refuse the image. The network runs in ONNX Runtime on the CPU, also beside GPU engines: it is a small part of a screening.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import CompileOptions, TensorInfo
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle import Bundle
from cxr_edge.errors import BackendError, ContractError, InputError
from cxr_edge.ops.checks import estimated_view, refusals
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Flag, Image, Roi
from cxr_edge.specs.checks import POPULATIONS, Population
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["Checked", "ImageChecker"]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Result of the checks of one image."""

    scores: Mapping[str, float]  # of the network, by name
    refusals: tuple[Flag, ...]  # reasons to refuse the image, the first first
    view: str  # by the header, else estimated; empty if unknown
    view_estimated: bool


class ImageChecker:
    """The checks of one bundle, which has a checker. Thread-safe.

    population: in place of the bundle's. Raises InputError for an unknown one, ContractError if the network does not match.
    """

    def __init__(self, bundle: Bundle, *, threads: int, population: Population | None = None) -> None:
        checker = bundle.manifest.checker
        if checker is None:
            raise InputError(f"bundle {bundle.manifest.name!r} has no checker")
        if population is not None and population not in POPULATIONS:
            raise InputError(f"population is one of {', '.join(POPULATIONS)}, got {population!r}")
        self._checker = checker
        self._population: Population = population or checker.population  # type: ignore[assignment]  # checked there
        self._preprocessor = Preprocessor([checker.preprocess], threads=threads)
        # One thread: so small a network is no faster with two, and waits for the second on a busy machine.
        self._engine = OnnxRuntimeBackend().load_reference(bundle.file(checker.file), CompileOptions(threads=1))
        expected = TensorInfo(name="image", dtype="float32", shape=(None, *checker.preprocess.tensor_shape))
        if self._engine.inputs != (expected,):
            raise ContractError(f"checker: expected the one input {expected}, the network has {self._engine.inputs}")

    def shares(self, spec: PreprocessSpec) -> bool:
        """Return True if a tensor that was preprocessed by `spec` is the checker's input."""
        return spec.digest() == self._checker.preprocess.digest()

    def run(self, image: Image, tensor: npt.NDArray[np.float32] | None) -> Checked:
        """Check one image. tensor: (1, 1, S, S), its input if it is already there.

        Raises BackendError for scores that are not finite: an image that cannot be checked is not answered.
        """
        if tensor is None:
            (tensor,) = self._preprocessor.run([image.pixels], [Roi.full(image.width_px, image.height_px)])
        values = self._engine.run({"image": tensor})["scores"][0]
        if not np.isfinite(values).all():
            raise BackendError(
                "the image cannot be checked, since the checker's scores are not finite: copy the bundle again from where it "
                "came, or screen on another machine"
            )
        scores = dict(zip(self._checker.scores, map(float, values), strict=True))
        found = refusals(
            image.pixels,
            image.facts,
            scores,
            limits=self._checker.limits,
            checks=self._checker.checks,
            population=self._population,
        )
        view = image.facts.view or estimated_view(scores)
        return Checked(scores=scores, refusals=found, view=view, view_estimated=bool(view) and not image.facts.view)
