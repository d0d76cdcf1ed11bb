"""Records that the log writes about itself: where files begin, checkpoints, what was recovered, what was pruned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from cxr_edge.evidence.lines import LOG_ID, SCHEMA, require_digest
from cxr_edge.specs.json_fields import (
    error_prefix,
    field_names,
    read_list,
    require,
    require_integer,
    require_keys,
)

__all__ = ["Checkpoint", "FileBegin", "Pruned", "PrunedFile", "Recovered", "checkpoint_message"]


@dataclass(frozen=True, kw_only=True)
class FileBegin:
    """First line of every file."""

    kind: ClassVar[str] = "file"

    log: str  # id of the log, random
    file: int  # number of the file, as in its name
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        require(self.schema == SCHEMA, "schema", SCHEMA, self.schema)
        require(isinstance(self.log, str) and bool(LOG_ID.fullmatch(self.log)), "log", "the id of a log", self.log)
        require_integer(self.file, "file", least=1)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> FileBegin:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A signature over the digest of the line before it, and with it over all lines before."""

    kind: ClassVar[str] = "checkpoint"

    key_id: str  # SHA-256 of the public key
    signature: str  # Ed25519, of `checkpoint_message`, hexadecimal

    def __post_init__(self) -> None:
        require_digest(self.key_id, "key_id")
        valid = isinstance(self.signature, str) and len(self.signature) == 128 and _is_hexadecimal(self.signature)
        require(valid, "signature", "64 bytes in hexadecimal", self.signature)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Checkpoint:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """State of the log when it was opened, where it was not as its last writer had left it."""

    kind: ClassVar[str] = "recovered"

    # An incomplete last line, of a writer that was killed: its bytes, which were moved to the file `aside`.
    cut_bytes: int = 0
    cut_sha256: str | None = None
    aside: str | None = None
    # The line that head.json names, where the log has no such line: lines were removed or changed while nobody wrote.
    expected_number: int | None = None
    expected_digest: str | None = None

    def __post_init__(self) -> None:
        require_integer(self.cut_bytes, "cut_bytes", least=0)
        if self.cut_sha256 is not None:
            require_digest(self.cut_sha256, "cut_sha256")
        if self.expected_number is not None:
            require_integer(self.expected_number, "expected_number", least=0)
            require_digest(self.expected_digest, "expected_digest")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Recovered:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True)
class PrunedFile:
    """A deleted file, by its last line."""

    file: int
    number: int
    digest: str

    def __post_init__(self) -> None:
        require_integer(self.file, "file", least=1)
        require_integer(self.number, "number", least=1)
        require_digest(self.digest, "digest")

    @classmethod
    def from_json(cls, value: object) -> PrunedFile:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Files that were deleted because they are older than the time for which they are kept; written before they are deleted."""

    kind: ClassVar[str] = "pruned"

    keep_days: int
    newest: str  # latest time in the deleted files
    files: tuple[PrunedFile, ...]

    def __post_init__(self) -> None:
        require_integer(self.keep_days, "keep_days", least=1)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "files": [asdict(file) for file in self.files]}

    @classmethod
    def from_json(cls, value: object) -> Pruned:
        found = require_keys(value, field_names(cls))
        with error_prefix("record"):
            return cls(**{**found, "files": read_list(found, "files", PrunedFile.from_json)})


def checkpoint_message(log: str, number: int, digest: str) -> bytes:
    """Return what a checkpoint signs: the log, and number and digest of the line before the checkpoint."""
    return f"cxr-edge-evidence-checkpoint/1\n{log}\n{number}\n{digest}\n".encode("ascii")


def _is_hexadecimal(text: str) -> bool:
    return all(c in "0123456789abcdef" for c in text)
