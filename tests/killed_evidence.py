"""Writers of an evidence log killed at random moments: `python -m tests.killed_evidence --kills 1000 --seed 1`; half a minute.

Each writer is a forked process that appends lines and reports each one whose `append` has returned. It is killed (SIGKILL) after
a random time. After each kill the log must be intact up to its last complete line, and hold every reported line. Every third time
two writers write at once, and every second writer writes each line in two parts, so that kills leave incomplete lines: a write in
one part is hardly ever cut. `make test` has a short form (`tests/evidence/test_kills.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cxr_edge.evidence import writer as writing
from cxr_edge.evidence.lines import Head
from cxr_edge.evidence.verification import VerifiedLine, verify
from cxr_edge.evidence.writer import ChainWriter, WriterSettings

_LONGEST_S = 0.05  # of a writer's life
_KILLS_PER_LOG = 50  # then a new log begins, since each is verified as a whole after every kill
_SETTINGS = WriterSettings(checkpoint_every=7, file_bytes=20_000)
_TEXT = "x" * 1500  # about as long as the line of a screening


@dataclass(frozen=True, kw_only=True)
class _Note:
    kind: ClassVar[str] = "note"

    text: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Key:
    """A key whose signature has the right length, for checkpoints without cryptography."""

    key_id = "a" * 64

    def sign(self, data: bytes) -> bytes:
        return data[:64].ljust(64, b"\0")

    def verify(self, data: bytes, signature: bytes) -> bool:
        return signature == self.sign(data)


@dataclass(kw_only=True)
class Outcome:
    """What became of the logs."""

    kills: int = 0
    logs: int = 0
    reported: int = 0  # lines whose `append` had returned
    written: int = 0  # lines in the logs
    incomplete: int = 0  # kills that left an incomplete line
    head_behind: int = 0  # kills after which head.json was behind the log
    lost: int = 0  # reported lines that a log lacks
    damaged: list[str] = field(default_factory=list)  # problems that a verification found
    seconds: float = 0.0


def disturb(folder: Path, kills: int, seed: int) -> Outcome:
    """Kill writers so many times altogether."""
    rng, outcome, begin = random.Random(seed), Outcome(), time.monotonic()
    while outcome.kills < kills:
        log, outcome.logs = folder / f"log-{outcome.logs}", outcome.logs + 1
        _disturb_log(log, min(_KILLS_PER_LOG, kills - outcome.kills), rng, outcome)
    outcome.seconds = round(time.monotonic() - begin, 1)
    return outcome


def _disturb_log(log: Path, kills: int, rng: random.Random, outcome: Outcome) -> None:
    """Kill writers of one log, then let one end."""
    reported: set[tuple[int, str]] = set()
    left = kills
    while left > 0:
        count = min(left, 2 if rng.random() < 1 / 3 else 1)
        writers = [_start(log, parts=rng.choice((1, 2)), name=f"{left}-{k}") for k in range(count)]
        for process, pipe in writers:
            time.sleep(rng.uniform(0, _LONGEST_S))
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            reported |= _read(pipe)
        left -= count
        outcome.kills += count
        if (log / "head.json").exists():  # else all were killed before there was a log
            _check(log, reported, outcome)
    writer = ChainWriter(log, key=_Key(), settings=_SETTINGS)
    writer.append(_Note(text="end"))
    writer.close()
    outcome.reported += len(reported)
    outcome.written += _check(log, reported, outcome)


def _start(log: Path, *, parts: int, name: str) -> tuple[int, int]:
    """Fork a writer that appends until it is killed. Returns the process and the end of the pipe that it reports to."""
    reading, writing_end = os.pipe()
    process = os.fork()
    if process:
        os.close(writing_end)
        return process, reading
    try:
        if parts == 2:
            writing._append = _append_in_two  # type: ignore[assignment]
        writer, number = ChainWriter(log, key=_Key(), run=_Note(text=f"run {name}"), settings=_SETTINGS), 0
        while True:
            number += 1
            head = writer.append(_Note(text=f"{name} {number} {_TEXT}"))
            os.write(writing_end, f"{head.number} {head.digest}\n".encode())
    finally:
        os._exit(1)


def _append_in_two(file: Any, data: bytes) -> None:
    half = len(data) // 2
    os.write(file.descriptor, data[:half])
    time.sleep(0.0005)
    os.write(file.descriptor, data[half:])


def _read(pipe: int) -> set[tuple[int, str]]:
    """Return the reported lines, without one that was cut."""
    with os.fdopen(pipe, "rb") as file:
        complete = file.read().rpartition(b"\n")[0].decode().splitlines()
    return {(int(number), digest) for number, digest in map(str.split, complete)}


def _check(log: Path, reported: set[tuple[int, str]], outcome: Outcome) -> int:
    """Verify a log. Returns its number of lines."""
    found: set[tuple[int, str]] = set()

    def visit(verified: VerifiedLine) -> None:
        found.add((verified.line.number, verified.digest))

    expected = [Head(log=_log_id(log), number=n, digest=d) for n, d in sorted(reported)[-1:]]
    result = verify(log, expected=expected, visit=visit)
    if result.problem is not None:
        outcome.damaged.append(f"{log.name}: {result.problem.message}")
    outcome.lost += len(reported - found)
    outcome.incomplete += any("is incomplete" in note for note in result.notes)
    outcome.head_behind += any("lines behind" in note for note in result.notes)
    return len(found)


def _log_id(log: Path) -> str:
    return str(json.loads((log / "head.json").read_text())["log"])


def _publish(outcome: Outcome, seed: int, out: Path) -> None:
    from benchmarks.harness.report import Target, publish
    from benchmarks.harness.side_by_side import Table

    rows = (
        ("kills", outcome.kills),
        ("logs", outcome.logs),
        ("lines reported as written before the kills", outcome.reported),
        ("lines in the logs", outcome.written),
        ("kills that left an incomplete last line", outcome.incomplete),
        ("kills that left head.json behind the log", outcome.head_behind),
    )
    publish(
        name="evidence_kills",
        question="Does an evidence log survive writers that are killed at random moments?",
        interval=f"each writer lives for up to {1e3 * _LONGEST_S:g} ms; after each kill the log is verified as a whole",
        settings={"seed": seed, "seconds": outcome.seconds, "kills of a log": _KILLS_PER_LOG},
        tables=[Table(title="Kills (SIGKILL)", columns=("", "number"), rows=rows)],
        targets=[
            Target(text="reported lines that are missing", required=0, measured=outcome.lost, at_least=False),
            Target(text="logs that are not intact", required=0, measured=len(outcome.damaged), at_least=False),
        ],
        notes=(
            "A third of the rounds have two writers at once; half of the writers write each line in two parts, so that kills "
            "leave incomplete lines.",
            "Killed processes, not power cuts: what a disk loses is not measured here.",
        ),
        out=out,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill writers. Returns 0 if no log was damaged and no reported line was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.killed_evidence", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for the logs, kept; default: a temporary one")
    parser.add_argument("--out", type=Path, help="write a report to this JSON file, for benchmarks.harness.page")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as path:
        outcome = disturb(args.folder or Path(path), args.kills, args.seed)
    print(json.dumps(asdict(outcome), indent=1))
    if args.out is not None:
        _publish(outcome, args.seed, args.out)
    return int(bool(outcome.damaged or outcome.lost))


if __name__ == "__main__":
    sys.exit(main())
