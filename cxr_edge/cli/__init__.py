"""Command line `cxr-edge`: one file per subcommand, each with `add_parser` and `run`.

Exit status: 0 done; 1 some inputs failed, and are listed; 2 usage; 3 the bundle or an engine cannot be used here; 4 the
results could not be written; 128 + number: ended by that signal. It does not depend on the findings in an image. Results go
to stdout, messages to stderr.
"""

try:
    from cxr_edge.cli.main import main
except ImportError as error:
    from cxr_edge.cli.incomplete import main_without

    main = main_without(error)  # type: ignore[assignment]

__all__ = ["main"]
