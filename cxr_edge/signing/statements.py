"""Statements that are signed: in-toto Statements, version 1, about files and keys by their SHA-256.

Specification: github.com/in-toto/attestation, spec/v1/statement.md. Each kind is a dataclass with a predicate type;
`payload` gives the bytes that an envelope holds, `read` takes them back, strictly. Raises FieldError with the path of an
invalid key.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from cxr_edge.signing.keys import PublicKey
from cxr_edge.specs.json_fields import (
    FieldError,
    field_names,
    parse,
    read_field,
    read_list,
    require,
    require_integer,
    require_keys,
    require_text,
)

__all__ = ["BundleRelease", "EngineBuild", "ReleaseKey", "RevokedKeys", "RootKey", "Statement"]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 200

Kind = TypeVar("Kind", bound="Statement")


class Statement(ABC):
    """A statement, whose predicate is about the files or keys with these digests, its subjects."""

    PREDICATE_TYPE: ClassVar[str]

    @property
    @abstractmethod
    def subjects(self) -> Mapping[str, str]:
        """SHA-256 by name."""

    @abstractmethod
    def predicate(self) -> dict[str, Any]:
        """Return the JSON object of the predicate."""

    @classmethod
    @abstractmethod
    def from_parts(cls: type[Kind], subjects: dict[str, str], predicate: object) -> Kind:
        """Return the statement of validated subjects and a predicate. Raises FieldError."""

    def payload(self) -> bytes:
        """Return the bytes to sign."""
        subjects = [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in self.subjects.items()]
        statement = {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": self.PREDICATE_TYPE,
            "predicate": self.predicate(),
        }
        return json.dumps(statement, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def read(cls: type[Kind], payload: bytes) -> Kind:
        """Read the bytes that `payload` returned. Raises FieldError for anything else, also for a statement of another kind."""
        found = require_keys(parse(payload), ("_type", "subject", "predicateType", "predicate"))
        require(found["_type"] == STATEMENT_TYPE, "_type", STATEMENT_TYPE, found["_type"])
        kind = found["predicateType"]
        require(kind == cls.PREDICATE_TYPE, "predicateType", cls.PREDICATE_TYPE, kind)
        pairs = read_list(found, "subject", _subject)
        subjects = dict(pairs)
        require(len(subjects) == len(pairs), "subject", "a list of different names", len(pairs))
        return read_field(found, "predicate", lambda value: cls.from_parts(subjects, value))


@dataclass(frozen=True, kw_only=True)
class BundleRelease(Statement):
    """These files are the bundle of this name, version and counter."""

    PREDICATE_TYPE: ClassVar[str] = "cxr-edge:bundle-release/1"

    name: str
    version: str
    counter: int
    files: Mapping[str, str]  # SHA-256 by path in the bundle, manifest.json among them

    @property
    def subjects(self) -> Mapping[str, str]:
        return self.files

    def predicate(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "counter": self.counter}

    @classmethod
    def from_parts(cls, subjects: dict[str, str], predicate: object) -> BundleRelease:
        found = require_keys(predicate, ("name", "version", "counter"))
        for key in ("name", "version"):
            require_text(found[key], key, longest=_LONGEST_NAME)
        require_integer(found["counter"], "counter", least=0)
        return cls(files=subjects, **found)


@dataclass(frozen=True, kw_only=True)
class ReleaseKey(Statement):
    """This key may sign bundles whose counters are from one number to another."""

    PREDICATE_TYPE: ClassVar[str] = "cxr-edge:release-key/1"

    key: PublicKey
    name: str  # of its owner, for people
    from_counter: int = 0
    to_counter: int | None = None  # included; None: without an end

    @property
    def subjects(self) -> Mapping[str, str]:
        return {"key": self.key.key_id}

    def predicate(self) -> dict[str, Any]:
        return {
            "key": self.key.raw.hex(),
            "name": self.name,
            "from_counter": self.from_counter,
            "to_counter": self.to_counter,
        }

    def allows(self, counter: int) -> bool:
        """Return whether the key may sign a bundle of that counter."""
        return self.from_counter <= counter and (self.to_counter is None or counter <= self.to_counter)

    def counters(self) -> str:
        """Return the counters in words."""
        return (
            f"from {self.from_counter} on" if self.to_counter is None else f"{self.from_counter} to {self.to_counter}"
        )

    def __post_init__(self) -> None:
        require_text(self.name, "name", longest=_LONGEST_NAME)
        require_integer(self.from_counter, "from_counter", least=0)
        if self.to_counter is not None:
            require_integer(self.to_counter, "to_counter", least=self.from_counter)

    @classmethod
    def from_parts(cls, subjects: dict[str, str], predicate: object) -> ReleaseKey:
        found = require_keys(predicate, field_names(cls))
        made = cls(**{**found, "key": read_field(found, "key", _public_key)})
        return _of_subjects(made, subjects)


@dataclass(frozen=True, kw_only=True)
class RevokedKeys(Statement):
    """These keys sign nothing any more."""

    PREDICATE_TYPE: ClassVar[str] = "cxr-edge:revoked-keys/1"

    serial: int  # grows with every list
    keys: tuple[str, ...]  # key ids

    @property
    def subjects(self) -> Mapping[str, str]:
        return {f"key-{i}": key_id for i, key_id in enumerate(self.keys)}

    def predicate(self) -> dict[str, Any]:
        return {"serial": self.serial}

    @classmethod
    def from_parts(cls, subjects: dict[str, str], predicate: object) -> RevokedKeys:
        found = require_keys(predicate, ("serial",))
        require_integer(found["serial"], "serial", least=1)
        return cls(serial=found["serial"], keys=tuple(subjects.values()))


@dataclass(frozen=True, kw_only=True)
class RootKey(Statement):
    """This key is the root from now on. Signed by the root before it and by itself."""

    PREDICATE_TYPE: ClassVar[str] = "cxr-edge:root-key/1"

    version: int  # 2 of the first statement: root.pub is version 1
    key: PublicKey

    @property
    def subjects(self) -> Mapping[str, str]:
        return {"key": self.key.key_id}

    def predicate(self) -> dict[str, Any]:
        return {"version": self.version, "key": self.key.raw.hex()}

    @classmethod
    def from_parts(cls, subjects: dict[str, str], predicate: object) -> RootKey:
        found = require_keys(predicate, field_names(cls))
        require_integer(found["version"], "version", least=2)
        return _of_subjects(cls(version=found["version"], key=read_field(found, "key", _public_key)), subjects)


@dataclass(frozen=True, kw_only=True)
class EngineBuild(Statement):
    """These files are engines that this box built from a bundle with this digest."""

    PREDICATE_TYPE: ClassVar[str] = "cxr-edge:engine-build/1"

    bundle_sha256: str
    backend: str
    files: Mapping[str, str]  # SHA-256 by name in the backend's folder

    @property
    def subjects(self) -> Mapping[str, str]:
        return self.files

    def predicate(self) -> dict[str, Any]:
        return {"bundle_sha256": self.bundle_sha256, "backend": self.backend}

    @classmethod
    def from_parts(cls, subjects: dict[str, str], predicate: object) -> EngineBuild:
        found = require_keys(predicate, ("bundle_sha256", "backend"))
        require_text(found["backend"], "backend", longest=_LONGEST_NAME)
        bundle = read_field(found, "bundle_sha256", _digest)
        return cls(bundle_sha256=bundle, backend=found["backend"], files=subjects)


def _of_subjects(made: Kind, subjects: dict[str, str]) -> Kind:
    """Return the statement if its subjects are those that were read beside it."""
    if dict(made.subjects) != subjects:
        raise FieldError("", "must be about the keys that are the statement's subjects")
    return made


def _subject(value: object) -> tuple[str, str]:
    found = require_keys(value, ("name", "digest"))
    require_text(found["name"], "name", longest=_LONGEST_NAME)
    return found["name"], read_field(found, "digest", _sha256)


def _sha256(value: object) -> str:
    return read_field(require_keys(value, ("sha256",)), "sha256", _digest)


def _digest(value: object) -> str:
    valid = isinstance(value, str) and _SHA256.fullmatch(value) is not None
    require(valid, "", "64 lower-case hexadecimal digits", value)
    return str(value)


def _public_key(value: object) -> PublicKey:
    return PublicKey(raw=bytes.fromhex(_digest(value)))  # whose length is that of a SHA-256
