"""Bundles on disk: the folder, its manifest, and the check of its ONNX files."""

from cxr_edge.bundle.folder import ENGINES_DIR, MANIFEST_NAME, PACKAGED, STARTER, Bundle, file_ref, write_bundle

__all__ = ["ENGINES_DIR", "MANIFEST_NAME", "PACKAGED", "STARTER", "Bundle", "file_ref", "write_bundle"]
