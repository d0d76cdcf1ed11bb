"""Work of the keeper of a root key: write the folder of trusted keys that boxes get a copy of.

The root's private key is needed for each of these, and nowhere else: it is best kept off every machine that builds bundles
or runs them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cxr_edge.errors import InputError
from cxr_edge.signing.dsse import Envelope
from cxr_edge.signing.files import write_file
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.statements import ReleaseKey, RevokedKeys, RootKey, Statement
from cxr_edge.signing.trust import RELEASE_DIR, REVOKED_FILE, ROOT_DIR, ROOT_FILE, TrustedKeys, short

__all__ = ["certify", "revoke", "rotate_root"]


def certify(folder: Path, root: PrivateKey, key: ReleaseKey) -> Path:
    """Let a key sign bundles. The folder is made, with root.pub, if there is none. Returns the statement's file."""
    if not (folder / ROOT_FILE).exists():
        write_file(folder / ROOT_FILE, root.public.pem())
    _trusted(folder, root)
    file = folder / RELEASE_DIR / f"{key.key.key_id}.json"
    _write(file, key, root)
    return file


def revoke(folder: Path, root: PrivateKey, key_ids: Iterable[str]) -> RevokedKeys:
    """Add keys to the list of those that sign nothing any more.

    Bundles that they have signed before are refused too: without a clock nothing tells when a bundle was signed.
    """
    trust = _trusted(folder, root)
    revoked = RevokedKeys(serial=trust.serial + 1, keys=tuple(sorted({*trust.revoked, *key_ids})))
    _write(folder / REVOKED_FILE, revoked, root)
    return revoked


def rotate_root(folder: Path, old: PrivateKey, new: PrivateKey) -> RootKey:
    """Let a new root follow the old one, and sign all other statements with it.

    They are signed by both before the new root is named, so that the folder is valid at every moment.
    """
    trust = _trusted(folder, old)
    if new.public == old.public:
        raise InputError("the new root key is the old one: make another with `cxr-edge keys new FILE`")
    for key in trust.release_keys:
        _write(folder / RELEASE_DIR / f"{key.key.key_id}.json", key, old, new)
    if trust.serial:
        revoked = RevokedKeys(serial=trust.serial, keys=tuple(sorted(trust.revoked)))
        _write(folder / REVOKED_FILE, revoked, old, new)
    root = RootKey(version=trust.root_version + 1, key=new.public)
    _write(folder / ROOT_DIR / f"{root.version}.json", root, old, new)
    return root


def _trusted(folder: Path, root: PrivateKey) -> TrustedKeys:
    trust = TrustedKeys.read(folder)
    if trust.root != root.public:
        raise InputError(f"the root key in force is {short(trust.root.key_id)}, the given one is {short(root.key_id)}")
    return trust


def _write(file: Path, statement: Statement, *keys: PrivateKey) -> None:
    write_file(file, Envelope.sign(statement.payload(), *keys).as_bytes())
