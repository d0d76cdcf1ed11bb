"""The papers' unpruned ensemble as a bundle, so that cxr-edge and PyTorch run the very same networks on a GPU.

Networks of `papers` with random weights come in, a bundle and engines of each GPU runtime come out, all fp32. The
weights are for time, not for answers: every mask is lung throughout, so that all contenders' members see the whole
image.
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
    """Export the segmenter and the members (as `papers.modules` makes them) and write a bundle of them.

    Raises ContractError if an export does not compute what torch does.
    """
    from benchmarks.peers.papers import LABELS, SPEC
    from training.models.onnx_export import export

    assert SPEC.segmenter is not None
    specs, names = (SPEC.segmenter, *SPEC.members), ("segmenter", *MEMBERS)
    for module, spec, name in zip(modules, specs, names, strict=True):
        export(module, spec, ("mask",) if name == "segmenter" else ("logits",), folder / f"{name}.onnx")
    (folder / _CARD).write_text("# The papers' networks\n\nRandom weights, for measuring time.\n", encoding="utf-8")
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
        intended_use="Measuring time. Its answers mean nothing.",
        provenance={"made_by": "benchmarks/gpu/papers_bundle.py"},
        metrics={},
    )
    return write_bundle(folder, manifest)


def compile_engines(
    bundle: Bundle, names: Sequence[str], folder: Path, *, threads: int, say: Callable[[str], None]
) -> dict[str, EngineSet | str]:
    """fp32 engines of every runtime named, or why it has none. folder: for their files. say: takes lines of progress.

    Without build-engine's gate, which asks for known answers that random weights do not have.
    """
    found: dict[str, EngineSet | str] = {}
    for name in names:
        try:
            found[name] = _engines(bundle, name, folder, threads, say)
        except CxrEdgeError as error:
            found[name] = " ".join(str(error).split())
    return found


def _engines(bundle: Bundle, name: str, folder: Path, threads: int, say: Callable[[str], None]) -> EngineSet:
    backend = backends.choose(name)
    loaded, options = [], CompileOptions(threads=threads)
    for part in parts(bundle):
        say(f"{name}: compiling {part.name} of the papers' ensemble")
        file = folder / f"{name}-{part.name}{backend.suffix}"
        backend.compile(part.onnx, file, options)
        loaded.append(backend.load(file, options))
    return engine_set(bundle, backend, loaded, ("fp32",) * len(loaded))
