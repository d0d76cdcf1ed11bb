"""Verify a bundle: who signed exactly these files, may that key sign them, and is it not older than what this box has seen?

An opened bundle and the folder of trusted keys come in, a `Verified` comes out, or a BundleError that says what was
expected, what was found and what to do. `Bundle.open` has compared every file with the manifest's SHA-256, so that nothing
is read again here: the signed statement has the SHA-256 of the manifest, and of each file once more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cxr_edge.bundle import MANIFEST_NAME, Bundle
from cxr_edge.errors import BundleError
from cxr_edge.names import printable
from cxr_edge.signing.dsse import IN_TOTO, Envelope
from cxr_edge.signing.files import read_file, refuse_writable_by_others
from cxr_edge.signing.state import BoxState, Return, Seen, state_folder
from cxr_edge.signing.statements import BundleRelease, ReleaseKey
from cxr_edge.signing.trust import TrustedKeys, short, trusted_keys_folder
from cxr_edge.specs.json_fields import FieldError

__all__ = ["Verified", "bundle_files", "refuse_changeable", "signing_key_ids", "verify_bundle"]

_GET_AGAIN = "get the bundle again from its maker, with its signature"
_MOST_SIGNATURES = 32

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A bundle whose signature is accepted."""

    bundle: str
    version: str
    digest: str  # of the bundle
    counter: int
    key_id: str  # of the release key
    key_name: str
    root: str  # key id of the root in force
    root_version: int
    highest_seen: int  # counter of this bundle's name on this box, with this one if it was recorded
    returned_from: int | None = None  # the higher counter that was given up, with allow_rollback

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dict(vars(self))


def verify_bundle(
    bundle: Bundle,
    trusted_keys: StrPath | None = None,
    *,
    state: StrPath | None = None,
    record: bool = True,
    allow_rollback: bool = False,
) -> Verified:
    """Verify the signature of an opened bundle.

    trusted_keys: folder; None for that of CXR_EDGE_TRUSTED_KEYS, else /etc/cxr-edge/trusted-keys. state: folder of this
    box; None for the user's. record: keep the counter as seen. allow_rollback: accept an older counter, from which on
    counting begins again; it is logged. Raises BundleError if the bundle is not accepted, InputError if the keys or the
    state cannot be read, OutputError if the state cannot be written.
    """
    trust = TrustedKeys.read(trusted_keys_folder(trusted_keys))
    release, key = _accepted(bundle, trust)
    box = BoxState(state_folder(state))
    advance = partial(_advanced, trust=trust, release=release, allow_rollback=allow_rollback)
    before = box.seen(trust.anchor)
    seen = box.update(trust.anchor, advance) if record else advance(before)
    highest = before.counters.get(release.name, 0)
    return Verified(
        bundle=release.name,
        version=release.version,
        digest=bundle.digest,
        counter=release.counter,
        key_id=key.key.key_id,
        key_name=key.name,
        root=trust.root.key_id,
        root_version=trust.root_version,
        highest_seen=seen.counters[release.name],
        returned_from=highest if highest > release.counter else None,
    )


def refuse_changeable(bundle: Bundle) -> None:
    """Raise InputError if every user of the machine may change the bundle's folder or a file of it after it was verified."""
    paths = [bundle.root / name for name in bundle_files(bundle)]
    refuse_writable_by_others(*dict.fromkeys((bundle.root, *(p.parent for p in paths), *paths)))


