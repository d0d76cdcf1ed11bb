"""Fixed-seed run of the fuzzer; the fuzzer finds every kind of fault and attributes it to the input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Image
from tests.fuzz import worker
from tests.fuzz.__main__ import main
from tests.fuzz.campaign import SHARES, batches_for, batches_of, run
from tests.fuzz.dicom_seeds import dicom_seeds
from tests.fuzz.image_seeds import bmp_seeds, jpeg_seeds, png_parts, png_seeds, tiff_seeds, webp_seeds
from tests.fuzz.mutate import finish, make_source, mutate
from tests.fuzz.worker import Batch, Budget, make_input

ROOT = Path(__file__).parents[2]
INPUTS = 16_000  # `make fuzz` goes on
SEEDS = (*dicom_seeds(), *tiff_seeds(), *png_seeds(), *jpeg_seeds(), *webp_seeds(), *bmp_seeds())
SOURCES = {name: tuple(make_source(seed) for seed in SEEDS if seed.format == name) for name in SHARES}


def test_every_mutated_file_gives_an_image_or_an_input_error() -> None:
    """In a process of its own: forking this one, with its threads, could hang."""
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(INPUTS), "--jobs", str(len(os.sched_getaffinity(0)))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:-1]}
    assert set(rows) == set(SHARES)
    for name, row in rows.items():
        inputs, images = int(row[1]), int(row[2])
        assert images > 0.08 * inputs, f"{name}: almost no mutated file decodes, only header parsers are tested"


@pytest.mark.parametrize("name", SHARES)
def test_most_seeds_decode(name) -> None:
    """Unsupported layouts are seeds too, for the header parsers."""
    seeds = [seed for seed in SEEDS if seed.format == name]
    decoded = [seed.name for seed in seeds if _decodes(_seed_file(seed))]
    assert len(decoded) >= 0.7 * len(seeds), f"only {decoded} of {len(seeds)} {name} seeds decode"


def _seed_file(seed) -> bytes:
    return finish(seed, seed.data, Random(0))


def _decodes(data: bytes) -> bool:
    try:
        decode_bytes(data, source="x")
    except InputError:
        return False
    return True


def test_the_same_seed_gives_the_same_inputs_and_another_seed_others() -> None:
    def inputs(seed: int) -> list[bytes]:
        batch = Batch(seed=seed, format="tiff", start=0, stop=0)
        return [make_input(SOURCES["tiff"], batch, index) for index in range(50)]

    assert inputs(0) == inputs(0)
    assert len(set(inputs(0)) & set(inputs(1))) <= 2


def test_checksums_of_png_files_are_recomputed() -> None:
    source = next(source for source in SOURCES["png"] if source.seed.name == "gray 8, inflated")
    rejections = Counter(_rejection(mutate(source, SOURCES["png"], Random(i))) for i in range(200))
    assert sum(count for reason, count in rejections.items() if "checksum" in reason) < 20


def _rejection(data: bytes) -> str:
    try:
        decode_bytes(data, source="x")
    except InputError as error:
        return str(error)
    return ""


def test_png_parts_end_where_a_length_exceeds_the_file() -> None:
    data = SOURCES["png"][0].seed.data
    assert [kind for kind, _ in png_parts(data)] == [b"IHDR", b"IDAT", b"IEND"]
    assert [kind for kind, _ in png_parts(data[:-1])] == [b"IHDR", b"IDAT"]


def test_batches_divide_the_inputs_or_end_with_the_time() -> None:
    batches = list(batches_of(6300, seed=3, formats=tuple(SHARES)))
    inputs = Counter[str]()
    for batch in batches:
        inputs[batch.format] += batch.stop - batch.start
    assert inputs == {name: 300 * share for name, share in SHARES.items()}
    assert list(batches_for(0, seed=0, formats=("bmp",))) == []


# The expected finding of each input index; `_faulty_decoder` causes the fault.
FAULTS = {
    3: "ended by SIGABRT in test_fuzz.py",
    5: "over 1 s of processor time in test_fuzz.py",
    7: "memory above 128 MB",
    9: "KeyError in test_fuzz.py",
    11: "a message without the file's name",
    13: "a message with control characters",
    15: "an image of uint8 outside the limits",
    17: "SystemExit in test_fuzz.py",
}


def _faulty_decoder(data: bytes, *, source: str, limits: Limits) -> Image:
    index = int.from_bytes(data, "big")
    if index == 3:
        os.abort()
    while index == 5:
        pass
    if index == 7:
        bytearray(os.urandom(1)) * (200 << 20)
    if index == 9:
        raise KeyError(index)
    if index == 11:
        raise InputError("no name")
    if index == 13:
        raise InputError(f"{source}: \x1b[2J")
    if index == 17:
        raise SystemExit(0)
    side = 20 if index == 15 else 64
    return Image(pixels=np.zeros((64, side), np.uint8), source=source, format="bmp", stored_bits=8, sha256="")


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_kind_of_fault_is_found_and_attributed(monkeypatch, jobs) -> None:
    monkeypatch.setattr(worker, "decode_bytes", _faulty_decoder)
    monkeypatch.setattr(Budget, "wall_seconds", 600)  # a loaded machine may need many for one of processor time
    monkeypatch.setattr(worker, "make_input", lambda sources, batch, index: index.to_bytes(4, "big"))
    batches = iter([Batch(seed=0, format="bmp", start=0, stop=10), Batch(seed=0, format="bmp", start=10, stop=30)])
    report = run(batches, SOURCES, Budget(seconds=1), jobs=jobs)
    found = {finding.index: finding.kind for finding in report.findings}
    assert found.keys() == FAULTS.keys()
    for index, words in FAULTS.items():
        assert found[index].startswith(words), found[index]
    assert report.tallies["bmp"].inputs == 30


def test_a_finding_is_printed_and_saved_and_can_be_written_again(monkeypatch, tmp_path, capsysbinary) -> None:
    def broken(data: bytes, **_) -> Image:
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "decode_bytes", broken)
    assert main(["--inputs", "4", "--format", "webp", "--seed", "5", "--keep", str(tmp_path)]) == 1
    out = capsysbinary.readouterr().out.decode()
    assert "4 inputs, 4 findings of 1 kinds" in out
    assert "4 x webp: ZeroDivisionError in test_fuzz.py" in out
    assert "(--seed 5 --index 0, 1, 2)" in out
    saved = sorted(tmp_path.iterdir())
    assert len(saved) == 3
    assert main(["--format", "webp", "--seed", "5", "--index", "1"]) == 0
    assert capsysbinary.readouterr().out == saved[1].read_bytes()
