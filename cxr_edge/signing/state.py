"""State of a box: the highest counters that it has seen, and the key that signs the engines it builds.

    seen.json   by root key: version of the root, serial of the list of revoked keys, counter of each bundle, returns to
    older ones box.key     private key, made by the first build that signs its engines; only its owner can read it box.pub
    its public key, for programs that only run the engines

Counters replace dates: a box without a clock refuses what is older than what it has seen. A box that has seen nothing, or
whose folder was deleted, accepts the first one that it sees.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cxr_edge.errors import BundleError, InputError, OutputError
from cxr_edge.names import printable
from cxr_edge.signing.files import read_file, refuse_writable_by_others, sync_folder, write_file
from cxr_edge.signing.keys import PrivateKey, PublicKey
from cxr_edge.specs.json_fields import (
    FieldError,
    error_prefix,
    field_names,
    parse,
    read_field,
    read_list,
    require,
    require_integer,
    require_keys,
    require_object,
    require_text,
)

__all__ = ["BoxState", "Return", "Seen", "state_folder"]

SCHEMA = "cxr-edge-seen/1"
SEEN_FILE, KEY_FILE, PUBLIC_FILE, LOCK_FILE = "seen.json", "box.key", "box.pub", ".lock"


def state_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the given folder, else cxr-edge's in XDG_STATE_HOME, else in ~/.local/state. Raises InputError without a home."""
    if given:
        return Path(given)
    try:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise InputError("there is no home folder for the state of this box: give a folder with --state DIR") from None
    return Path(home) / "cxr-edge"


@dataclass(frozen=True, kw_only=True)
class Return:
    """A deliberate return to an older bundle."""

    bundle: str
    from_counter: int
    to_counter: int
    time: str  # UTC, as the machine's clock says, which may be wrong

    @classmethod
    def now(cls, bundle: str, *, from_counter: int, to_counter: int) -> Return:
        """Return the record of a return at this moment."""
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(bundle=bundle, from_counter=from_counter, to_counter=to_counter, time=time)

    @classmethod
    def from_json(cls, value: object) -> Return:
        found = require_keys(value, field_names(cls))
        for key in ("from_counter", "to_counter"):
            require_integer(found[key], key, least=0)
        for key in ("bundle", "time"):
            require_text(found[key], key)
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The highest of everything that was accepted under one root.pub."""

    root_version: int = 1
    root_key: str = ""  # key id of the root of that version; empty: none was seen
    serial: int = 0  # of the list of revoked keys
    counters: Mapping[str, int] = field(default_factory=dict)  # by name of the bundle
    returns: tuple[Return, ...] = ()

    @classmethod
    def from_json(cls, value: object) -> Seen:
        found = require_keys(value, field_names(cls))
        require_integer(found["root_version"], "root_version", least=1)
        require_integer(found["serial"], "serial", least=0)
        require(isinstance(found["root_key"], str), "root_key", "a text", found["root_key"])
        counters = read_field(found, "counters", lambda v: require_object(v, ""))
        for name, counter in counters.items():
            require_integer(counter, f"counters.{name}", least=0)
        return cls(**{**found, "returns": read_list(found, "returns", Return.from_json)})


class BoxState:
    """The folder of a box. Reading it makes nothing; the first write makes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seen(self, anchor: str) -> Seen:
        """Return what was seen under the root.pub with this key id. Raises InputError if the record is damaged."""
        return self._all().get(anchor, Seen())

    def update(self, anchor: str, change: Callable[[Seen], Seen]) -> Seen:
        """Replace what was seen by `change` of it and return that; nothing is written where it is the same.

        What `change` raises is raised, and nothing is written. Of several processes, one after the other is served. Raises
        OutputError if the record cannot be written.
        """
        before = self.seen(anchor)
        if change(before) == before:
            return before
        with self._lock():
            everything = self._all()
            after = change(everything.get(anchor, Seen()))
            self._write({**everything, anchor: after})
        return after

    def box_key(self) -> PrivateKey:
        """Return the key that signs this box's engines; it is made if there is none. Raises InputError or OutputError."""
        with self._lock():
            path = self.folder / KEY_FILE
            if not path.exists():
                self._make_key(path)
            key = PrivateKey.read(path)
            pem = key.public.pem()
            public = self.folder / PUBLIC_FILE
            if not public.is_file() or public.read_bytes() != pem:
                write_file(public, pem)
        return key

    def box_public_key(self) -> PublicKey | None:
        """Return the public key of the box; None if it has signed nothing yet."""
        path = self.folder / PUBLIC_FILE
        if not path.is_file():
            return None
        self._check_folder()
        return PublicKey.read(path)

    def _make_key(self, path: Path) -> None:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            PrivateKey.new().write(beside)
            beside.replace(path)
            sync_folder(self.folder)
        finally:
            beside.unlink(missing_ok=True)

    def _check_folder(self) -> None:
        if self.folder.is_dir():
            refuse_writable_by_others(self.folder)

    def _all(self) -> dict[str, Seen]:
        self._check_folder()
        path = self.folder / SEEN_FILE
        if not path.exists() and not path.is_symlink():
            return {}
        try:
            found = require_keys(parse(read_file(path)), ("schema", "roots"))
            require(found["schema"] == SCHEMA, "schema", SCHEMA, found["schema"])
            with error_prefix("roots"):
                roots = require_object(found["roots"], "")
                return {anchor: read_field(roots, anchor, Seen.from_json) for anchor in roots}
        except FieldError as error:
            reason = f"{error.key or 'the whole file'} {error.message}"
        except BundleError as error:
            reason = str(error)
        raise InputError(
            f"{printable(path)} has the highest counters that this box has seen, and cannot be used ({reason}): find out why; "
            f"delete it to begin again, and the next bundle is accepted whatever its counter"
        )

    def _write(self, everything: Mapping[str, Seen]) -> None:
        document: dict[str, Any] = {"schema": SCHEMA, "roots": {k: asdict(v) for k, v in everything.items()}}
        write_file(self.folder / SEEN_FILE, json.dumps(document, indent=1).encode() + b"\n")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the folder's lock, which the kernel releases with the process; made here if it is the first write."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_folder()
            descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OutputError(
                f"the state of this box cannot be written to {printable(self.folder)} ({error.strerror}): give "
                f"another folder with "
                f"--state DIR, or run this once as the user who may write there"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
