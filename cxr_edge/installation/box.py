"""Box: the folder with the installed versions of a bundle, one of which is in use.

    BOX/box.json                           marks the folder as a box: in no other folder is anything removed
    BOX/current -> versions/ID/bundle      the version in use; `--bundle BOX` and `--bundle BOX/current` screen with it
    BOX/versions/ID/bundle/                a bundle with its engines in `engines/`; never changed once it is complete
    BOX/versions/ID/installed.json         written last: without it the folder is the rest of an installation that ended early
    BOX/journal.jsonl                      what happened when

The link is the only thing that says which version is in use, and it is replaced in one step: after a power cut there is the old
version or the new one. Which version is the one before is in `installed.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_edge.bundle.folder import BOX_MARK, CURRENT
from cxr_edge.errors import BundleError, InputError
from cxr_edge.installation import durable, journal
from cxr_edge.installation.journal import Event
from cxr_edge.names import printable, shorten_name
from cxr_edge.specs.json_fields import FieldError, field_names, parse, require, require_keys, require_text

__all__ = ["Box", "Installed"]

_SCHEMA = "cxr-edge-installed/1"
_BOX_SCHEMA = "cxr-edge-box/1"
_RECORD = "installed.json"
_BUNDLE = "bundle"
_LINK = re.compile(r"versions/([^/]+)/bundle")
_MAX_NAME = 120  # bytes of a version's folder


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Record of an installed version."""

    folder: str  # its name in `versions`
    name: str
    version: str
    digest: str  # of the bundle
    engines: str  # backend and precisions
    previous: str | None  # folder of the version that was in use when it was installed
    installed: str  # UTC, ISO 8601
    cxr_edge: str  # version that installed it
    compared: str | None = None  # with the version before, in words; None if it was not

    def __post_init__(self) -> None:
        for name in ("folder", "name", "version", "digest", "engines", "installed", "cxr_edge"):
            require_text(getattr(self, name), name)
        for name in ("previous", "compared"):
            if getattr(self, name) is not None:
                require_text(getattr(self, name), name)

    def __str__(self) -> str:
        return f"{printable(self.name)} {printable(self.version)} ({self.digest[:12]})"

    @classmethod
    def from_json(cls, value: object) -> Installed:
        found = require_keys(value, ["schema", *field_names(cls)])
        require(found.pop("schema") == _SCHEMA, "schema", _SCHEMA, value)
        return cls(**found)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Box:
    """The folder of the installed versions."""

    root: Path  # absolute

    @classmethod
    def at(cls, path: Path, *, create: bool = False) -> Box:
        """Return the box `path`; create: make one of a new or empty folder. Raises InputError if it is none."""
        root = path.absolute()
        if (root / BOX_MARK).is_file():
            return cls(root=root)
        if not create:
            raise InputError(f"{printable(path)} is no folder that cxr-edge install made: give the one of --into")
        if root.exists() and (not root.is_dir() or any(not _is_unfinished(p) for p in root.iterdir())):
            raise InputError(
                f"{printable(path)} holds other files: give --into a new or empty folder, or one that cxr-edge install made"
            )
        if not root.parent.is_dir():
            raise InputError(
                f"there is no folder {printable(root.parent)} to make {printable(root.name)} in: make it first"
            )
        return cls(root=root)

    @property
    def versions_dir(self) -> Path:
        return self.root / "versions"

    @property
    def link(self) -> Path:
        """The link to the bundle in use."""
        return self.root / CURRENT

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    def bundle_of(self, folder: str) -> Path:
        """Return the bundle of a version; its engines are in `engines` inside it."""
        return self.versions_dir / folder / _BUNDLE

    def current(self) -> str | None:
        """Return the folder of the version in use, None if there is none. Raises BundleError for a link to something else."""
        if not self.link.is_symlink():
            if self.link.exists():
                raise BundleError(f"{printable(self.link)} is no link to a version: move it away, and install again")
            return None
        found = _LINK.fullmatch(os.readlink(self.link))
        if found is None:
            raise BundleError(
                f"{printable(self.link)} leads to {printable(os.readlink(self.link))}, which is no version of this box: "
                "remove the link, and install again"
            )
        return found[1]

    def record(self, folder: str) -> Installed | None:
        """Return the record of a version; None if it is not complete."""
        try:
            return Installed.from_json(parse((self.versions_dir / folder / _RECORD).read_bytes()))
        except (OSError, FieldError):
            return None

    def installed(self) -> tuple[Installed, ...]:
        """Return the complete versions, the oldest first."""
        names = (p.name for p in self.versions_dir.iterdir()) if self.versions_dir.is_dir() else ()
        found = [record for name in names if (record := self.record(name)) is not None]
        return tuple(sorted(found, key=lambda r: (r.installed, r.folder)))

    def previous(self) -> Installed | None:
        """Return the version that a rollback goes to; None if there is none."""
        current = self.current()
        record = None if current is None else self.record(current)
        return None if record is None or record.previous is None else self.record(record.previous)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folders, keep other installations out of the box, and remove what such as ended early have left.

        The lock is the kernel's and ends with the process. Raises InputError if another installation is in progress.
        """
        self.root.mkdir(exist_ok=True)
        if not (self.root / BOX_MARK).is_file():
            durable.sync_folder(self.root.parent)
            durable.write_file(self.root / BOX_MARK, json.dumps({"schema": _BOX_SCHEMA}) + "\n")
        self.versions_dir.mkdir(exist_ok=True)
        descriptor = os.open(self.versions_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(descriptor, self.root)
            self._clear()
            yield
        finally:
            os.close(descriptor)

    def new_folder(self, *, name: str, version: str, digest: str) -> str:
        """Return the name of the folder for a version: name, version and digest, and a number if there is one already."""
        plain = re.sub(r"[^A-Za-z0-9._+-]", "_", f"{name}-{version}").lstrip(".") or "bundle"
        stem = shorten_name(plain, _MAX_NAME, suffix=f"-{digest[:12]}")
        numbered = (stem if n == 1 else f"{stem}.{n}" for n in range(1, 10**6))
        return next(folder for folder in numbered if not (self.versions_dir / folder).exists())

    def complete(self, record: Installed) -> None:
        """Mark a version as complete, after all of it is on the disk."""
        folder = self.versions_dir / record.folder
        durable.sync_tree(folder)
        durable.write_file(folder / _RECORD, json.dumps({"schema": _SCHEMA, **record.as_json()}, indent=1) + "\n")

    def switch(self, folder: str | None) -> None:
        """Use this version from now on, None for no version: one step, whatever happens."""
        if folder is None:
            durable.remove_link(self.link)
        else:
            durable.link(self.link, f"versions/{folder}/{_BUNDLE}")

    def discard(self, folder: str) -> None:
        """Remove a version that is not in use."""
        if (self.versions_dir / folder).is_dir():
            durable.remove_tree(self.versions_dir / folder)

    def keep(self, count: int) -> tuple[str, ...]:
        """Remove all versions but the one in use and those before it, `count` in all. Returns the removed folders."""
        kept: list[str] = []
        record = None if (current := self.current()) is None else self.record(current)
        if record is None:
            return ()
        while record is not None and record.folder not in kept and len(kept) < count:
            kept.append(record.folder)
            record = None if record.previous is None else self.record(record.previous)
        removed = [r.folder for r in self.installed() if r.folder not in kept]
        for folder in removed:
            self.discard(folder)
        return tuple(removed)

    def note(self, event: Event, *, version: str, reason: str = "") -> None:
        """Add an entry to the journal."""
        journal.append(self.journal, event, version=version, current=self.current(), reason=reason)

    def _clear(self) -> None:
        """Remove unfinished links, folders that were being removed, and versions without a record."""
        current = self.current()
        for path in filter(_is_unfinished, list(self.root.iterdir())):
            path.unlink()
        for path in sorted(self.versions_dir.iterdir()):
            if path.name.startswith(durable.REMOVED):
                shutil.rmtree(path)
            elif path.name != current and path.is_dir() and self.record(path.name) is None:
                durable.remove_tree(path)


def _is_unfinished(path: Path) -> bool:
    """Return True for what a write or a link that ended early leaves in a box."""
    return path.name.startswith((f".{BOX_MARK}.", f".{CURRENT}.")) and (path.is_symlink() or path.is_file())


def _lock(descriptor: int, root: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"another installation is in progress in {printable(root)}: try again when it has ended"
        ) from None
    except OSError:  # a file system without locks, such as some network shares
        return
