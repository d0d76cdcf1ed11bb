"""`cxr-edge calibrate BUNDLE CASES --out NEW`: fit a bundle's operating point to a site's own cases; `--plan` without any.

Thresholds and error budget are fitted; no network is trained. The result is a new folder; status 2 with a sentence where the
cases are too few, or do not show what is to be promised.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cxr_edge.backends.cpu_quota import available_cores
from cxr_edge.cli.arguments import add_signature, at_least_one, open_bundle
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.names import not_empty, path_argument

if TYPE_CHECKING:
    from cxr_edge.calibration import Promise

__all__ = ["add_parser", "run"]

_ROLES = ("path", "label", "patient", "site")


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "calibrate",
        help="fit a bundle's thresholds and error budget to a site's own cases",
        description="Screen cases with known labels, fit temperature, threshold, prediction sets and the limits of "
        "answers to them, "
        "and write a new version of the bundle, whose model card shows the figures before and after. No network is trained.",
    )
    parser.add_argument(
        "bundle",
        nargs="?",
        type=not_empty,
        metavar="BUNDLE",
        help="folder of the bundle; `starter` is the packaged one",
    )
    parser.add_argument(
        "cases", nargs="?", type=path_argument, metavar="CASES",
        help="folder with a sub-folder per label, or CSV with the columns path and label, optional patient and site",
    )  # fmt: skip
    parser.add_argument("--out", type=path_argument, metavar="NEW", help="folder of the new bundle")
    parser.add_argument(
        "--plan", action="store_true", help="only print what numbers of cases can promise; needs no BUNDLE and no CASES"
    )
    _add_promise(parser.add_argument_group("promise"))
    _add_reading(parser.add_argument_group("reading, where the cases do not say it"))
    parser.add_argument("--seed", type=at_least_one, default=1, metavar="N", help="of the image of each patient (1)")
    parser.add_argument(
        "--threads", type=at_least_one, default=available_cores(), metavar="N", help="threads to use (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_signature(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def _add_promise(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-wrong", type=_number, default=0.05, metavar="SHARE",
        help="of the answers of a label that may be wrong (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max-called", type=_number, metavar="SHARE",
        help="of the patients without a guarded label that may be called it (default: as --max-wrong)",
    )  # fmt: skip
    group.add_argument(
        "--confidence", type=_number, default=0.9, metavar="SHARE", help="of each of these bounds (%(default)s)"
    )
    group.add_argument(
        "--coverage", type=_number, default=0.95, metavar="SHARE",
        help="of the patients of a label whose prediction set holds it (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--never-answer", nargs="+", default=(), metavar="LABEL",
        help="labels that are not to be answered, so that few cases of them will do",
    )  # fmt: skip
    group.add_argument(
        "--keep-absent", action="store_true",
        help="labels without cases keep the bundle's limits; default: they are never answered",
    )  # fmt: skip


def _add_reading(group: argparse._ArgumentGroup) -> None:
    for role in _ROLES:
        group.add_argument(f"--{role}-column", metavar="NAME", help=f"column of the {role}; '' for none")
    group.add_argument(
        "--label-name", nargs="+", type=_renamed, default=(), metavar="OLD=NEW",
        help="names of labels that differ from the bundle's, such as covid=covid-19",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Calibrate or plan, print the report, return the exit status."""
    from cxr_edge.calibration import Promise

    promise = Promise(
        max_wrong=args.max_wrong, confidence=args.confidence, coverage=args.coverage, max_called=args.max_called
    )
    if args.plan:
        return _plan(args, promise)
    if args.bundle is None or args.cases is None or args.out is None:
        args.usage_error("expected BUNDLE, CASES and --out NEW, or --plan")
    from cxr_edge.site.calibrate import SiteRequest, calibrate
    from cxr_edge.site.cases import Reading

    columns = {role: getattr(args, f"{role}_column") for role in _ROLES}
    reading = Reading(
        columns={role: name for role, name in columns.items() if name is not None}, renamed=dict(args.label_name)
    )
    request = SiteRequest(
        promise=promise,
        reading=reading,
        never=tuple(args.never_answer),
        keep_absent=args.keep_absent,
        seed=args.seed,
        threads=args.threads,
    )
    report = calibrate(open_bundle(args, args.bundle), args.cases, args.out, request, say=print_message)
    if args.json:
        print_json(report.as_json())
    else:
        print_results("\n".join(report.lines()))
    return 0


def _plan(args: argparse.Namespace, promise: Promise) -> int:
    from cxr_edge.site.plan import plan_as_json, plan_lines

    if args.json:
        print_json(plan_as_json(promise))
    else:
        print_results("\n".join(plan_lines(promise)))
    return 0


def _number(text: str) -> float:
    """Parse a number (argparse type); its range is checked with the others."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a share such as 0.05, got {text[:40]!r}") from None


def _renamed(text: str) -> tuple[str, str]:
    """Parse OLD=NEW (argparse type)."""
    old, mark, new = (part.strip() for part in text.partition("="))
    if not (old and mark and new):
        raise argparse.ArgumentTypeError(f"expected OLD=NEW, such as covid=covid-19, got {text!r}")
    return old, new
