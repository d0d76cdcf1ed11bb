"""`cxr-edge keys ACTION`: make keys, and keep the folder of trusted keys: certify, revoke, rotate-root, show.

new, certify, revoke and rotate-root are for the keeper of the root key and for who signs bundles; a box only gets a copy of
the folder.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_edge.cli.arguments import add_trust
from cxr_edge.cli.output import print_json, print_results
from cxr_edge.cli.sign import counter_argument
from cxr_edge.errors import InputError
from cxr_edge.names import not_empty, path_argument, printable
from cxr_edge.signing.defaults import PASSPHRASE_VARIABLE

if TYPE_CHECKING:
    from cxr_edge.signing.state import Seen
    from cxr_edge.signing.statements import ReleaseKey
    from cxr_edge.signing.trust import TrustedKeys

__all__ = ["add_parser", "run"]

_KEY_ID_DIGITS = 64


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "keys",
        help="make keys, and keep the folder of trusted keys",
        description="Make Ed25519 keys and keep the folder of trusted keys, in which a root key says which keys may "
        "sign bundles. Needs "
        "the package of `pip install 'cxr-edge[sign]'`.",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_new(actions)
    _add_certify(actions)
    _add_revoke(actions)
    _add_rotate_root(actions)
    _add_show(actions)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Act, print, return the exit status."""
    document, lines = args.act(args)
    if args.json:
        print_json(document)
    else:
        print_results("\n".join(lines))
    return 0


Outcome = tuple[dict[str, Any], list[str]]


