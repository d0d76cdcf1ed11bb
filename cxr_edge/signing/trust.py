"""The folder of trusted keys: which root key is in force, which keys it lets sign bundles, and which it has revoked.

    root.pub             the root key that this machine was given, by hand
    root/2.json ...      statements by which a root names the next one; signed by both
    release/KEYID.json   statements by which the root lets a key sign bundles
    revoked.json         the root's list of keys that sign nothing any more

One root is in force at a time, and its signature alone is enough. Nothing expires, since a box may have no clock; a counter
in each statement, and the highest one seen (`state`), take the place of dates.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cxr_edge.errors import BundleError, InputError
from cxr_edge.names import printable
from cxr_edge.signing.defaults import DEFAULT_FOLDER, TRUST_VARIABLE
from cxr_edge.signing.dsse import IN_TOTO, Envelope
from cxr_edge.signing.files import read_file, refuse_writable_by_others
from cxr_edge.signing.keys import PublicKey
from cxr_edge.signing.statements import ReleaseKey, RevokedKeys, RootKey, Statement
from cxr_edge.specs.json_fields import FieldError

__all__ = [
    "RELEASE_DIR",
    "REVOKED_FILE",
    "ROOT_DIR",
    "ROOT_FILE",
    "TrustedKeys",
    "read_statement",
    "short",
    "trusted_keys_folder",
]

ROOT_FILE, ROOT_DIR, RELEASE_DIR, REVOKED_FILE = "root.pub", "root", "release", "revoked.json"

_SHOWN = 12  # digits of a key id in messages
_MOST_KEYS = 256
_COPY_AGAIN = "copy the whole folder of trusted keys again from who keeps the root key"

Kind = TypeVar("Kind", bound=Statement)


def short(key_id: str) -> str:
    """Return a key id as messages show it."""
    return f"{printable(key_id[:_SHOWN])}..."


def trusted_keys_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the given folder, else that of CXR_EDGE_TRUSTED_KEYS, else the machine's. Raises InputError if it is absent."""
    folder = Path(given or os.environ.get(TRUST_VARIABLE) or DEFAULT_FOLDER)
    if not (folder / ROOT_FILE).is_file():
        raise InputError(
            f"{printable(folder)} is no folder of trusted keys, it has no {ROOT_FILE}: give one with --trusted-keys DIR or in "
            f"{TRUST_VARIABLE} (docs/security.md says how to make it)"
        )
    return folder


@dataclass(frozen=True, kw_only=True)
class TrustedKeys:
    """Content of a folder, each statement verified against the root in force."""

    folder: Path
    anchor: str  # key id of root.pub, under which the box keeps what it has seen
    root: PublicKey
    root_version: int
    release_keys: tuple[ReleaseKey, ...]  # revoked ones among them
    revoked: frozenset[str]  # key ids
    serial: int  # of the list of revoked keys; 0: there is none
    rejected: tuple[str, ...]  # statements about release keys that were not accepted, with the reason

    @classmethod
    def read(cls, folder: Path) -> TrustedKeys:
        """Read a folder. Raises InputError if it cannot be used, BundleError if a root or the list of revoked keys is invalid."""
        refuse_writable_by_others(folder, folder / ROOT_FILE)
        first = PublicKey.read(folder / ROOT_FILE)
        root, version = _root_in_force(folder, first)
        list_of_revoked = _revoked(folder, root)
        accepted, rejected = _release_keys((folder / RELEASE_DIR).glob("*.json"), root)
        return cls(
            folder=folder,
            anchor=first.key_id,
            root=root,
            root_version=version,
            release_keys=accepted,
            revoked=frozenset(list_of_revoked.keys if list_of_revoked else ()),
            serial=list_of_revoked.serial if list_of_revoked else 0,
            rejected=rejected,
        )

    def with_certificates(self, files: Iterable[Path]) -> TrustedKeys:
        """Return the keys with those that further statements by the root name, such as the ones that travel with a bundle."""
        accepted, rejected = _release_keys(files, self.root)
        own = {k.key for k in self.release_keys}  # whose statements in the folder count: an older one may allow more
        keys = (*self.release_keys, *(k for k in accepted if k.key not in own))
        return TrustedKeys(**{**vars(self), "release_keys": keys, "rejected": (*self.rejected, *rejected)})


def read_statement(file: Path, kind: type[Kind], *signers: PublicKey) -> Kind:
    """Read an envelope that every one of these keys must have signed. Raises BundleError with the file and the reason."""
    try:
        envelope = Envelope.read(read_file(file))
        if envelope.payload_type != IN_TOTO:
            raise BundleError(f"{printable(file)} has the payload type {envelope.payload_type}, expected {IN_TOTO}")
        for key in signers:
            if not envelope.signed_by(key):
                raise BundleError(
                    f"{printable(file)} is not signed by the root key {short(key.key_id)}, or was altered"
                )
        return kind.read(envelope.payload)
    except FieldError as error:
        raise BundleError(f"{printable(file)}: {error.key or 'the whole file'} {error.message}") from None


def _root_in_force(folder: Path, first: PublicKey) -> tuple[PublicKey, int]:
    root, version = first, 1
    while (file := folder / ROOT_DIR / f"{version + 1}.json").exists():
        found = _or_copy_again(file, RootKey, root)
        if found.version != version + 1:
            raise BundleError(f"{printable(file)} names root {found.version}, expected {version + 1}: {_COPY_AGAIN}")
        _or_copy_again(file, RootKey, found.key)
        root, version = found.key, found.version
    return root, version


def _revoked(folder: Path, root: PublicKey) -> RevokedKeys | None:
    file = folder / REVOKED_FILE
    return _or_copy_again(file, RevokedKeys, root) if file.exists() or file.is_symlink() else None


def _or_copy_again(file: Path, kind: type[Kind], signer: PublicKey) -> Kind:
    try:
        return read_statement(file, kind, signer)
    except BundleError as error:
        raise BundleError(f"{error}: {_COPY_AGAIN}") from None


def _release_keys(files: Iterable[Path], root: PublicKey) -> tuple[tuple[ReleaseKey, ...], tuple[str, ...]]:
    """Return the keys that are certified by the root, and why other files were not accepted."""
    accepted, rejected = [], []
    for file in sorted(files)[:_MOST_KEYS]:
        try:
            accepted.append(read_statement(file, ReleaseKey, root))
        except BundleError as error:
            rejected.append(str(error))
    return tuple(accepted), tuple(rejected)
