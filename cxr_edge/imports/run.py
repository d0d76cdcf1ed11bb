"""`import_networks`: ONNX files that were trained elsewhere become the members of a new bundle.

The order: read every file; run the originals on the sample images and recognise their outputs; rewrite the graphs; write a
draft and compare its members with the originals; only then known answers, model card, and the folder under its final name.
Whatever is refused leaves nothing.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cxr_edge.backends.base import CompileOptions, Engine
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.foreign_files import export_call
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.compiler.decoded_files import add_decoded_files
from cxr_edge.compiler.known_answers import add_known_answers
from cxr_edge.compiler.output_kinds import constant_note
from cxr_edge.engines import SEGMENTER, reference
from cxr_edge.errors import ContractError, InputError
from cxr_edge.imports.draft import ImportSettings, ReadNetwork, complete, facts, member_inputs, write_draft
from cxr_edge.imports.member_graph import Columns, MemberGraph, member_graph, without_cam
from cxr_edge.imports.model_card import CardEntry
from cxr_edge.imports.original import Original, read_original
from cxr_edge.imports.output_columns import columns_of, columns_of_findings, label_logits, label_probabilities
from cxr_edge.imports.parity import Parity, check_expected, measure_parity, read_expected
from cxr_edge.imports.sample_images import SampleImages, sample_images
from cxr_edge.imports.trained_input import TrainedInput
from cxr_edge.names import printable
from cxr_edge.ops.combine import sigmoid, softmax
from cxr_edge.screening.pipeline import HostPipeline
from cxr_edge.specs.outputs import OutputChoice

__all__ = ["ImportReport", "ImportSettings", "NetworkToImport", "import_networks"]

_KNOWN_ANSWERS, _CANDIDATES_PER_ANSWER = 8, 2
_ROUNDING = (
    1e-3  # relative: of two images at once, and of a map's mean; half precision in the graph rounds more than float32
)

Values = npt.NDArray[np.float64]
Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class NetworkToImport:
    """One ONNX file and what is declared of it."""

    path: Path
    trained: TrainedInput
    output: OutputChoice = "auto"
    column: int | None = None  # of the one finding to take, from 0
    output_name: str | None = None  # None: its only output
    expected: Path | None = None  # CSV of values by its own program


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """A finished import."""

    bundle: Bundle
    images: str
    entries: tuple[CardEntry, ...] = field(repr=False)
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the report as text."""
        lines = [f"Bundle: {printable(self.bundle.root)}", f"Compared on {self.images} with the original networks:"]
        for entry in self.entries:
            cam = "with" if entry.graph.has_cam else "without"
            lines += [f"  {entry.parity}", f"    {entry.columns.kind}, {cam} class activation map"]
            lines += [f"    {change}" for change in entry.graph.changes]
        lines += [f"Note: {note}" for note in self.notes]
        return [*lines, "No accuracy was measured. Next: cxr-edge build-engine " + printable(self.bundle.root)]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the report."""
        return {
            "bundle": str(self.bundle.root),
            "digest": self.bundle.digest,
            "images": self.images,
            "members": [facts(e) for e in self.entries],
            "notes": list(self.notes),
        }


def import_networks(
    networks: Sequence[NetworkToImport], settings: ImportSettings, out: Path, *, say: Callable[[str], None]
) -> ImportReport:
    """Write the bundle `out`. say: takes lines of progress.

    Raises InputError for arguments that cannot be used, BundleError for such a file, ContractError for a network that a bundle
    cannot express or that would compute something else.
    """
    _check_out(out)
    _check_thresholds(settings)
    originals = [read_original(n.path, n.trained, output=n.output_name) for n in networks]
    lungs = any(n.trained.region == "lungs" for n in networks)
    count, threads = settings.image_count, settings.threads
    images = sample_images(settings.images, count=count, lungs=lungs, threads=threads, say=say)
    names = _member_names([n.path for n in networks])
    read = [_run(*one, images, settings, say) for one in zip(names, originals, networks, strict=True)]
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=out.parent) as scratch:
        root = Path(scratch, "bundle")
        root.mkdir()
        graphs = [_write_member(root, r, images) for r in read]
        bundle = write_draft(root, settings, out.absolute().name, read, graphs, images, say)
        check_networks(bundle)
        say("comparing the members with the original networks")
        parities = _parities(bundle, read, images, threads)
        for parity in parities:
            parity.check()
        entries = tuple(
            CardEntry(name=r.name, original=r.original, columns=r.columns, graph=g, parity=p, expected=r.expected)
            for r, g, p in zip(read, graphs, parities, strict=True)
        )
        say("drawing known answers")
        bundle = add_known_answers(bundle, count=_KNOWN_ANSWERS, candidates=_CANDIDATES_PER_ANSWER)
        bundle = add_decoded_files(bundle)
        complete(bundle, entries, images)
        root.rename(out)
    notes = [f"{line}, or --preprocess is wrong" for r in read for line in constant_note(r.name, r.raw)]
    if settings.images is None:
        notes.append(
            "compared on drawn images; --images FOLDER compares on X-rays, and measures there the activation ranges that int8 "
            "engines need (or build-engine --calibration FOLDER)"
        )
    return ImportReport(bundle=Bundle.open(out), images=images.description, entries=entries, notes=tuple(notes))


def _check_out(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"the folder {out} is not empty: give a new one with --out")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give the folder of the new bundle with --out")
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent} to put the bundle in: make it, or give another --out")


def _check_thresholds(settings: ImportSettings) -> None:
    known = tuple(filter(None, settings.labels))
    for label, value in settings.thresholds.items():
        if label not in known:
            raise InputError(f"--threshold {label}={value:g}: the labels are {', '.join(known)}")


def _member_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each member, from its file's."""
    names: list[str] = []
    for path in paths:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:48] or "network"
        taken = {n.lower() for n in (*names, SEGMENTER)}
        candidates = [name, *(f"{name}-{i}" for i in range(2, len(paths) + 3))]
        names.append(next(c for c in candidates if c.lower() not in taken))
    return names


