"""Duration of `cxr-edge screen` from a cold process to the result, in total and per step.

    cxr-edge build-engine starter && python -m benchmarks.cold_start

Every run is a new process, timed from its creation to its end by its parent. The files are in the page cache, as on a
machine that has screened before. A second kind of child process (`cold_probe`) does the same work and reads the clock at
each step. The imported packages, torch not among them, are read from Python's -X importtime.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import numpy as np

from benchmarks.harness import command
from benchmarks.harness.images import dicom_bytes, enlarge, jpeg_bytes, png_bytes, speckled_image
from benchmarks.harness.report import Target, publish
from benchmarks.harness.script import Benchmark, add_out, add_rounds, exit_status, make_parser
from benchmarks.harness.side_by_side import Implementation, Table, latency_table, measure, unavailable_reason
from cxr_edge.bench import percentiles
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, at_least_one
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import CxrEdgeError
from cxr_edge.records import GrayPixels

__all__ = ["BENCHMARK", "imported_packages", "main"]

BENCHMARK = Benchmark(name="cold_start", position=80)

STEPS = ("interpreter", "imports", "bundle", "engines", "screen")
COMMAND = "cxr-edge screen, JPEG"
FORBIDDEN = ("torch", "onnx", "pydicom", "openvino", "tensorrt")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if a screening fails."""
    parser = make_parser(BENCHMARK, __doc__)
    add_rounds(parser, rounds=20, warmup=2)
    add_out(parser, BENCHMARK.name)
    add_bundle(parser)
    add_engines(parser)
    parser.add_argument(
        "--side-px", type=at_least_one, default=2048, metavar="N", help="side of the image (%(default)s)"
    )
    args = parser.parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _run(args), errors=(CxrEdgeError, RuntimeError))


def _run(args: argparse.Namespace) -> None:
    pixels = enlarge(_pixels(Bundle.open(args.bundle)), args.side_px)
    with tempfile.TemporaryDirectory() as folder:
        _measure(args, _write(pixels, Path(folder)))


def _pixels(bundle: Bundle) -> GrayPixels:
    answers = bundle.manifest.known_answers
    return decode(bundle.file(answers[0].file)).pixels if answers else speckled_image(256, np.uint8, seed=0)


def _write(pixels: np.ndarray, folder: Path) -> dict[str, Path]:
    formats = {"JPEG": (".jpg", jpeg_bytes), "PNG, 16 bit": (".png", png_bytes), "DICOM": (".dcm", dicom_bytes)}
    files = {}
    for name, (suffix, encode) in formats.items():
        files[name] = folder / f"one{suffix}"
        files[name].write_bytes(encode(pixels))
    return files


def _measure(args: argparse.Namespace, files: dict[str, Path]) -> None:
    commands = {f"cxr-edge screen, {name}": command.screen_command(args, file) for name, file in files.items()}
    commands["python, nothing else"] = [sys.executable, "-c", ""]
    implementations = [_process(name, words) for name, words in commands.items()]
    reason = unavailable_reason("torch")
    torch = "python, import torch"
    implementations.append(
        Implementation(name=torch, run=None, note=reason)
        if reason
        else _process(torch, [sys.executable, "-c", "import torch"])
    )
    measured = measure(implementations, rounds=args.rounds, warmup=args.warmup)
    packages = imported_packages(command.screen_command(args, files["JPEG"])[1:])
    for name in FORBIDDEN:
        if name in packages:
            print(f"cold_start: the command imported {name}", file=sys.stderr)
    publish(
        name=BENCHMARK.name,
        question="How long does `cxr-edge screen` of one image take, from a cold process to the result?",
        interval="creation of the process to its end, by the parent's clock; files in the page cache",
        settings={"command": "python -c, as the cxr-edge script does", "image": f"{args.side_px}x{args.side_px}",
                  "threads": args.threads, "rounds": args.rounds, "warm-up": args.warmup},
        tables=[
            latency_table("Whole process", measured, baseline=COMMAND),
            _steps(args, files["JPEG"]),
            _imports(packages),
        ],
        targets=[
            Target(text=f"seconds, {COMMAND}, p50", required=1, at_least=False, measured=measured[0].p50_ms / 1e3),
            Target(text="packages of torch imported by it", required=0, at_least=False,
                   measured=float("torch" in packages)),
        ],
        notes=(
            "Of the heavy packages " + ", ".join(FORBIDDEN) + " the command on a JPEG imported: "
            + (", ".join(p for p in FORBIDDEN if p in packages) or "none") + ".",
        ),
        out=args.out,
    )  # fmt: skip


def _process(name: str, words: Sequence[str]) -> Implementation:
    return Implementation(name=name, run=lambda _: command.run(words))


def _steps(args: argparse.Namespace, file: Path) -> Table:
    rows = [_probe(args, file) for _ in range(args.warmup + args.rounds)][args.warmup :]
    values = np.asarray([[*row, sum(row)] for row in rows])
    return Table(
        title=f"Steps of one process, {COMMAND}, without printing and exit",
        columns=("step", "p50 ms", "p90 ms", "p99 ms", "n"),
        rows=tuple((name, *percentiles(values[:, i]), len(rows)) for i, name in enumerate((*STEPS, "all"))),
    )


def _probe(args: argparse.Namespace, file: Path) -> list[float]:
    engines = [str(args.engines)] if args.engines else []
    words = [sys.executable, "-m", "benchmarks.cold_probe", str(monotonic()), str(file), str(args.bundle)]
    return [float(v) for v in json.loads(command.run([*words, str(args.threads), *engines]).stdout)]


def imported_packages(arguments: Sequence[str]) -> dict[str, float]:
    """Return the milliseconds that `python ARGUMENTS` spends importing, per top-level package, largest first."""
    lines = command.run([sys.executable, "-X", "importtime", *arguments]).stderr.splitlines()
    microseconds: Counter[str] = Counter()
    for line in lines:
        match = re.fullmatch(r"import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)", line)
        if match:
            microseconds[match[2].split(".")[0]] += int(match[1])
    if not microseconds:
        raise RuntimeError("Python printed no import times: expected lines of -X importtime on stderr")
    return {name: us / 1e3 for name, us in microseconds.most_common()}


def _imports(packages: dict[str, float], max_rows: int = 10) -> Table:
    rows = tuple((name, ms) for name, ms in list(packages.items())[:max_rows])
    return Table(
        title="Imports of the command, by package (one run, slowed down by the timing)",
        columns=("package", "ms"),
        rows=rows,
    )


if __name__ == "__main__":
    sys.exit(main())
