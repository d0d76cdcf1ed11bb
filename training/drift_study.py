"""Study of drift: real exams by the packaged networks in, JSON and Markdown out: `python -m training.drift_study`.

Patients that trained no network are screened once (RUN/exams.npz); streams are drawn from their statistics. Of patients of the
test side, the images are also changed as another scanner would, and screened again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from cxr_edge import engines
from cxr_edge.backends.cpu_info import processor_name
from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode
from cxr_edge.drift import DriftMonitor, exam_statistics
from cxr_edge.errors import CxrEdgeError
from cxr_edge.names import not_empty, path_argument
from cxr_edge.records import Image
from cxr_edge.screening.screener import Screener
from training.bundles.reference import one_of_each_patient
from training.data.dataset import Sample, data_folder
from training.data.scanners import CHANGES, change
from training.evaluation.drift import (
    SIZE_AND_FORMAT,
    DriftStudy,
    Exams,
    Noticed,
    changed_stream,
    drawn_promise,
    drawn_shift,
    from_another,
    same_patients,
)
from training.evaluation.drift_pages import drift_as_markdown
from training.json_records import as_stored, write_json
from training.recipes.arguments import add_out_argument, add_run_arguments
from training.recipes.config import load_config
from training.recipes.members import StarterRun
from training.shared_files import atomic_write, write_text

__all__ = ["main"]

_STREAMS, _LATE_STREAMS = 50, 20  # of each change at once, and after quiet exams
_CHANGED_PATIENTS = 400
_LEAST_STREAM = 20  # patients of a source that is a stream
_MIXED = "mix of all sources"


@dataclass(frozen=True, kw_only=True)
class _Screened:
    """Exams as they are, with their sources, and exams of some patients after each change."""

    exams: Exams
    sources: npt.NDArray[np.str_]  # (N,)
    altered: npt.NDArray[np.bool_]  # (N,) patients whose images were changed
    changed: Mapping[str, Exams]  # name of the change -> exams of these patients

    def of(self, source: str) -> Exams:
        return self.exams.rows(self.sources == source)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and write OUT.json and OUT.md. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.drift_study", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml", run=("--run", "runs/starter"))
    add_out_argument(parser, "docs/results/drift")
    parser.add_argument(
        "--bundle", type=not_empty, default="starter", help="folder of the bundle, or the word starter (%(default)s)"
    )
    parser.add_argument(
        "--engines",
        type=path_argument,
        help="engines built from it: do their outputs look like drift? (default: left out)",
    )
    args = parser.parse_args(arguments)
    try:
        bundle, config = Bundle.open(args.bundle), load_config(args.config)
        samples = StarterRun(config, data_folder(args.data), args.run).samples
        screened = _screened(bundle, samples, args.run / "exams.npz", seed=config.seed)
        results = _study(bundle, screened, samples, seed=config.seed)
        if args.engines is not None:
            built = _built(bundle, args.engines, samples, screened, seed=config.seed)
            results = replace(results, engines=built)
        results = as_stored(results)
    except CxrEdgeError as error:
        print(f"training.drift_study: {error}", file=sys.stderr)
        return 2
    write_json(args.out.with_suffix(".json"), results)
    write_text(args.out.with_suffix(".md"), drift_as_markdown(results))
    return 0


def _screened(bundle: Bundle, samples: Sequence[Sample], file: Path, *, seed: int) -> _Screened:
    """Return the statistics of one image of each patient that trained no network; screened once for a bundle."""
    unseen = _unseen(samples, seed)
    test = [i for i, s in enumerate(unseen) if s.side == "test"]
    altered = np.zeros(len(unseen), dtype=bool)
    altered[np.random.default_rng(seed).permutation(test)[:_CHANGED_PATIENTS]] = True
    if not file.exists() or str(np.load(file)["digest"]) != _networks(bundle):
        _screen(bundle, unseen, altered, file)
    with np.load(file) as stored:
        names = tuple(stored["names"].tolist())
        return _Screened(
            exams=Exams(names=names, values=stored["exams"]),
            sources=np.array([s.record.source for s in unseen]),
            altered=altered,
            changed={name: Exams(names=names, values=stored[name]) for name in CHANGES},
        )


def _networks(bundle: Bundle) -> str:
    """Return a digest of what the statistics depend on: networks, combination and decision."""
    manifest = bundle.manifest.as_json()
    kept = {key: manifest.get(key) for key in ("labels", "segmenter", "members", "combination", "decision", "checker")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _unseen(samples: Sequence[Sample], seed: int) -> list[Sample]:
    return one_of_each_patient([s for s in samples if s.side != "train"], seed=seed)


def _screen(bundle: Bundle, unseen: Sequence[Sample], altered: npt.NDArray[np.bool_], file: Path) -> None:
    screener = Screener(bundle, engines.reference(bundle, threads=1), whole=True)

    def rows(images: Iterator[Image]) -> list[dict[str, float]]:
        return [exam_statistics(screener.screen(image), image) for image in images]

    exams = rows(decode(s.record.path) for s in unseen)
    chosen = [s for s, is_altered in zip(unseen, altered.tolist(), strict=True) if is_altered]
    arrays = {"exams": np.array([list(row.values()) for row in exams])}
    for name in CHANGES:
        print(f"{name}: {len(chosen)} patients", file=sys.stderr, flush=True)
        found = rows(change(decode(s.record.path), name) for s in chosen)
        arrays[name] = np.array([list(row.values()) for row in found])
    with atomic_write(file) as beside, beside.open("wb") as out:
        np.savez(out, digest=_networks(bundle), names=np.array(list(exams[0])), **arrays)  # type: ignore[arg-type]


def _study(bundle: Bundle, screened: _Screened, samples: Sequence[Sample], *, seed: int) -> DriftStudy:
    counts = Counter(screened.sources.tolist())
    print("random exams", file=sys.stderr, flush=True)
    promise = (
        *drawn_promise((0.1, 0.01, 1e-3, 1e-4), streams=1000, exams=1000, seed=seed),
        *drawn_promise((0.1, 0.01, 1e-3, 1e-4), streams=50, exams=10_000, seed=seed + 1),
    )
    drawn = tuple(
        drawn_shift(size, quiet=quiet, streams=_LATE_STREAMS if quiet else _STREAMS, seed=seed)
        for quiet in (0, 2000, 3900)
        for size in (0.3, 0.5, 0.7, 1.0)
    )
    print("real exams", file=sys.stderr, flush=True)
    same = [same_patients(name, screened.of(name), streams=_STREAMS, seed=seed) for name in sorted(counts)]
    return DriftStudy(
        bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
        manifest_sha256=bundle.digest,
        seed=seed,
        statistics=screened.exams.names,
        patients=dict(sorted(counts.items())),
        promise=promise,
        drawn=drawn,
        same=tuple(s for s in (same_patients(_MIXED, screened.exams, streams=100, seed=seed), *same) if s is not None),
        scanners=_scanners(screened, (), seed),
        scanners_grays=_scanners(screened, SIZE_AND_FORMAT, seed),
        hospitals=_hospitals(screened, (), seed),
        hospitals_grays=_hospitals(screened, SIZE_AND_FORMAT, seed),
        mixed=_single(screened, seed),
        cost_us=_cost_us(bundle, screened, samples),
        machine=f"{processor_name()}, one thread",
    )


def _scanners(screened: _Screened, without: Sequence[str], seed: int) -> tuple[Noticed, ...]:
    """Change the scanner of the mix, at once and after quiet exams."""
    known = screened.exams.rows(~screened.altered).without(without)
    quiet = len(known) // 2
    return tuple(
        changed_stream(name, known, exams.without(without), quiet=before, streams=streams, seed=seed)
        for before, streams in ((0, _STREAMS), (quiet, _LATE_STREAMS))
        for name, exams in screened.changed.items()
    )


def _built(
    bundle: Bundle, folder: Path, samples: Sequence[Sample], screened: _Screened, *, seed: int
) -> tuple[Noticed, ...]:
    """Screen the patients of the changed images, unchanged, with built engines; the reference is of fp32 networks."""
    screener = Screener(bundle, engines.load(bundle, folder, threads=1, whole=True), whole=True)
    images = (decode(s.record.path) for s, own in zip(_unseen(samples, seed), screened.altered, strict=True) if own)
    rows = [list(exam_statistics(screener.screen(image), image).values()) for image in images]
    known = screened.exams.rows(~screened.altered)
    exams = Exams(names=known.names, values=np.array(rows))
    name = f"engines built here: {screener.describe()}"
    return (changed_stream(name, known, exams, quiet=0, streams=_STREAMS, seed=seed),)


def _hospitals(screened: _Screened, without: Sequence[str], seed: int) -> tuple[Noticed, ...]:
    """Follow each source against the reference of each other one that has enough patients."""
    found = []
    for here, there in permutations(sorted(set(screened.sources.tolist())), 2):
        other = screened.of(there).without(without)
        if len(other) >= _LEAST_STREAM:
            known = screened.of(here).without(without)
            found.append(from_another(f"{here}, then {there}", known, other, streams=_STREAMS, seed=seed))
    return tuple(f for f in found if f is not None)


def _single(screened: _Screened, seed: int) -> tuple[Noticed, ...]:
    """Follow each source against a reference of all sources, other patients."""
    found = []
    for name in sorted(set(screened.sources.tolist())):
        own = np.flatnonzero(screened.sources == name)
        half = np.random.default_rng(seed).permutation(own)[: max(1, len(own) // 2)]
        rest = np.ones(len(screened.exams), dtype=bool)
        rest[half] = False
        if len(half) >= _LEAST_STREAM:
            known, stream = screened.exams.rows(rest), screened.exams.rows(half)
            found.append(from_another(name, known, stream, streams=_STREAMS, seed=seed))
    return tuple(f for f in found if f is not None)


def _cost_us(bundle: Bundle, screened: _Screened, samples: Sequence[Sample]) -> float:
    """Return the median time of counting one exam, in microseconds, with a full reference."""
    image = decode(samples[0].record.path)
    screening = Screener(bundle, engines.reference(bundle, threads=1), whole=True).screen(image)
    monitor, times = DriftMonitor(screened.exams.reference()), []
    for _ in range(1000):
        start = perf_counter()
        found = exam_statistics(screening, image)
        monitor.add_row(tuple(found[name] for name in monitor.names))
        times.append(1e6 * (perf_counter() - start))
    return round(float(np.median(times)), 1)


if __name__ == "__main__":
    sys.exit(main())
