"""The papers' unpruned ensemble as a bundle, so that cxr-edge and PyTorch run the same networks on a GPU.

Takes networks of `papers` with random weights; returns a bundle and engines of each GPU runtime, all fp32. The weights
are for timing, not for predictions: every mask covers the whole image, so that all implementations' members see it all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cxr_edge import backends
from cxr_edge.backends.base import CompileOptions
from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.networks import Member, Segmenter
from cxr_edge.engines import EngineSet, engine_set, parts
from cxr_edge.errors import CxrEdgeError
from cxr_edge.specs.combination import Decision
from cxr_edge.specs.lung_box import LungBoxRule

__all__ = ["MEMBERS", "compile_engines", "write_papers_bundle"]

MEMBERS = ("vgg16", "vgg19", "inception-v3")

_ALL_LUNG = LungBoxRule(threshold=1e-6, margin=0.0)  # a sigmoid of random weights is near 0.5 everywhere
_CARD = "model-card.md"


def write_papers_bundle(modules: Sequence[Any], folder: Path) -> Bundle:
    """Export the segmenter and the members (as `papers.modules` returns them) and write a bundle of them.

    Raises ContractError if the outputs of an export differ from torch's.
    """
    from benchmarks.peers.papers import LABELS, SPEC
    from training.models.onnx_export import export

    assert SPEC.segmenter is not None
    specs, names = (SPEC.segmenter, *SPEC.members), ("segmenter", *MEMBERS)
    for module, spec, name in zip(modules, specs, names, strict=True):
        export(module, spec, ("mask",) if name == "segmenter" else ("logits",), folder / f"{name}.onnx")
    (folder / _CARD).write_text("# The papers' networks\n\nRandom weights, for timing.\n", encoding="utf-8")
    manifest = Manifest(
        name="papers-unpruned",
        version="1",
        created="2020-06-08T12:00:00+00:00",
        labels=tuple(f"label {i}" for i in range(LABELS)),
        segmenter=Segmenter(file=file_ref(folder, "segmenter.onnx"), preprocess=SPEC.segmenter, lung_box=_ALL_LUNG),
        members=tuple(
            Member(name=n, architecture=n, file=file_ref(folder, f"{n}.onnx"), preprocess=s, has_cam=False)
            for n, s in zip(MEMBERS, SPEC.members, strict=True)
        ),
        combination=SPEC.combination,
        decision=Decision(thresholds={}, uncertain_below=0.0),
        known_answers=(),
        model_card=file_ref(folder, _CARD),
        intended_use="Timing. Its predictions mean nothing.",
        provenance={"made_by": "benchmarks/gpu/papers_bundle.py"},
        metrics={},
    )
    return write_bundle(folder, manifest)


def compile_engines(
    bundle: Bundle, names: Sequence[str], folder: Path, *, threads: int, say: Callable[[str], None]
) -> dict[str, EngineSet | str]:
    """Compile fp32 engines for each runtime; return them, or the reason for failure, by name of the runtime.

    Without build-engine's parity check, which needs known answers that random weights do not have.

    folder: for the engine files.
    say: called with lines of progress.
    """
    compiled: dict[str, EngineSet | str] = {}
    for name in names:
        try:
            compiled[name] = _engines(bundle, name, folder, threads, say)
        except CxrEdgeError as error:
            compiled[name] = " ".join(str(error).split())
    return compiled


def _engines(bundle: Bundle, name: str, folder: Path, threads: int, say: Callable[[str], None]) -> EngineSet:
    backend = backends.choose(name)
    loaded, options = [], CompileOptions(threads=threads)
    for part in parts(bundle):
        say(f"{name}: compiling {part.name} of the papers' ensemble")
        file = folder / f"{name}-{part.name}{backend.suffix}"
        backend.compile(part.onnx, file, options)
        loaded.append(backend.load(file, options))
    return engine_set(bundle, backend, loaded, ("fp32",) * len(loaded))
