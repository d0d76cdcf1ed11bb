"""Sign a bundle: a private key comes in, a detached signature beside the files comes out.

`signatures/KEYID.dsse.json` in the bundle's folder has the statement and the signature; signatures of several keys stand
side by side. The statement by which a root trusts the key may travel with it, as `signatures/KEYID.certificate.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cxr_edge.bundle import CERTIFICATE_SUFFIX, SIGNATURE_SUFFIX, SIGNATURES_DIR, Bundle, write_bundle
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.signing.dsse import Envelope
from cxr_edge.signing.files import read_file, write_file
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.statements import BundleRelease, ReleaseKey
from cxr_edge.signing.verify import bundle_files
from cxr_edge.specs.json_fields import FieldError

__all__ = ["SignedBundle", "sign_bundle", "with_counter"]


@dataclass(frozen=True, kw_only=True)
class SignedBundle:
    """A signed bundle."""

    bundle: Bundle
    file: Path  # of the signature
    key_id: str
    files: int  # that the statement names


def with_counter(bundle: Bundle, counter: int) -> Bundle:
    """Return the bundle with this counter in its manifest, which is written again where it had another one.

    Its digest changes then, so that engines must be built again, and earlier signatures no longer match. Raises InputError
    for a lower counter than it has.
    """
    if counter < bundle.manifest.counter:
        raise InputError(f"the bundle has counter {bundle.manifest.counter}, a lower one was given: counters only grow")
    if counter == bundle.manifest.counter:
        return bundle
    return write_bundle(bundle.root, replace(bundle.manifest, counter=counter))


def sign_bundle(bundle: Bundle, key: PrivateKey, *, certificate: Path | None = None) -> SignedBundle:
    """Write the signature of an opened bundle.

    certificate: file of the statement by which a root trusts the key, to travel with the bundle. Raises InputError if it is
    of another key, or does not allow the bundle's counter; OutputError if the folder cannot be written.
    """
    manifest = bundle.manifest
    files = bundle_files(bundle)
    release = BundleRelease(name=manifest.name, version=manifest.version, counter=manifest.counter, files=files)
    folder = bundle.root / SIGNATURES_DIR
    if certificate is not None:
        data = _certificate(certificate, key, manifest.counter)
        write_file(folder / f"{key.key_id}{CERTIFICATE_SUFFIX}", data)
    file = folder / f"{key.key_id}{SIGNATURE_SUFFIX}"
    write_file(file, Envelope.sign(release.payload(), key).as_bytes())
    return SignedBundle(bundle=bundle, file=file, key_id=key.key_id, files=len(files))


def _certificate(file: Path, key: PrivateKey, counter: int) -> bytes:
    """Return the content of a certificate of this key. Whose signature it has is for those who know the root."""
    data = read_file(file)
    try:
        found = ReleaseKey.read(Envelope.read(data).payload)
    except FieldError as error:
        raise InputError(
            f"{printable(file)} is no certificate of a key: {error.key or 'the whole file'} {error.message}"
        ) from None
    if found.key != key.public:
        raise InputError(
            f"{printable(file)} is the certificate of key {found.key.key_id}, the bundle is signed with {key.key_id}"
        )
    if not found.allows(counter):
        raise InputError(f"the key may sign counters {found.counters()}, and the bundle has {counter}")
    return data
