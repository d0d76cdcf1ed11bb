"""Decoded files for a finished bundle: `python -m training.decoded_files --bundle DIR` draws them and attaches their digests.

The bundle's folder gets `decoded/` and its manifest the key `decoded_files`; nothing else changes. Files that are there already
are replaced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cxr_edge.bundle import Bundle
from cxr_edge.compiler.decoded_files import add_decoded_files
from cxr_edge.errors import CxrEdgeError
from cxr_edge.names import not_empty

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Attach the decoded files. Returns 0, or 2 for a bundle that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.decoded_files", description=__doc__)
    parser.add_argument(
        "--bundle", type=not_empty, default="starter", help="folder of the bundle, or the word starter (%(default)s)"
    )
    args = parser.parse_args(arguments)
    try:
        bundle = add_decoded_files(Bundle.open(args.bundle))
    except CxrEdgeError as error:
        print(f"training.decoded_files: {error}", file=sys.stderr)
        return 2
    files = bundle.manifest.decoded_files
    size = sum(bundle.file(entry.file).stat().st_size for entry in files) / 1e3
    print(f"{bundle.root}: {len(files)} decoded files, {size:.0f} kB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
