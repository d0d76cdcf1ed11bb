"""Pseudonyms of patients and studies: a name in, a salted hash out, so that no patient is named in what is written.

The salt is a file of the run folder, readable by its owner alone; without a run folder it lives as long as the process. Who has
the salt and a patient's number can compute the hash: keep the salt as you keep the images.
"""

from __future__ import annotations

import hmac
import os
import secrets
from hashlib import sha256
from pathlib import Path

from cxr_edge.errors import InputError

__all__ = ["SALT", "Pseudonyms", "run_salt"]

SALT = "salt.bin"
_BYTES = 32


class Pseudonyms:
    """Pseudonyms with one salt; None: a salt of this process alone."""

    def __init__(self, salt: bytes | None = None) -> None:
        self._salt = salt or secrets.token_bytes(_BYTES)
        self._known: dict[tuple[str, str], str] = {}

    def of(self, kind: str, name: str) -> str:
        """Return `KIND-` and 16 hexadecimal digits, the same for the same name; empty for an empty name."""
        if not name:
            return ""
        if (kind, name) not in self._known:
            text = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
            self._known[kind, name] = f"{kind}-{hmac.new(self._salt, text, sha256).hexdigest()[:16]}"
        return self._known[kind, name]


def run_salt(folder: Path) -> bytes:
    """Return the salt of a run folder, which is made on first use. Raises InputError if its file is damaged."""
    file = folder / SALT
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        salt = file.read_bytes()
        if len(salt) != _BYTES:
            raise InputError(
                f"{file} has {len(salt)} bytes, expected {_BYTES}: delete the run folder, whose patients it names"
            ) from None
        return salt
    salt = secrets.token_bytes(_BYTES)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(salt)
    return salt
