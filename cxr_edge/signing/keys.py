"""Ed25519 keys: PEM files in, keys that sign and verify bytes out.

The files are those of openssl: PKCS8 for a private key, SubjectPublicKeyInfo for a public one. The arithmetic is that of
the package cryptography, which is imported when a key is first used, so that everything without signatures works without
it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.signing.defaults import PASSPHRASE_VARIABLE

__all__ = ["PASSPHRASE_VARIABLE", "PrivateKey", "PublicKey"]

_RAW_BYTES = 32  # of a public key
_MAX_PEM_BYTES = 65_536
_PRIVATE_MODE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_NEW_KEY = "make one with `cxr-edge keys new FILE`"

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A key that verifies signatures."""

    raw: bytes = field(repr=False)  # its 32 bytes

    def __post_init__(self) -> None:
        if not isinstance(self.raw, bytes) or len(self.raw) != _RAW_BYTES:
            raise InputError(f"an Ed25519 public key has {_RAW_BYTES} bytes, got {len(self.raw)}")

    @property
    def key_id(self) -> str:
        """SHA-256 of the raw key, hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Return whether `signature` is this key's over `data`. Raises InputError without the package cryptography."""
        library = _library()
        try:
            library.ed25519.Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (library.invalid_signature, ValueError):
            return False
        return True

    def pem(self) -> bytes:
        """Return the content of its file."""
        library = _library()
        key = library.ed25519.Ed25519PublicKey.from_public_bytes(self.raw)
        s = library.serialization
        return bytes(key.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PublicKey:
        """Read a PEM file. Raises InputError if it cannot be read or holds no Ed25519 public key."""
        return cls.from_pem(_read(Path(path)), printable(os.fspath(path)))

    @classmethod
    def from_pem(cls, pem: bytes, source: str) -> PublicKey:
        """Read the content of a PEM file; source: its name, for the message. Raises InputError."""
        library = _library()
        key = _load(lambda: library.serialization.load_pem_public_key(pem), source, "public")
        if not isinstance(key, library.ed25519.Ed25519PublicKey):
            raise InputError(_wrong_kind(source, "public"))
        s = library.serialization
        return cls(raw=bytes(key.public_bytes(s.Encoding.Raw, s.PublicFormat.Raw)))


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """A key that signs."""

    public: PublicKey
    _key: Any = field(repr=False, compare=False)  # of cryptography

    @property
    def key_id(self) -> str:
        """Of its public key."""
        return self.public.key_id

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data`, 64 bytes."""
        return bytes(self._key.sign(data))

    @classmethod
    def new(cls) -> PrivateKey:
        """Make a new key. Raises InputError without the package cryptography."""
        return cls._of(_library().ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PrivateKey:
        """Read a PEM file that only its owner can read; a passphrase is taken from CXR_EDGE_KEY_PASSPHRASE.

        Raises InputError if it cannot be read, others can read it, or it holds no Ed25519 private key.
        """
        library, source = _library(), printable(os.fspath(path))
        pem = _read(Path(path), private=True)
        passphrase = _passphrase(pem, source)
        key = _load(lambda: library.serialization.load_pem_private_key(pem, passphrase), source, "private")
        if not isinstance(key, library.ed25519.Ed25519PrivateKey):
            raise InputError(_wrong_kind(source, "private"))
        return cls._of(key)

    def write(self, path: str | os.PathLike[str], *, passphrase: str = "") -> None:
        """Write a new PEM file that only its owner can read. passphrase: empty for none. Raises InputError if it exists."""
        s = _library().serialization
        locked = s.BestAvailableEncryption(passphrase.encode()) if passphrase else s.NoEncryption()
        pem = bytes(self._key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked))
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_MODE)
        except FileExistsError:
            raise InputError(
                f"{printable(os.fspath(path))} exists, a key is never overwritten: give another name"
            ) from None
        except OSError as error:
            raise InputError(f"the key {printable(os.fspath(path))} cannot be written ({error.strerror})") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def _of(cls, key: Any) -> PrivateKey:
        s = _library().serialization
        raw = bytes(key.public_key().public_bytes(s.Encoding.Raw, s.PublicFormat.Raw))
        return cls(public=PublicKey(raw=raw), _key=key)


@dataclass(frozen=True, kw_only=True)
class _Library:
    """The used parts of the package cryptography."""

    ed25519: Any
    serialization: Any
    invalid_signature: type[Exception]
    unsupported: type[Exception]


def _library() -> _Library:
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise InputError(
            "signatures need the package cryptography, which is not installed: pip install 'cxr-edge[sign]'"
        ) from None
    return _Library(
        ed25519=ed25519,
        serialization=serialization,
        invalid_signature=InvalidSignature,
        unsupported=UnsupportedAlgorithm,
    )


def _read(path: Path, *, private: bool = False) -> bytes:
    """Return the bytes of a key file. Raises InputError, for a private one also if others can read it."""
    name = printable(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_PEM_BYTES:
            raise InputError(f"{name} is no key file, expected a PEM file: {_NEW_KEY}")
        if private and status.st_mode & _OTHERS:
            raise InputError(
                f"{name} is a private key that other users may open (mode {stat.S_IMODE(status.st_mode):o}, expected 600): "
                f"chmod 600 it, and use a new key if one may have read it"
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the key {name} cannot be read ({error.strerror}): check the path, or {_NEW_KEY}") from None


def _passphrase(pem: bytes, source: str) -> bytes | None:
    if b"ENCRYPTED" not in pem:
        return None
    text = os.environ.get(PASSPHRASE_VARIABLE)
    if not text:
        raise InputError(f"{source} is protected by a passphrase: set it in the variable {PASSPHRASE_VARIABLE}")
    return text.encode()


def _load(load: Callable[[], Loaded], source: str, kind: str) -> Loaded:
    try:
        return load()
    except (ValueError, TypeError, _library().unsupported):
        wrong = f" or the passphrase in {PASSPHRASE_VARIABLE} is wrong" if kind == "private" else ""
        raise InputError(f"{source} holds no {kind} key in PEM{wrong}: give the right file, or {_NEW_KEY}") from None


def _wrong_kind(source: str, kind: str) -> str:
    return f"{source} holds a {kind} key of another algorithm, expected Ed25519: {_NEW_KEY}"
