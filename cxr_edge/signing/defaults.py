"""Names of the environment variables and folders of signatures, which help texts show without loading anything else."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DEFAULT_FOLDER", "PASSPHRASE_VARIABLE", "TRUST_VARIABLE"]

TRUST_VARIABLE = "CXR_EDGE_TRUSTED_KEYS"
DEFAULT_FOLDER = Path("/etc/cxr-edge/trusted-keys")
PASSPHRASE_VARIABLE = "CXR_EDGE_KEY_PASSPHRASE"