def _action(actions: Any, name: str, text: str, act: Any, *, folder: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if folder:
        parser.add_argument(
            "--trusted-keys", type=path_argument, required=True, metavar="DIR", help="folder of the trusted keys"
        )
        parser.add_argument("--root-key", type=path_argument, required=True, metavar="FILE", help="root's private key")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(act=act)
    return parser


def _add_new(actions: Any) -> None:
    parser = _action(actions, "new", "make a private key, and its public key in FILE.pub", _new, folder=False)
    parser.add_argument("file", type=path_argument, metavar="FILE", help="new file, which only its owner can read")
    parser.add_argument(
        "--passphrase", action="store_true", help=f"protect it with the passphrase in {PASSPHRASE_VARIABLE}"
    )


def _new(args: argparse.Namespace) -> Outcome:
    from cxr_edge.signing.files import write_file
    from cxr_edge.signing.keys import PrivateKey

    passphrase = os.environ.get(PASSPHRASE_VARIABLE, "") if args.passphrase else ""
    if args.passphrase and not passphrase:
        raise InputError(f"--passphrase needs the passphrase in the variable {PASSPHRASE_VARIABLE}, which is empty")
    public = args.file.with_name(f"{args.file.name}.pub")
    if public.exists():
        raise InputError(f"{printable(public)} exists, a key is never overwritten: give another name")
    key = PrivateKey.new()
    key.write(args.file, passphrase=passphrase)
    write_file(public, key.public.pem())
    return {"key_id": key.key_id, "file": str(args.file)}, [
        f"key {key.key_id}",
        printable(args.file),
        printable(public),
    ]


def _add_certify(actions: Any) -> None:
    parser = _action(actions, "certify", "let a key sign bundles; makes the folder if there is none", _certify)
    parser.add_argument("public_key", type=path_argument, metavar="KEY.pub", help="public key")
    parser.add_argument("--name", type=not_empty, required=True, help="of its owner, shown to people")
    parser.add_argument("--from-counter", type=counter_argument, default=0, metavar="N", help="lowest counter (0)")
    parser.add_argument("--to-counter", type=counter_argument, metavar="N", help="highest counter (default: any)")


def _certify(args: argparse.Namespace) -> Outcome:
    from cxr_edge.signing.authority import certify
    from cxr_edge.signing.keys import PrivateKey, PublicKey
    from cxr_edge.signing.statements import ReleaseKey
    from cxr_edge.specs.json_fields import FieldError

    root, public = PrivateKey.read(args.root_key), PublicKey.read(args.public_key)
    try:
        key = ReleaseKey(key=public, name=args.name, from_counter=args.from_counter, to_counter=args.to_counter)
    except FieldError as error:
        raise InputError(f"--{error.key.replace('_', '-')} {error.message}") from None
    file = certify(args.trusted_keys, root, key)
    line = f"{args.name}, key {public.key_id}, may sign counters {key.counters()}"
    return {"key_id": public.key_id, "file": str(file)}, [line, printable(file)]


def _add_revoke(actions: Any) -> None:
    parser = _action(actions, "revoke", "let keys sign nothing any more, bundles of before included", _revoke)
    parser.add_argument(
        "keys", nargs="+", type=not_empty, metavar="KEY", help="public key file, or the 64 digits of a key id"
    )


def _revoke(args: argparse.Namespace) -> Outcome:
    from cxr_edge.signing.authority import revoke
    from cxr_edge.signing.keys import PrivateKey

    key_ids = [_key_id(text) for text in args.keys]
    revoked = revoke(args.trusted_keys, PrivateKey.read(args.root_key), key_ids)
    lines = [f"list {revoked.serial} of revoked keys: {len(revoked.keys)}", *revoked.keys]
    return {"serial": revoked.serial, "keys": list(revoked.keys)}, lines


def _key_id(text: str) -> str:
    from cxr_edge.signing.keys import PublicKey

    is_id = len(text) == _KEY_ID_DIGITS and not set(text) - set("0123456789abcdef")
    return text if is_id else PublicKey.read(text).key_id


def _add_rotate_root(actions: Any) -> None:
    parser = _action(actions, "rotate-root", "let a new root key follow the old one", _rotate_root)
    parser.add_argument("new_key", type=path_argument, metavar="NEW", help="the new root's private key")


def _rotate_root(args: argparse.Namespace) -> Outcome:
    from cxr_edge.signing.authority import rotate_root
    from cxr_edge.signing.keys import PrivateKey

    root = rotate_root(args.trusted_keys, PrivateKey.read(args.root_key), PrivateKey.read(args.new_key))
    line = f"root {root.version} is key {root.key.key_id}; copy the whole folder to every box"
    return {"version": root.version, "key_id": root.key.key_id}, [line]


def _add_show(actions: Any) -> None:
    parser = _action(actions, "show", "show a folder of trusted keys, and what this box has seen", _show, folder=False)
    add_trust(parser.add_argument_group("signatures"))


def _show(args: argparse.Namespace) -> Outcome:
    from cxr_edge.signing.state import BoxState, state_folder
    from cxr_edge.signing.trust import TrustedKeys, trusted_keys_folder

    trust = TrustedKeys.read(trusted_keys_folder(args.trusted_keys))
    folder = state_folder(args.state)
    seen = BoxState(folder).seen(trust.anchor)
    document = {
        "folder": str(trust.folder),
        "root": {"key_id": trust.root.key_id, "version": trust.root_version},
        "release_keys": [
            {**k.predicate(), "key_id": k.key.key_id, "revoked": _revoked(k, trust)} for k in trust.release_keys
        ],
        "revoked": {"serial": trust.serial, "keys": sorted(trust.revoked)},
        "rejected": list(trust.rejected),
        "box": {"folder": str(folder), "counters": dict(seen.counters), "returns": [vars(r) for r in seen.returns]},
    }
    return document, list(_show_lines(trust, seen, folder))


def _show_lines(trust: TrustedKeys, seen: Seen, folder: Path) -> Iterator[str]:
    yield f"root {trust.root_version}: key {trust.root.key_id}"
    for key in trust.release_keys:
        mark = ", REVOKED" if _revoked(key, trust) else ""
        yield f"release key {key.key.key_id}: {key.name}, counters {key.counters()}{mark}"
    if trust.serial:
        yield f"list {trust.serial} of revoked keys: {len(trust.revoked)}"
    yield from (f"not accepted: {reason}" for reason in trust.rejected)
    yield (
        f"this box ({printable(folder)}) has seen:"
        if seen.counters
        else f"this box ({printable(folder)}) has seen nothing"
    )
    yield from (f"  {name}: counter {counter}" for name, counter in seen.counters.items())
    yield from (f"  {r.time}: {r.bundle} returned from {r.from_counter} to {r.to_counter}" for r in seen.returns)


def _revoked(key: ReleaseKey, trust: TrustedKeys) -> bool:
    return key.key.key_id in trust.revoked