def signing_key_ids(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """Return by signature file the ids of the keys that it claims to be signed with. Nothing is verified."""
    claimed = {}
    for file in bundle.signature_files():
        try:
            claimed[file.name] = tuple(s.key_id for s in Envelope.read(read_file(file)).signatures)
        except BundleError:
            claimed[file.name] = ()
    return claimed


def bundle_files(bundle: Bundle) -> dict[str, str]:
    """Return the SHA-256 of each file of an opened bundle by its path, the manifest first."""
    return {MANIFEST_NAME: bundle.digest, **{ref.path: ref.sha256 for _, ref in bundle.manifest.files()}}


def _accepted(bundle: Bundle, trust: TrustedKeys) -> tuple[BundleRelease, ReleaseKey]:
    """Return the first signed statement that is accepted, and its key. Raises BundleError with the reason of each that is not."""
    files = bundle.signature_files()
    name = f"bundle {bundle.manifest.name!r} in {printable(bundle.root)}"
    if not files:
        raise BundleError(
            f"{name} has no signature, expected one by a key that root {short(trust.root.key_id)} trusts: {_GET_AGAIN}"
        )
    trust = trust.with_certificates(bundle.certificate_files())
    reasons = []
    for file in files[:_MOST_SIGNATURES]:
        try:
            return _check(file, bundle, trust)
        except FieldError as error:
            reasons.append(f"{printable(file.name)}: {error.key or 'the whole file'} {error.message}")
        except BundleError as error:
            reasons.append(f"{printable(file.name)} {error}")
    notes = "".join(f"; {reason}" for reason in trust.rejected)
    raise BundleError(f"the signature of {name} is not accepted: {'; '.join(reasons)}{notes}; {_GET_AGAIN}")


def _check(file: Path, bundle: Bundle, trust: TrustedKeys) -> tuple[BundleRelease, ReleaseKey]:
    envelope = Envelope.read(read_file(file))
    if envelope.payload_type != IN_TOTO:
        raise BundleError(f"has the payload type {envelope.payload_type}, expected {IN_TOTO}")
    key = _signer(envelope, trust)
    release = BundleRelease.read(envelope.payload)
    _compare(release, bundle)
    if not key.allows(release.counter):
        raise BundleError(
            f"is by key {short(key.key.key_id)} ({key.name}), which may sign counters {key.counters()}, and the "
            f"bundle has {release.counter}"
        )
    return release, key


def _signer(envelope: Envelope, trust: TrustedKeys) -> ReleaseKey:
    """Return the trusted key that signed the envelope. A key id in it only says what to say if there is none."""
    signers = [k for k in trust.release_keys if envelope.signed_by(k.key)]
    accepted = [k for k in signers if k.key.key_id not in trust.revoked]
    if accepted:
        return accepted[0]
    claimed = [s.key_id for s in envelope.signatures]
    if revoked := [k for k in (*(s.key.key_id for s in signers), *claimed) if k in trust.revoked]:
        raise BundleError(f"is by key {short(revoked[0])}, which is revoked (list {trust.serial} of the root's)")
    if any(k.key.key_id in claimed for k in trust.release_keys):
        raise BundleError("does not match its statement: one of them was altered, or belongs to another bundle")
    trusted = ", ".join(f"{short(k.key.key_id)} ({k.name})" for k in trust.release_keys) or "none"
    raise BundleError(f"is by key {', '.join(map(short, claimed))}, which is not trusted; trusted: {trusted}")


def _compare(release: BundleRelease, bundle: Bundle) -> None:
    """Raise BundleError unless the statement is about exactly the files of the bundle."""
    manifest, files = bundle.manifest, bundle_files(bundle)
    stated = (release.name, release.version)
    if stated != (manifest.name, manifest.version):
        raise BundleError(f"is of another bundle: of {' '.join(stated)}, this is {manifest.name} {manifest.version}")
    for path in (MANIFEST_NAME, *files, *release.files):
        if files.get(path) != release.files.get(path):
            raise BundleError(
                f"is of other files: of {path} it has SHA-256 {_digest(release.files, path)}, the bundle {_digest(files, path)}"
            )
    if release.counter != manifest.counter:
        raise BundleError(f"has counter {release.counter}, the manifest {manifest.counter}")


def _digest(files: Any, path: str) -> str:
    return f"{files[path][:12]}..." if path in files else "none"


def _advanced(seen: Seen, *, trust: TrustedKeys, release: BundleRelease, allow_rollback: bool) -> Seen:
    """Return what is seen with this bundle. Raises BundleError if anything is older than before."""
    _check_trust(seen, trust)
    highest = seen.counters.get(release.name, 0)
    returns = seen.returns
    if release.counter < highest:
        if not allow_rollback:
            raise BundleError(
                f"bundle {release.name!r} {release.version} is older than what this box has seen: expected counter "
                f"{highest} or more, "
                f"it has {release.counter}; install the newer one, or return to this one on purpose with "
                f"`cxr-edge verify BUNDLE --allow-rollback`, which is logged"
            )
        returns = (*returns, Return.now(release.name, from_counter=highest, to_counter=release.counter))
    return replace(
        seen,
        root_version=trust.root_version,
        root_key=trust.root.key_id,
        serial=trust.serial,
        counters={**seen.counters, release.name: release.counter},
        returns=returns,
    )


def _check_trust(seen: Seen, trust: TrustedKeys) -> None:
    """Raise BundleError if the folder of trusted keys is older than, or other than, the one that this box has seen."""
    copy = f"copy the newer folder of trusted keys to {printable(trust.folder)}"
    if trust.root_version < seen.root_version:
        raise BundleError(
            f"the root key in {printable(trust.folder)} is older than what this box has seen: expected version "
            f"{seen.root_version} or "
            f"more, it has {trust.root_version}; {copy}"
        )
    if trust.root_version == seen.root_version and seen.root_key not in ("", trust.root.key_id):
        raise BundleError(
            f"root {trust.root_version} in {printable(trust.folder)} is key {short(trust.root.key_id)}, and this box has seen "
            f"{short(seen.root_key)} as that: one of them is forged; {copy}, if you trust it, with an empty state"
        )
    if trust.serial < seen.serial:
        raise BundleError(
            f"the list of revoked keys in {printable(trust.folder)} is older than what this box has seen, or missing: "
            f"expected serial "
            f"{seen.serial} or more, it has {trust.serial}; {copy}"
        )