def _run(
    name: str,
    original: Original,
    network: NetworkToImport,
    images: SampleImages,
    settings: ImportSettings,
    say: Callable[[str], None],
) -> ReadNetwork:
    """Run the original on the images, recognise its output, and compare with its own program's values."""
    say(f"{name}: running the original network on {images.description}")
    raw = np.stack([original.run(i.image, i.box) for i in images.items])
    columns = _columns(original, raw, network, settings)
    expected = None if network.expected is None else _compare_expected(name, network.expected, columns, raw, images)
    return ReadNetwork(name=name, original=original, columns=columns, raw=raw, expected=expected)


def _columns(original: Original, raw: Values, network: NetworkToImport, settings: ImportSettings) -> Columns:
    if not settings.multi_label:
        return columns_of(original, raw, settings.labels, choice=network.output, column=network.column)
    if network.column is not None:
        raise InputError(
            "--column takes one finding for a single-label bundle: with --multi-label leave out columns by empty labels, "
            "as in --labels a,,b"
        )
    return columns_of_findings(original, raw, settings.labels, choice=network.output)


def _compare_expected(name: str, file: Path, columns: Columns, raw: Values, images: SampleImages) -> float:
    found = read_expected(file, columns.count)
    rows, names, values = [], [], []
    for k, item in enumerate(images.items):
        source, folder = Path(item.image.source), images.folder or Path()
        below = source.relative_to(folder).as_posix() if folder in source.parents else ""
        row = found.get(below, found.get(source.name))
        if row is not None:
            rows.append(k)
            names.append(item.image.source)
            values.append(row)
    if not rows:
        raise InputError(
            f"--expected {file} names none of the {images.description}: its first column has the files' names, relative to the "
            "folder of --images"
        )
    expected = label_probabilities(columns, np.stack(values))
    return check_expected(name, expected, label_probabilities(columns, raw[rows]), names)


def _write_member(root: Path, read: ReadNetwork, images: SampleImages) -> MemberGraph:
    """Write the member's file and run it: two images at once, and the mean of its map."""
    graph, file = member_graph(read.original, read.columns), root / f"{read.name}.onnx"
    onnx.save(graph.model, file)
    engine, inputs = OnnxRuntimeBackend().load_reference(file, CompileOptions()), member_inputs(read, images)[:4]
    outputs = [engine.run({"image": x}) for x in inputs]
    _check_batches(read.original, engine, inputs, outputs)
    if graph.has_cam and not _is_mean(outputs):
        graph = without_cam(graph, "It has no class activation map: the one found does not give its logits.")
        onnx.save(graph.model, file)
    return graph


def _check_batches(
    original: Original, engine: Engine, inputs: Sequence[Tensor], outputs: Sequence[dict[str, Tensor]]
) -> None:
    """Raise ContractError unless two images at once give the same as one after the other."""
    expected = np.concatenate([o["logits"] for o in outputs[:2]])
    try:
        actual = engine.run({"image": np.concatenate(inputs[:2])})["logits"]
    except Exception as error:  # the runtime's own, for shapes that do not fit
        actual, reason = None, f": {str(error).splitlines()[0][:200]}"
    else:
        reason = ""
    largest = float(np.abs(expected).max())
    if actual is None or actual.shape != expected.shape or np.abs(actual - expected).max() > _ROUNDING * largest:
        raise ContractError(
            f"{original.path.name}: its graph has a fixed batch size that cannot be made dynamic{reason}; export it again with a "
            f"dynamic batch, in PyTorch by {export_call()}"
        )


def _is_mean(outputs: Sequence[dict[str, Tensor]]) -> bool:
    """Return whether the logits are the mean of the maps plus the same bias for every image."""
    bias = np.concatenate([o["logits"] - o["cam"].mean(axis=(2, 3)) for o in outputs])
    largest = max(float(np.abs(o["logits"]).max()) for o in outputs)
    return bool((np.abs(bias - bias[:1]) <= _ROUNDING * max(largest, 1e-3)).all())


def _parities(bundle: Bundle, read: Sequence[ReadNetwork], images: SampleImages, threads: int) -> list[Parity]:
    """Compare every member, run by the deployed pipeline, with its original."""
    pipeline = HostPipeline(bundle.manifest, reference(bundle, threads=threads), threads=threads)
    logits = np.stack([pipeline.run(i.image).logits for i in images.items]).astype(np.float64)
    names = [printable(i.image.source) for i in images.items]
    parities = []
    for k, r in enumerate(read):
        member, before = logits[:, k], label_logits(r.columns, r.raw)
        activate = sigmoid if bundle.manifest.multi_label else softmax
        parities.append(
            measure_parity(
                r.name,
                names,
                (label_probabilities(r.columns, r.raw), activate(member)),
                None if before is None else (before, member),
                half=_is_half(r.original),
                centred=not bundle.manifest.multi_label,
            )
        )
    return parities


def _is_half(original: Original) -> bool:
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(t.data_type in half for t in original.model.graph.initializer) or original.dtype in (
        "float16",
        "bfloat16",
    )
