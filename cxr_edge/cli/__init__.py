"""The `cxr-edge` command: one file per subcommand, each with `add_parser` and `run`.

Exit status: 0 done; 1 some inputs failed, and are listed; 2 usage; 3 the bundle or an engine cannot be used here; 4 the
results could not be written. It never says what was found in an image. Results go to stdout, remarks to stderr.
"""

from cxr_edge.cli.main import main

__all__ = ["main"]
