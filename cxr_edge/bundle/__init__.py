"""Bundles on disk: the folder, its manifest, and the check of its ONNX files."""

from cxr_edge.bundle.folder import (
    CERTIFICATE_SUFFIX,
    ENGINES_DIR,
    MANIFEST_NAME,
    PACKAGED,
    SIGNATURE_SUFFIX,
    SIGNATURES_DIR,
    STARTER,
    Bundle,
    file_ref,
    write_bundle,
)

__all__ = [
    "CERTIFICATE_SUFFIX",
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
