"""A small log of notes, with signed checkpoints, in several files; and a record that needs no screening."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cxr_edge.evidence.folder import file_name, file_numbers
from cxr_edge.evidence.verification import Verification, verify
from cxr_edge.evidence.writer import ChainWriter, WriterSettings


@dataclass(frozen=True, kw_only=True)
class Note:
    kind: ClassVar[str] = "note"

    text: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class StandInKey:
    """A key whose signature is a hash: for tests of the log that need no cryptography."""

    def __init__(self, name: str = "a") -> None:
        self.key_id = name * 64

    def sign(self, data: bytes) -> bytes:
        import hashlib

        return hashlib.sha512(self.key_id.encode() + data).digest()

    def verify(self, data: bytes, signature: bytes) -> bool:
        return signature == self.sign(data)


KEY = StandInKey()
SETTINGS = WriterSettings(checkpoint_every=5, file_bytes=2500, sync_every=100)  # the disk takes most of the time


def write(
    folder: Path, count: int, *, key: StandInKey | None = KEY, settings: WriterSettings = SETTINGS
) -> ChainWriter:
    """Write so many notes and close the writer."""
    writer = ChainWriter(folder, key=key, run=Note(text="run"), settings=settings)
    for k in range(count):
        writer.append(Note(text=f"note {k}"))
    writer.close()
    return writer


def lines(folder: Path) -> list[bytes]:
    """Return all lines of a log."""
    return [line for n in file_numbers(folder) for line in (folder / file_name(n)).read_bytes().splitlines()]


def checked(folder: Path, **options: Any) -> Verification:
    return verify(folder, keys=[KEY], **options)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of three files with 30 notes; its last line is a checkpoint."""
    folder = tmp_path / "log"
    write(folder, 30)
    assert len(file_numbers(folder)) >= 3
    assert checked(folder).intact
    return folder
