"""Format of the evidence log: a record in, one line of JSON out, and back; the digest that chains a line to those before it.

The digest of a line is the SHA-256 of the digest of the line before it and the SHA-256 of its own bytes. So a line that was
changed, removed or moved changes every digest after it, and a proof may give the SHA-256 of a line in place of the line.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar, Protocol

from cxr_edge.errors import InputError
from cxr_edge.specs.json_fields import (
    field_names,
    parse,
    require,
    require_integer,
    require_keys,
    require_object,
    require_text,
)

__all__ = [
    "BEFORE_FIRST",
    "LOG_ID",
    "SCHEMA",
    "SHA256",
    "Head",
    "Line",
    "Record",
    "content_digest",
    "link",
    "require_digest",
    "utc_text",
]

SCHEMA = "cxr-edge-evidence/1"
BEFORE_FIRST = "0" * 64  # the digest before the first line of a log

SHA256 = re.compile("[0-9a-f]{64}")
LOG_ID = re.compile("[0-9a-f]{32}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_HEAD = re.compile(rf"({LOG_ID.pattern}):([0-9]{{1,18}}):({SHA256.pattern})")


class Record(Protocol):
    """Content of a line."""

    kind: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        ...


@dataclass(frozen=True, kw_only=True)
class Head:
    """A line of a log, by number and digest: whoever keeps it elsewhere can show that the log up to it is unchanged."""

    log: str  # id of the log
    number: int  # 0: before the first line
    digest: str

    def __str__(self) -> str:
        return f"{self.log}:{self.number}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read the text form. Raises InputError for any other text."""
        match = _HEAD.fullmatch(text.strip())
        if match is None:
            raise InputError(
                "expected a head as `cxr-edge audit show DIR --head` prints it (LOG:NUMBER:DIGEST), got another text"
            )
        return cls(log=match[1], number=int(match[2]), digest=match[3])


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line. Raises FieldError for values that no line has."""

    number: int  # from 1, without gaps
    previous: str  # digest of the line before it
    time: str  # UTC by the machine's clock, which may be wrong: the order of events is that of the numbers
    kind: str
    run: int | None  # number of the line with the run that it belongs to; None for the log's own lines
    record: Mapping[str, Any]

    def __post_init__(self) -> None:
        require_integer(self.number, "number", least=1)
        require_digest(self.previous, "previous")
        require(isinstance(self.time, str) and bool(_TIME.fullmatch(self.time)), "time", "a time in UTC", self.time)
        require_text(self.kind, "kind", longest=40)
        if self.run is not None:
            require_integer(self.run, "run", least=1)
        require_object(self.record, "record")

    def encode(self) -> bytes:
        """Return its bytes, ASCII, without the newline."""
        values = {name: getattr(self, name) for name in field_names(Line)}
        return json.dumps(values, separators=(",", ":"), allow_nan=False).encode("ascii")

    @classmethod
    def decode(cls, content: bytes) -> Line:
        """Read the bytes of a line. Raises FieldError for anything else."""
        return cls(**require_keys(parse(content), field_names(cls)))


def content_digest(content: bytes) -> str:
    """Return the SHA-256 of a line's bytes without the newline, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def link(previous: str, content: str) -> str:
    """Return the digest of a line, of the digest before it and the SHA-256 of its bytes; all hexadecimal."""
    return hashlib.sha256(f"{previous}\n{content}".encode("ascii")).hexdigest()


def utc_text(time: datetime) -> str:
    """Return the time in UTC as lines have it, with milliseconds."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def require_digest(value: object, key: str) -> None:
    """Require a SHA-256 in hexadecimal."""
    require(isinstance(value, str) and bool(SHA256.fullmatch(value)), key, "a SHA-256 in hexadecimal", value)
