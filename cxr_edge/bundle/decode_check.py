"""Decode parity: a bundle's decoded files are decoded here, and compared with what the manifest says of their pixels.

A bundle comes in; one `DecodeResult` for each file comes out, or a ContractError that names the first file that differs. What
the libraries of this machine make of a file decides every answer that follows, so `build-engine` refuses to build where they
differ, and the self-test looks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from cxr_edge.bundle.decoded_file import DecodedFile
from cxr_edge.bundle.folder import Bundle
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.decoding.formats import identify_format
from cxr_edge.errors import BundleError, ContractError, CxrEdgeError

__all__ = ["DecodeResult", "check_decoding", "decode_result", "decode_results", "package_versions"]

_SHOWN = 12  # digits of a digest, enough to compare by eye


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """One decoded file of a bundle on this machine."""

    expected: DecodedFile
    difference: str | None  # in words that follow the file's name; None if pixels and flags are equal
    packages: tuple[str, ...]  # that decode it

    def describe(self) -> str:
        """Return the sentence about a file that differs, with the remedy."""
        return (
            f"{self.expected.file.path} {self.difference}; decoded by {', '.join(package_versions(self.packages))}. "
            "Screenings here would differ from those that were tested: install these packages again (pip install "
            f"--force-reinstall {' '.join(self.packages)}), or in the versions of constraints.txt"
        )


def decode_results(bundle: Bundle) -> tuple[DecodeResult, ...]:
    """Decode every decoded file of the bundle, in order. Raises BundleError if one cannot be read."""
    return tuple(decode_result(bundle, expected) for expected in bundle.manifest.decoded_files)


def decode_result(bundle: Bundle, expected: DecodedFile) -> DecodeResult:
    """Decode one of the bundle's decoded files. Raises BundleError if it cannot be read."""
    path = bundle.file(expected.file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    packages = identify_format(data).packages
    return DecodeResult(expected=expected, difference=_difference(expected, data), packages=packages)


def check_decoding(bundle: Bundle) -> int:
    """Return the number of files that were compared. Raises ContractError for the first that differs."""
    results = decode_results(bundle)
    for result in results:
        if result.difference is not None:
            raise ContractError(f"this machine does not decode files as training did: {result.describe()}")
    return len(results)


def package_versions(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return `name version` of each package of a format, `name (not installed)` where it is missing."""
    return tuple(_package_version(name) for name in packages)


def _difference(expected: DecodedFile, data: bytes) -> str | None:
    try:
        found = DecodedFile.of_image(expected.file, decode_bytes(data, source=expected.file.path))
    except CxrEdgeError as error:
        return f"cannot be decoded ({str(error).removeprefix(f'{expected.file.path}: ')})"
    except Exception as error:  # a package that is missing, or another one of the same name
        return f"cannot be decoded ({type(error).__name__}: {error})"
    if found == expected:
        return None
    if found.pixels_sha256 != expected.pixels_sha256:
        return f"gives other pixels here: {_shown(expected)} by the manifest, {_shown(found)} here"
    return f"gives other flags here: {_flags(expected)} by the manifest, {_flags(found)} here"


def _shown(file: DecodedFile) -> str:
    return f"{file.dtype} {file.width_px}x{file.height_px} with SHA-256 {file.pixels_sha256[:_SHOWN]}..."


def _flags(file: DecodedFile) -> str:
    return ", ".join(file.flags) or "none"


def _package_version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name} (not installed)"
