"""`cxr-edge verify BUNDLE`: is it signed by a trusted key, unaltered, and not older than before? Who signed it comes out.

Status 3 with the reason if it is not accepted. Nothing is written without --record or --allow-rollback.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_trust
from cxr_edge.cli.output import print_json, print_results
from cxr_edge.errors import BundleError, ContractError
from cxr_edge.names import not_empty

if TYPE_CHECKING:
    from cxr_edge.signing.verify import Verified

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "verify",
        help="verify the signature of a bundle",
        description="Verify that a trusted key has signed a bundle, that no file was altered since, and that it is "
        "not older than what "
        "this box has seen. Nothing is run. Needs the package of `pip install 'cxr-edge[sign]'`.",
    )
    parser.add_argument(
        "bundle", type=not_empty, metavar="BUNDLE", help="folder of the bundle; `starter` is the packaged one"
    )
    add_trust(parser.add_argument_group("signatures"))
    parser.add_argument(
        "--record",
        action="store_true",
        help="keep its counter as seen, as the first `screen` does: older versions are refused from then on",
    )
    parser.add_argument(
        "--allow-rollback",
        action="store_true",
        help="return to this bundle although this box has seen a newer one; it counts from here on again, and keeps "
        "a record of the return",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify, print, return the exit status. Raises BundleError, after printing it as JSON if that was requested."""
    from cxr_edge.signing.verify import verify_bundle

    try:
        verified = verify_bundle(
            Bundle.open(args.bundle),
            args.trusted_keys,
            state=args.state,
            record=args.record or args.allow_rollback,
            allow_rollback=args.allow_rollback,
        )
    except (BundleError, ContractError) as error:
        if args.json:
            print_json({"verified": False, "error": str(error)})
        raise
    if args.json:
        print_json({"verified": True, **verified.as_json()})
    else:
        print_results("\n".join(_lines(verified)))
    return 0


def _lines(v: Verified) -> list[str]:
    returned = [] if v.returned_from is None else [f"returned from counter {v.returned_from}, and recorded"]
    return [
        f"{v.bundle} {v.version} is signed: by {v.key_name}, key {v.key_id}",
        f"trusted by root {v.root} (version {v.root_version})",
        f"counter {v.counter}, digest {v.digest}",
        *returned,
    ]
