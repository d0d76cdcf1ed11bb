"""Signature of the engines in a folder by the key of the box that built them.

Digests in side-cars find accidents: who replaces an engine can rewrite them. Here the box signs `build.json`, all side-cars
and all engine files together; a program that loads them with the box's public key accepts no other file, and no file beside
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cxr_edge.digests import sha256_file
from cxr_edge.errors import BundleError
from cxr_edge.names import printable
from cxr_edge.signing.dsse import IN_TOTO, Envelope
from cxr_edge.signing.files import read_file, refuse_writable_by_others
from cxr_edge.signing.keys import PrivateKey, PublicKey
from cxr_edge.signing.statements import EngineBuild
from cxr_edge.specs.json_fields import FieldError

__all__ = ["ENGINE_SIGNATURE", "check_engine_files", "sign_engine_files"]

ENGINE_SIGNATURE = "box-signature.json"  # in the folder of a backend's engines


def sign_engine_files(files: Mapping[str, Path], key: PrivateKey, *, bundle_sha256: str, backend: str) -> bytes:
    """Return the content of the signature file. files: by their names in the folder of the engines."""
    digests = {name: sha256_file(path) for name, path in files.items()}
    build = EngineBuild(bundle_sha256=bundle_sha256, backend=backend, files=digests)
    return Envelope.sign(build.payload(), key).as_bytes()


def check_engine_files(folder: Path, key: PublicKey, *, backend: str) -> None:
    """Raise BundleError unless the folder has exactly the files that the key signed. Its message follows the folder's name.

    Raises InputError if every user of the machine may change one of them.
    """
    found = _statement(folder, key)
    refuse_writable_by_others(folder)
    if found.backend != backend:
        raise BundleError(f"were signed as engines of {found.backend}, expected {backend}")
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name != ENGINE_SIGNATURE):
        if path.name not in found.files:
            raise BundleError(f"have a file that this box has not signed: {printable(path.name)}; delete it")
        refuse_writable_by_others(path)
    for name, expected in found.files.items():
        actual = _digest(folder, name)
        if actual != expected:
            raise BundleError(
                f"were replaced: this box has signed {name} with SHA-256 {expected[:12]}..., it has {actual}"
            )


def _statement(folder: Path, key: PublicKey) -> EngineBuild:
    file = folder / ENGINE_SIGNATURE
    if not file.exists():
        raise BundleError("were not signed by this box")
    try:
        envelope = Envelope.read(read_file(file))
        if envelope.payload_type != IN_TOTO or not envelope.signed_by(key):
            raise BundleError(
                f"were signed by another box, or {ENGINE_SIGNATURE} was altered: expected key {key.key_id[:12]}..."
            )
        return EngineBuild.read(envelope.payload)
    except FieldError as error:
        raise BundleError(
            f"have no valid {ENGINE_SIGNATURE}: {error.key or 'the whole file'} {error.message}"
        ) from None


def _digest(folder: Path, name: str) -> str:
    try:
        return sha256_file(folder / name)
    except OSError as error:
        return f"none ({error.strerror})"
