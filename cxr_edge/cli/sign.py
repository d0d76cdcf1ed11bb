"""`cxr-edge sign BUNDLE --key FILE`: write a detached signature over every file of a bundle; the signature's path comes out."""

from __future__ import annotations

import argparse
import re
from typing import Any

from cxr_edge.bundle import Bundle
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.names import not_empty, path_argument, printable

__all__ = ["add_parser", "counter_argument", "run"]


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sign",
        help="sign a bundle",
        description="Write a signature (Ed25519, a DSSE envelope with an in-toto statement) over every file of a "
        "bundle into its folder "
        "`signatures`. Needs the package of `pip install 'cxr-edge[sign]'`.",
    )
    parser.add_argument(
        "bundle", type=not_empty, metavar="BUNDLE", help="folder of the bundle; `starter` is the packaged one"
    )
    parser.add_argument(
        "--key", type=path_argument, required=True, metavar="FILE", help="private key (cxr-edge keys new FILE)"
    )
    parser.add_argument(
        "--certificate",
        type=path_argument,
        metavar="FILE",
        help="the root's statement about the key (release/KEYID.json of the trusted keys), to travel with the "
        "bundle, so that boxes "
        "accept a key that is new to them",
    )
    parser.add_argument(
        "--counter",
        type=counter_argument,
        metavar="N",
        help="write this counter into the manifest first: boxes refuse a bundle of the same name with a lower one "
        "than they have seen. "
        "Engines that were built before must be built again",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sign, print, return the exit status."""
    from cxr_edge.signing.keys import PrivateKey
    from cxr_edge.signing.sign import sign_bundle, with_counter

    key = PrivateKey.read(args.key)
    bundle = Bundle.open(args.bundle)
    if args.counter is not None:
        before, bundle = bundle, with_counter(bundle, args.counter)
        if bundle.digest != before.digest:
            print_message(
                f"counter {before.manifest.counter} -> {args.counter}: {bundle.root} has a new digest, so that its "
                f"engines are to be built "
                f"again and other signatures no longer match"
            )
    signed = sign_bundle(bundle, key, certificate=args.certificate)
    manifest = bundle.manifest
    if args.json:
        facts = {"signature": str(signed.file), "key_id": signed.key_id, "digest": bundle.digest}
        print_json({**facts, "bundle": manifest.name, "version": manifest.version, "counter": manifest.counter})
    else:
        release = f"{manifest.name} {manifest.version}, counter {manifest.counter}"
        print_results(f"{release}: {signed.files} files signed by key {signed.key_id}\n{printable(signed.file)}")
    return 0


def counter_argument(text: str) -> int:
    """Parse a counter (argparse type)."""
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at most 15 digits, got {text[:40]!r}")
    return int(text)
