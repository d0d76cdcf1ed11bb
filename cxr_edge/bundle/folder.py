"""Bundle folder on disk: `manifest.json`, the networks, and every other file that the manifest names.

`Bundle.open` reads the manifest and compares every file with its SHA-256 before anything runs, so that screening uses
exactly what was trained; `write_bundle` is its counterpart for training. The content of the networks is checked by
`onnx_check.check_networks`, which needs onnx and is therefore called only by build-engine and inspect.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import cxr_edge
from cxr_edge.bundle.foreign_files import describe_foreign
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.networks import FileRef
from cxr_edge.digests import sha256_file
from cxr_edge.errors import BundleError, ContractError
from cxr_edge.specs.json_fields import FieldError, parse

__all__ = [
    "BOX_MARK",
    "CERTIFICATE_SUFFIX",
    "CURRENT",
    "ENGINES_DIR",
    "MANIFEST_NAME",
    "PACKAGED",
    "SIGNATURES_DIR",
    "SIGNATURE_SUFFIX",
    "STARTER",
    "Bundle",
    "file_ref",
    "write_bundle",
]

MANIFEST_NAME = "manifest.json"
ENGINES_DIR = "engines"  # default output folder of build-engine; not part of the bundle
SIGNATURES_DIR = "signatures"  # of detached signatures; not part of the bundle
SIGNATURE_SUFFIX, CERTIFICATE_SUFFIX = ".dsse.json", ".certificate.json"
CURRENT = "current"  # link to the bundle in use, in a folder that `cxr-edge install` made
BOX_MARK = "box.json"  # in such a folder
STARTER = "starter"  # name of the bundle that is packaged with cxr-edge
PACKAGED = Path(cxr_edge.__file__).resolve().parent / STARTER

_MAX_MANIFEST_BYTES = 16 * 1024 * 1024  # FLANNEL's module for 12 members of 4 labels takes well under one
_COPY_AGAIN = "copy the whole bundle again from where it came, or export it again"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files were all present and unaltered when it was opened."""

    root: Path  # its folder, absolute
    manifest: Manifest
    # SHA-256 (hexadecimal) of manifest.json, which holds the SHA-256 of every other file: equal digests, equal bundles.
    digest: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open the folder `path`, or the packaged bundle if it is `starter` (write `./starter` for a folder).

        Of a folder that `cxr-edge install` made, the version in use is opened, and stays open when another one is installed.

        Raises BundleError if the manifest or a file is missing, altered, malformed or outside the folder, and
        ContractError if a preprocessing spec is not the one that was exported.
        """
        root = _root(path)
        text = _manifest_bytes(root)
        manifest = _read(root, text)
        _verify(root, manifest)
        return cls(root=root, manifest=manifest, digest=hashlib.sha256(text).hexdigest())

    def file(self, ref: FileRef) -> Path:
        """Return the path of the file. Raises BundleError if it was deleted since, or leads out of the folder."""
        return _locate(self.root, ref, "a file of the bundle")

    def unlisted_files(self) -> tuple[str, ...]:
        """Return the files in the folder that the manifest does not name, sorted, without engines, signatures and hidden files.

        They are never read. `inspect` lists them, because a user may expect such a file to be in use.
        """
        signatures = (p.relative_to(self.root).as_posix() for p in (*self.signature_files(), *self.certificate_files()))
        listed = {ref.path for _, ref in self.manifest.files()} | {MANIFEST_NAME, *signatures}
        found = (p.relative_to(self.root) for p in self.root.rglob("*") if not p.is_dir())
        own = (p for p in found if p.parts[0] != ENGINES_DIR and not any(q.startswith(".") for q in p.parts))
        return tuple(sorted(p.as_posix() for p in own if p.as_posix() not in listed))

    def signature_files(self) -> tuple[Path, ...]:
        """Return the files of detached signatures, sorted; none of them has been verified (`cxr_edge.signing`)."""
        return self._beside(SIGNATURE_SUFFIX)

    def certificate_files(self) -> tuple[Path, ...]:
        """Return the files that say who trusts the keys of the signatures, sorted; not verified."""
        return self._beside(CERTIFICATE_SUFFIX)

    def _beside(self, suffix: str) -> tuple[Path, ...]:
        return tuple(sorted((self.root / SIGNATURES_DIR).glob(f"[!.]*{suffix}")))


def file_ref(root: Path, path: str) -> FileRef:
    """Return the reference to the file `path` (relative, forward slashes) of the folder `root`, with its current SHA-256.

    Raises BundleError if there is no such file in the folder.
    """
    ref = FileRef(path=path, sha256="0" * 64)
    return FileRef(path=path, sha256=_sha256(_locate(root.resolve(), ref, "the file to list")))


def write_bundle(root: Path, manifest: Manifest) -> Bundle:
    """Write manifest.json into `root`, which already holds the files that it names, and open the bundle.

    The files are checked first and the manifest replaces an older one atomically, so that the folder never holds a
    manifest that does not match it. Raises BundleError for a missing or different file.
    """
    root = root.resolve()
    _verify(root, manifest)
    text = json.dumps(manifest.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    unfinished = root / f".{MANIFEST_NAME}.{os.getpid()}"
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(root / MANIFEST_NAME)
    finally:
        unfinished.unlink(missing_ok=True)
    return Bundle.open(root)


def _root(path: str | os.PathLike[str]) -> Path:
    if os.fspath(path) == STARTER:
        root = PACKAGED
        if not root.is_dir():
            raise BundleError(
                "this cxr-edge was installed without its starter bundle: install it again, or give a folder"
            )
        return root.resolve()
    if not os.fspath(path):
        raise BundleError(
            f"expected the folder of a bundle, or the word {STARTER}, got an empty path: is a variable unset?"
        )
    root = Path(path)
    if root.is_file():
        if root.name == MANIFEST_NAME:
            raise BundleError(f"a bundle is a folder with {MANIFEST_NAME} in it, {root} is a file: give its folder")
        what = describe_foreign(root) or "a file, which cxr-edge build-engine takes alone if it is an .onnx file"
        raise BundleError(f"a bundle is a folder with {MANIFEST_NAME} in it, {root} is {what}")
    if not root.is_dir():
        raise BundleError(
            f"there is no folder {root}: give the folder of a bundle, or the word {STARTER} for the packaged one"
        )
    in_use = root / CURRENT
    is_box = not (root / MANIFEST_NAME).is_file() and (in_use / MANIFEST_NAME).is_file()
    return (in_use if is_box else root).resolve()


def _manifest_bytes(root: Path) -> bytes:
    path = root / MANIFEST_NAME
    if not path.is_file():
        if (root / BOX_MARK).is_file():
            raise BundleError(f"{root} has no version in use: install one with cxr-edge install BUNDLE --into {root}")
        what = describe_foreign(root) or f"no bundle: give the folder that holds it, or {_COPY_AGAIN}"
        raise BundleError(f"{root} has no {MANIFEST_NAME}, so it is {what}")
    size = path.stat().st_size
    if size > _MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{path} has {size} bytes, a manifest of cxr-edge has at most {_MAX_MANIFEST_BYTES}: {_COPY_AGAIN}"
        )
    return path.read_bytes()


def _read(root: Path, text: bytes) -> Manifest:
    try:
        return Manifest.from_json(parse(text))
    except FieldError as error:
        raise BundleError(f"{root}: {error}; {_COPY_AGAIN}") from None
    except (BundleError, ContractError) as error:  # their messages already say what to do
        raise type(error)(f"{root}: {error}") from None


def _verify(root: Path, manifest: Manifest) -> None:
    checked: set[FileRef] = set()
    for key, ref in manifest.files():
        if ref in checked:
            continue
        path = _locate(root, ref, key)
        actual = _sha256(path)
        if actual != ref.sha256:
            raise BundleError(
                f"{ref.path} in {root} was altered: {MANIFEST_NAME} ({key}) expects SHA-256 {ref.sha256}, "
                f"the file has {actual}; {_COPY_AGAIN}"
            )
        checked.add(ref)


def _locate(root: Path, ref: FileRef, key: str) -> Path:
    """Return the path of the regular file `ref`.

    FileRef excludes '..' from the path; links that lead out of the folder are detected here.
    """
    path = root / ref.path
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        raise BundleError(f"{ref.path} ({key}) is missing from {root}: {_COPY_AGAIN}") from None
    if not real.is_relative_to(root):
        raise BundleError(
            f"{ref.path} ({key}) is a link that leads out of the bundle {root}, to {real}: put the file itself there"
        )
    if not real.is_file():  # a folder, or a pipe that would never end
        raise BundleError(f"{ref.path} ({key}) in {root} must be a regular file, but it is not: {_COPY_AGAIN}")
    return path


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
