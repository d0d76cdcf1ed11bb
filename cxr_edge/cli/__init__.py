"""The `cxr-edge` command: one file a subcommand, each with `add_parser` and `run`.

Exit status: 0 done; 1 some inputs failed, and are listed; 2 usage; 3 the bundle or an engine cannot be used here. It never
says what was found in an image. Results go to stdout, talk goes to stderr.
"""

from cxr_edge.cli.main import main

__all__ = ["main"]
