"""Keyed hashes of names and UIDs: the site's key file in, HMAC-SHA256 out.

A plain hash of a SOP Instance UID can be found by hashing the UIDs that a device can make; with a secret key it cannot, as long
as the key stays at the site.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.errors import InputError, OutputError
from cxr_edge.names import printable

__all__ = ["SiteKey"]

_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class SiteKey:
    """The secret key of a site."""

    secret: bytes = field(repr=False)  # 32 bytes

    @property
    def key_id(self) -> str:
        """A name of the key that does not reveal it: 16 hexadecimal digits."""
        return self._hash("key", b"")[:16]

    def hash_uid(self, uid: str) -> str:
        """Return the hash of a SOP Instance UID, hexadecimal."""
        return self._hash("sop-instance-uid", uid.encode("ascii", "replace"))

    def hash_name(self, name: str) -> str:
        """Return the hash of an input's name, hexadecimal."""
        return self._hash("name", name.encode("utf-8", "surrogateescape"))

    @classmethod
    def read_or_make(cls, path: Path) -> SiteKey:
        """Read a key file, or make one that only its owner can read.

        Raises InputError if it is no key or others can read it, OutputError if it cannot be made.
        """
        try:
            _make(path)
        except FileExistsError:
            pass
        except OSError as error:
            raise OutputError(
                f"the site key {printable(path)} cannot be made ({error.strerror}): give a file in a folder that can be written"
            ) from None
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> SiteKey:
        """Read a key file. Raises InputError if it cannot be read, is no key, or others can read it."""
        try:
            mode, text = path.stat().st_mode, path.read_bytes()[: 4 * _KEY_BYTES].decode("ascii", "replace").strip()
        except OSError as error:
            raise InputError(
                f"the site key {printable(path)} cannot be read ({error.strerror}): check path and permissions"
            ) from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(
                f"the site key {printable(path)} may be read by other users (mode {stat.S_IMODE(mode):o}, expected 600): "
                "chmod 600 it"
            )
        if len(text) != 2 * _KEY_BYTES or any(c not in "0123456789abcdef" for c in text):
            raise InputError(
                f"{printable(path)} is no site key, expected {2 * _KEY_BYTES} hexadecimal digits: give another file, or a name "
                "that does not exist yet"
            )
        return cls(secret=bytes.fromhex(text))

    def _hash(self, purpose: str, data: bytes) -> str:
        return hmac.new(self.secret, f"cxr-edge {purpose}\0".encode("ascii") + data, hashlib.sha256).hexdigest()


def _make(path: Path) -> None:
    """Write a new key, complete or not at all, also if two processes do so. Raises FileExistsError if there is one."""
    if path.exists():
        raise FileExistsError(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_hex(_KEY_BYTES).encode("ascii") + b"\n")
        os.fsync(descriptor)
        os.link(unfinished, path)  # unlike a renaming, it never replaces a key
    finally:
        os.close(descriptor)
        unfinished.unlink(missing_ok=True)
