"""How long does `cxr-edge screen` take from a cold process to the answer, and where does the time go?

    cxr-edge build-engine starter && python -m benchmarks.cold_start

Every run is a new process, timed from its making to its end by its parent. The files are in the page cache, as on a
machine that has screened before. A second kind of child (`cold_probe`) takes the same way and reads the clock at each
step. What is imported, and that torch is not, is read from Python's own -X importtime.
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
from benchmarks.harness.images import dicom_bytes, enlarged, jpeg_bytes, png_bytes, speckled
from benchmarks.harness.report import Target, add_common, publish
from benchmarks.harness.side_by_side import Contender, Table, latency_table, measure, missing
from cxr_edge.bench import percentiles
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, at_least_one
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import CxrEdgeError
from cxr_edge.records import GrayPixels

__all__ = ["imported_packages", "main"]

STEPS = ("interpreter", "imports", "bundle", "engines", "screen")
COMMAND = "cxr-edge screen, JPEG"
FORBIDDEN = ("torch", "onnx", "pydicom", "openvino", "tensorrt")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; 3 if a screening fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=(__doc__ or "").split("\n")[0])
    add_common(parser, "cold_start", rounds=20, warmup=2)
    add_bundle(parser)
    add_engines(parser)
    parser.add_argument(
        "--side-px", type=at_least_one, default=2048, metavar="N", help="side of the image (%(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        pixels = enlarged(_pixels(Bundle.open(args.bundle)), args.side_px)
        with tempfile.TemporaryDirectory() as folder:
            _measure(args, _write(pixels, Path(folder)))
    except (CxrEdgeError, RuntimeError) as error:
        print(f"cold_start: {error}", file=sys.stderr)
        return 3
    return 0


def _pixels(bundle: Bundle) -> GrayPixels:
    answers = bundle.manifest.known_answers
    return decode(bundle.file(answers[0].file)).pixels if answers else speckled(256, np.uint8, seed=0)


def _write(pixels: np.ndarray, folder: Path) -> dict[str, Path]:
    kinds = {"JPEG": (".jpg", jpeg_bytes), "PNG, 16 bit": (".png", png_bytes), "DICOM": (".dcm", dicom_bytes)}
    files = {}
    for kind, (suffix, encode) in kinds.items():
        files[kind] = folder / f"one{suffix}"
        files[kind].write_bytes(encode(pixels))
    return files


def _measure(args: argparse.Namespace, files: dict[str, Path]) -> None:
    commands = {f"cxr-edge screen, {kind}": command.screen(args, file) for kind, file in files.items()}
    commands["python, nothing else"] = [sys.executable, "-c", ""]
    entrants = [_process(name, words) for name, words in commands.items()]
    reason = missing("torch")
    torch = "python, import torch"
    entrants.append(
        Contender(name=torch, run=None, note=reason)
        if reason
        else _process(torch, [sys.executable, "-c", "import torch"])
    )
    found = measure(entrants, rounds=args.rounds, warmup=args.warmup)
    packages = imported_packages(command.screen(args, files["JPEG"])[1:])
    for name in FORBIDDEN:
        if name in packages:
            print(f"cold_start: the command imported {name}", file=sys.stderr)
    publish(
        name="cold_start",
        question="How long does `cxr-edge screen` of one image take, from a cold process to the answer?",
        interval="making of the process to its end, by the parent's clock; files in the page cache",
        settings={"command": "python -c, as the cxr-edge script does", "image": f"{args.side_px}x{args.side_px}",
                  "threads": args.threads, "rounds": args.rounds, "warm-up": args.warmup},
        tables=[
            latency_table("Whole process", found, baseline=COMMAND),
            _steps(args, files["JPEG"]),
            _imports(packages),
        ],
        targets=[
            Target(text=f"seconds, {COMMAND}, p50", wanted=1, at_least=False, measured=found[0].p50_ms / 1e3),
            Target(text="packages of torch imported by it", wanted=0, at_least=False,
                   measured=float("torch" in packages)),
        ],
        notes=(
            "Of the heavy packages " + ", ".join(FORBIDDEN) + " the command on a JPEG imported: "
            + (", ".join(p for p in FORBIDDEN if p in packages) or "none") + ".",
        ),
        out=args.out,
    )  # fmt: skip


def _process(name: str, words: Sequence[str]) -> Contender:
    return Contender(name=name, run=lambda _: command.run(words))


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
    """Milliseconds that `python arguments` spends in importing, by top-level package; the largest first."""
    lines = command.run([sys.executable, "-X", "importtime", *arguments]).stderr.splitlines()
    spent: Counter[str] = Counter()
    for line in lines:
        found = re.fullmatch(r"import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)", line)
        if found:
            spent[found[2].split(".")[0]] += int(found[1])
    if not spent:
        raise RuntimeError("Python printed no import times: expected lines of -X importtime on stderr")
    return {name: us / 1e3 for name, us in spent.most_common()}


def _imports(packages: dict[str, float], most: int = 10) -> Table:
    rows = tuple((name, ms) for name, ms in list(packages.items())[:most])
    return Table(
        title="Imports of the command, by package (one run, timing them slows them)",
        columns=("package", "ms"),
        rows=rows,
    )


if __name__ == "__main__":
    sys.exit(main())
