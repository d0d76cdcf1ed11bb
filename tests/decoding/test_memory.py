"""Peak memory and processor time of decoding hostile files, each in a fresh process, against stated bounds.

`python -m tests.decoding.test_memory [FILE ...]` prints the table for the files that the tests make, or for given ones.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.decoding.bombs import deflated_zeros
from tests.decoding.hostile_dicom import DICOM
from tests.decoding.hostile_files import IMAGES, Kind, png

ROOT = Path(__file__).parents[2]
KINDS = {kind.name: kind for kind in (*IMAGES, *DICOM)}
_ADDRESS_SPACE = 6 << 30  # a failing decoder must not take the machine with it
_PROCESSOR_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One file decoded in one process."""

    name: str
    file_mb: float
    memory_mb: float
    seconds: float
    decoded: bool
    detail: str  # size and flags of the image, the error message, or the exit status of the process


# The measuring side: a process without threads that forks one child per file. -------------------------------------------


def measure(kind: Kind) -> Measurement:
    """Build a file in one child, decode it in another."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, kind.name.replace(" ", "_"))
        if (pid := os.fork()) == 0:
            path.write_bytes(kind.build())
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0, f"{kind.name} cannot be built"
        return measure_file(path, name=kind.name)


def measure_file(path: Path, *, name: str) -> Measurement:
    """Decode in a forked child; its peak includes the libraries that are already loaded."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(write, json.dumps(_decode(path)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    decoded, detail, memory = json.loads(text) if text else (False, f"the process ended with {status}", 0)
    return Measurement(
        name=name,
        file_mb=path.stat().st_size / 1e6,
        memory_mb=memory,
        seconds=usage.ru_utime + usage.ru_stime,
        decoded=decoded,
        detail=detail,
    )


def _decode(path: Path) -> tuple[bool, str, float]:
    from cxr_edge.decoding.decode import decode
    from cxr_edge.errors import InputError

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _limit(resource.RLIMIT_AS, _ADDRESS_SPACE)
    _limit(resource.RLIMIT_CPU, _PROCESSOR_SECONDS)
    try:
        image = decode(path)
        decoded, detail = (
            True,
            f"{image.width_px}x{image.height_px}, {', '.join(f.code for f in image.flags) or 'no flag'}",
        )
    except InputError as error:
        decoded, detail = False, str(error).removeprefix(f"{path}: ")
    except BaseException as error:
        decoded, detail = False, f"EXCEPTION {type(error).__name__}: {error}"
    return decoded, detail, _peak_mb()


def _limit(kind: int, value: int) -> None:
    """Set a limit of this process, unless the shell has set a lower one (ulimit)."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _peak_mb() -> float:
    """Return VmHWM: unlike ru_maxrss it does not include the process before `exec`."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 / 1e6 for line in file if line.startswith("VmHWM"))


def _import_decoders() -> None:
    """Import the decoders and the builders of files once, for all children."""
    from cxr_edge.decoding.decode import decode_bytes
    from cxr_edge.decoding.formats import FORMATS
    from cxr_edge.errors import InputError
    from tests.fuzz.dicom_seeds import dicom_seeds
    from tests.fuzz.image_seeds import tiff_seeds

    assert all(callable(row.decode) for row in FORMATS)  # imports the module of each
    for seed in (next(dicom_seeds()), next(tiff_seeds())):
        try:
            decode_bytes(seed.data, source="x")
        except InputError:
            continue
    deflated_zeros(0)  # caches its piece for all children


def main(arguments: list[str]) -> None:
    """Measure the named kinds or files, all kinds by default; print JSON lines for `--json`, else a table."""
    as_json = arguments[:1] == ["--json"]
    _import_decoders()
    started = time.monotonic()
    if not as_json:
        print("| file | MB | peak MB | s | |\n|---|---|---|---|---|")
    for name in arguments[as_json:] or KINDS:
        m = measure(KINDS[name]) if name in KINDS else measure_file(Path(name), name=Path(name).name)
        detail = f"decoded: {m.detail}" if m.decoded else m.detail
        row = f"| {m.name} | {m.file_mb:.2f} | {m.memory_mb:.0f} | {m.seconds:.1f} | {detail} |"
        print(json.dumps(asdict(m)) if as_json else row, flush=True)
    if not as_json:
        print(f"\n{time.monotonic() - started:.0f} s in all")


# The tests ----------------------------------------------------------------------------------------------------------------


def _measure_in_parallel(*shares: list[str]) -> dict[str, Measurement]:
    """Measure each share of kinds or files in a separate process, in parallel."""
    command = [sys.executable, "-m", "tests.decoding.test_memory", "--json"]
    running = [subprocess.Popen([*command, *share], cwd=ROOT, stdout=subprocess.PIPE, text=True) for share in shares]
    lines = [line for process in running for line in process.communicate(timeout=1200)[0].splitlines()]
    assert not any(process.returncode for process in running)
    rows = [Measurement(**json.loads(line)) for line in lines]
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def measurements() -> dict[str, Measurement]:
    jobs = min(4, len(os.sched_getaffinity(0)))
    return _measure_in_parallel(*(list(KINDS)[start::jobs] for start in range(jobs)))


@pytest.mark.parametrize("name", KINDS)
def test_memory_and_time_stay_within_bounds(name, measurements) -> None:
    kind, m = KINDS[name], measurements[name]
    assert m.memory_mb > 30, m.detail  # the process ended normally and was measured
    assert "EXCEPTION" not in m.detail, m.detail
    assert m.memory_mb <= kind.bound.memory_mb, f"{m.memory_mb:.0f} MB, {m.detail}"
    assert m.seconds <= kind.bound.seconds, f"{m.seconds:.1f} s, {m.detail}"
    assert kind.decoded is None or m.decoded == kind.decoded, m.detail


def test_the_measurement_sees_memory_and_time(tmp_path) -> None:
    """An image of 64 million 16-bit pixels takes at least its own 128 MB."""
    for name, side in (("big.png", 8000), ("small.png", 100)):
        (tmp_path / name).write_bytes(
            png(side, side, 16, 0, deflated_zeros((2 * side + 1) * side, start=bytes(range(100))))
        )
    rows = _measure_in_parallel([str(tmp_path / "big.png"), str(tmp_path / "small.png")])
    assert rows["big.png"].memory_mb > rows["small.png"].memory_mb + 120
    assert rows["big.png"].seconds > rows["small.png"].seconds


def test_a_process_that_ends_early_is_not_a_measurement(tmp_path, monkeypatch) -> None:
    """Its memory would be read as 0 and pass every bound."""
    monkeypatch.setattr("tests.decoding.test_memory._decode", lambda path: os.kill(os.getpid(), signal.SIGKILL))
    (tmp_path / "x.png").write_bytes(b"x")
    m = measure_file(tmp_path / "x.png", name="x")
    assert (m.decoded, m.detail, m.memory_mb) == (False, "the process ended with 9", 0)


if __name__ == "__main__":
    main(sys.argv[1:])
