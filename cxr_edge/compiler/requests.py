"""`BuildRequest` and `NetworkRequest` of version 0.1, for `build_bundle.build` and `build_network`; until version 0.3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.backends.base import GpuOptions
from cxr_edge.bundle import Bundle
from cxr_edge.compiler import build_bundle
from cxr_edge.compiler import build_network as network
from cxr_edge.compiler.build_bundle import no_progress
from cxr_edge.compiler.report import BuildReport
from cxr_edge.engines.records import BuildSettings, PrecisionChoice
from cxr_edge.ops.combine import softmax
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["IMAGE_LIMIT", "BuildRequest", "NetworkRequest", "build", "build_network", "softmax"]

IMAGE_LIMIT = BuildSettings().images


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Values that both requests have; today's `BuildSettings`, backend and threads."""

    backend: str = "auto"
    precision: PrecisionChoice = "auto"
    calibration: Path | None = None
    threads: int = 1
    max_loss: float = 0.01
    image_limit: int = IMAGE_LIMIT
    gpu: GpuOptions = field(default_factory=GpuOptions)

    def __post_init__(self) -> None:
        self.settings()  # which checks them

    def settings(self) -> BuildSettings:
        """Return the values that determine the engines."""
        return BuildSettings(
            precision=self.precision,
            calibration=self.calibration,
            images=self.image_limit,
            max_loss=self.max_loss,
            gpu=self.gpu,
        )


@dataclass(frozen=True, kw_only=True)
class BuildRequest(_Settings):
    """Arguments of `build`."""

    bundle: Bundle
    engines_dir: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkRequest(_Settings):
    """Arguments of `build_network`."""

    onnx: Path
    spec: PreprocessSpec
    out: Path


def build(request: BuildRequest, say: Callable[[str], None] = no_progress) -> BuildReport:
    """Build the engines of a bundle, as `build_bundle.build`."""
    settings, r = request.settings(), request
    return build_bundle.build(r.bundle, settings, r.engines_dir, backend=r.backend, threads=r.threads, say=say)


def build_network(request: NetworkRequest, say: Callable[[str], None] = no_progress) -> BuildReport:
    """Build the engine of one network, as `build_network.build_network`."""
    settings, r = request.settings(), request
    return network.build_network(r.onnx, r.spec, settings, out=r.out, backend=r.backend, threads=r.threads, say=say)
