"""Fuzzer of the decoders: `python -m tests.fuzz [--inputs N | --seconds S] [--seed K] [--format F] [--jobs J] [--keep FOLDER]`.

Prints inputs per second and findings by kind; exit status 1 if there is a finding. `--index I --format F --seed K`
writes one input to stdout, to reproduce a finding. The same seed and library versions give the same inputs.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path

import cv2

from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.errors import InputError
from tests.fuzz.campaign import SHARES, Report, batches_for, batches_of, run
from tests.fuzz.dicom_seeds import dicom_seeds
from tests.fuzz.image_seeds import bmp_seeds, jpeg_seeds, png_seeds, tiff_seeds, webp_seeds
from tests.fuzz.mutate import Source, make_source
from tests.fuzz.worker import Batch, Budget, Finding, make_input

_SEEDS = {
    "dicom": dicom_seeds,
    "tiff": tiff_seeds,
    "png": png_seeds,
    "jpeg": jpeg_seeds,
    "webp": webp_seeds,
    "bmp": bmp_seeds,
}
_SAVED_PER_KIND = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzzer; return the exit status."""
    options = _parser().parse_args(arguments)
    formats = tuple(options.format or SHARES)
    sources = {name: tuple(make_source(seed) for seed in _SEEDS[name]()) for name in formats}
    if options.index is not None:
        batch = Batch(seed=options.seed, format=formats[0], start=0, stop=0)
        sys.stdout.buffer.write(make_input(sources[formats[0]], batch, options.index))
        return 0
    _import_decoders(sources)
    if options.seconds is not None:
        batches = batches_for(options.seconds, seed=options.seed, formats=formats)
    else:
        batches = batches_of(options.inputs, seed=options.seed, formats=formats)
    report = run(batches, sources, Budget(), jobs=options.jobs)
    _print(report)
    kinds = _by_kind(report)
    for number, (kind, findings) in enumerate(kinds.items()):
        _show(number, kind, findings, sources, options.seed, options.keep)
    return 1 if report.findings else 0


def _import_decoders(sources: dict[str, tuple[Source, ...]]) -> None:
    """Decode the first, plain seed of each format, so that forked workers do not import the decoders again."""
    for name in sources:
        with suppress(InputError):
            decode_bytes(sources[name][0].seed.data, source=name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--inputs", type=int, default=20_000, help="number of inputs (default 20000)")
    length.add_argument("--seconds", type=float, help="run for this time instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default 0)")
    parser.add_argument("--format", action="append", choices=list(SHARES), help="only this format (repeatable)")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes at a time (default 1)")
    parser.add_argument("--keep", type=Path, help=f"folder for the files of findings, {_SAVED_PER_KIND} per kind")
    parser.add_argument("--index", type=int, help="write this one input of --format to stdout and exit")
    return parser


def _print(report: Report) -> None:
    print(f"{'format':8}{'inputs':>9}{'images':>9}{'findings':>10}{'inputs/s':>10}  first line that a library printed")
    for name, tally in sorted(report.tallies.items()):
        found = sum(finding.format == name for finding in report.findings)
        rate = tally.inputs / max(tally.seconds, 1e-9)
        print(f"{name:8}{tally.inputs:9}{tally.images:9}{found:10}{rate:10.0f}  {tally.output[:90]}")
    total = sum(tally.inputs for tally in report.tallies.values())
    print(f"{total} inputs, {len(report.findings)} findings of {len(_by_kind(report))} kinds")


def _by_kind(report: Report) -> dict[tuple[str, str], list[Finding]]:
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        kinds.setdefault((finding.format, finding.kind), []).append(finding)
    return kinds


def _show(
    number: int,
    kind: tuple[str, str],
    findings: list[Finding],
    sources: dict[str, tuple[Source, ...]],
    seed: int,
    keep: Path | None,
) -> None:
    indices = [finding.index for finding in findings[:_SAVED_PER_KIND]]
    print(f"{len(findings):6} x {kind[0]}: {kind[1]} (--seed {seed} --index {', '.join(map(str, indices))})")
    if keep is None:
        return
    keep.mkdir(parents=True, exist_ok=True)
    batch = Batch(seed=seed, format=kind[0], start=0, stop=0)
    for index in indices:
        path = keep / f"{number:03}-{kind[0]}-{seed}-{index}.bin"
        path.write_bytes(make_input(sources[kind[0]], batch, index))


if __name__ == "__main__":
    cv2.setNumThreads(0)  # before any fork: threads do not survive it
    sys.exit(main())
