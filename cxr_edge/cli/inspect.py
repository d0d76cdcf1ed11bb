"""`cxr-edge inspect BUNDLE`: check a bundle without running it, and show its content; `--against OLD`: what changes from OLD.

The table is for a person who decides whether to trust the bundle; `--json` prints the full manifest and the facts about
the networks for a program. The exit status is 3 if the bundle cannot be used; the message gives the reason.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cxr_edge.backends.cpu_quota import available_cores
from cxr_edge.bundle import ENGINES_DIR, Bundle
from cxr_edge.bundle.gate_set import read_gate_set
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.onnx_check import Network, check_networks
from cxr_edge.cli.arguments import add_signature, open_bundle
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.drift import Reference
from cxr_edge.engines.records import BUILD_FILE, BuildRecord
from cxr_edge.errors import BundleError, ContractError, InputError
from cxr_edge.names import not_empty, path_argument, printable
from cxr_edge.specs.budget import ErrorBudget, OperatingPoint
from cxr_edge.specs.combination import DEFAULT_THRESHOLD, Combination, Decision
from cxr_edge.specs.degraded import ModeFigures
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["add_parser", "run"]

_DIGEST_SHOWN = 12  # characters of a SHA-256, enough to compare by eye


def add_parser(subparsers: Any) -> None:
    """Add the `inspect` command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "inspect",
        help="check a bundle and show its content",
        description="Check a bundle (files, digests, networks) without running it, and show its content.",
    )
    parser.add_argument(
        "bundle",
        type=not_empty,
        metavar="BUNDLE",
        help="folder of the bundle; `starter` is the packaged one",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: the full manifest and facts about the networks"
    )
    changes = parser.add_argument_group("change plan")
    changes.add_argument(
        "--against", type=not_empty, metavar="OLD",
        help="print what changes from the bundle OLD, the tests of the change, and its impact, under the headings of the FDA's "
        "guidance on change control plans",
    )  # fmt: skip
    changes.add_argument(
        "--images", type=path_argument, metavar="FOLDER",
        help="X-rays to compare decisions on (default: images of the bundle)",
    )  # fmt: skip
    add_signature(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the bundle, or the change plan. Raises BundleError or ContractError, after printing it as JSON if requested."""
    if args.images is not None and args.against is None:
        raise InputError("--images goes with --against OLD: leave it out, or name the bundle to compare with")
    try:
        return _print_bundle(args) if args.against is None else _print_changes(args)
    except (BundleError, ContractError) as error:
        if args.json:
            print_json({"usable": False, "error": str(error)})
        raise


def _print_bundle(args: argparse.Namespace) -> int:
    from cxr_edge.cli.signature_facts import signature_facts

    bundle = open_bundle(args, args.bundle)
    signature = signature_facts(args, bundle)
    networks = check_networks(bundle)
    Reference.of_bundle(bundle)
    read_gate_set(bundle)
    if args.json:
        print_json(_as_json(bundle, networks, signature))
    else:
        print_results("\n".join(_lines(bundle, networks, signature)))
    return 0


def _print_changes(args: argparse.Namespace) -> int:
    from cxr_edge.changes.plan import change_plan

    old, new = Bundle.open(args.against), open_bundle(args, args.bundle)
    plan = change_plan(old, new, images=args.images, threads=available_cores(), say=print_message)
    if args.json:
        print_json(plan.as_json())
    else:
        print_results("\n".join(plan.lines()))
    return 0


def _as_json(bundle: Bundle, networks: tuple[Network, ...], signature: dict[str, Any]) -> dict[str, Any]:
    return {
        "usable": True,
        "root": str(bundle.root),
        "digest": bundle.digest,
        "signature": signature,
        "networks": _network_facts(bundle, networks),
        "engines": _engines(bundle),
        "operating_points": {name: point.as_json() for name, point in _moved_points(bundle).items()},
        "unlisted_files": list(bundle.unlisted_files()),
        "manifest": bundle.manifest.as_json(),
    }


def _network_facts(bundle: Bundle, networks: tuple[Network, ...]) -> list[dict[str, Any]]:
    facts = [{**asdict(n), "path": n.path.relative_to(bundle.root).as_posix()} for n in networks]
    for fact, kind in zip(facts, _output_kinds(bundle.manifest), strict=True):
        del fact["activation"]  # which decides whether the bundle is usable
        fact["output"] = kind
    return facts


def _lines(bundle: Bundle, networks: tuple[Network, ...], signature: dict[str, Any]) -> Iterator[str]:
    from cxr_edge.cli.signature_facts import signature_text

    manifest = bundle.manifest
    yield f"{manifest.name} {manifest.version}, created {manifest.created}"
    yield from _pairs(
        {
            "Folder": str(bundle.root),
            "Digest": bundle.digest,
            "Counter": str(manifest.counter) if manifest.counter else "none, older versions are not noticed",
            "Signature": signature_text(signature),
            "Intended use": manifest.intended_use,
            "Findings" if manifest.multi_label else "Labels": ", ".join(manifest.labels),
            "Combination": _combination(manifest.combination),
            "Decision": _decision(manifest),
            **({} if manifest.budget is None else {"Error budget": _budget(manifest.budget)}),
            "Lung box": _lung_box(manifest),
            "Refusals": _refusals(manifest),
            "Known answers": ", ".join(k.file.path for k in manifest.known_answers) or "none",
            "Decoded files": ", ".join(f.file.path for f in manifest.decoded_files) or "none, decoding is not compared",
            "Gate set": _gate_set(manifest),
            "Reference": _reference(bundle),
            "Model card": manifest.model_card.path,
        }
    )
    yield ""
    yield from _table(_network_rows(manifest, networks))
    if manifest.degraded:
        yield from ["", "Degraded modes: when these members alone answer", *_table(_mode_rows(manifest))]
        yield f"  Figures on {manifest.degraded[0].measured_on}{_of_guard(manifest.degraded[0].guard)}"
    for title, facts in (("Metrics", manifest.metrics), ("Provenance", manifest.provenance)):
        yield from ["", title, *_tree(facts, "  ")]
    yield from ["", "Engines", *_engine_lines(bundle)]
    if unlisted := bundle.unlisted_files():
        yield f"\nNot in the manifest, and not used: {', '.join(map(printable, unlisted))}"
    yield "\nAll files are unaltered, and the networks match the manifest."


def _network_rows(manifest: Manifest, networks: tuple[Network, ...]) -> Iterator[tuple[str, ...]]:
    yield (
        "Network",
        "Architecture",
        "Parameters",
        "MACs",
        "Size",
        "Output",
        "CAM",
        "int8 ranges",
        "Preprocessing",
        "Digest",
    )
    entries: list[tuple[str, str, bool, PreprocessSpec]] = []  # architecture, CAM, activation ranges, preprocessing
    if (s := manifest.segmenter) is not None:
        entries.append(("lung segmenter", "", s.activation_ranges is not None, s.preprocess))
    entries += [
        (m.architecture, "yes" if m.has_cam else "no", m.activation_ranges is not None, m.preprocess)
        for m in manifest.members
    ]
    if (c := manifest.checker) is not None:
        entries.append(("image checker", "", False, c.preprocess))
    kinds = _output_kinds(manifest)
    for network, kind, (architecture, cam, ranges, spec) in zip(networks, kinds, entries, strict=True):
        yield (
            network.name,
            architecture,
            _short(network.parameters),
            _short(network.macs),
            f"{_short(network.size_bytes)}B",
            kind,
            cam,
            "yes" if ranges else "no",
            _preprocessing(spec),
            spec.digest()[:_DIGEST_SHOWN],
        )


def _mode_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    first = manifest.degraded[0]
    names = list(first.figures_of_all.by_name())
    yield ("  Members", "Combination", "Decision", *names)
    yield (
        "  all",
        manifest.combination.strategy,
        _thresholds(manifest.decision),
        *_figures(first.figures_of_all, names),
    )
    for mode in manifest.degraded:
        cells = _figures(mode.figures, names)
        yield (f"  {', '.join(mode.members)}", mode.combination.strategy, _thresholds(mode.decision), *cells)


def _of_guard(guard: str | None) -> str:
    return "" if guard is None else f"; sensitivity and specificity of {guard}"


def _figures(figures: ModeFigures, names: list[str]) -> list[str]:
    found = figures.by_name()
    return [f"{found[name]:.3f}" if name in found else "-" for name in names]


def _thresholds(decision: Decision) -> str:
    limits = ", ".join(f"{label} from {value:.3g}" for label, value in decision.thresholds.items())
    return limits or "no thresholds"


def _output_kinds(manifest: Manifest) -> list[str]:
    """Return the kind of each network's output, in the order of `check_networks`."""
    segmenter = [] if manifest.segmenter is None else ["mask"]
    checker = [] if manifest.checker is None else ["scores"]
    return [*segmenter, *(m.output for m in manifest.members), *checker]


def _preprocessing(spec: PreprocessSpec) -> str:
    crop = f" crop {spec.crop_px}" if spec.crop_px != spec.canvas_px else ""
    median = ", median" if spec.median else ""
    scaling = {"none": "0..1", "fixed": "fixed mean/std", "image": "mean/std of the image"}[spec.standardize]
    channels = f"{spec.channels} channel{'s' if spec.channels > 1 else ''}"
    return f"{spec.region} {spec.canvas_px} px{crop}{median}, {scaling}, {channels}, {spec.dtype}"


def _combination(combination: Combination) -> str:
    weights = combination.parameters.get("weights", ())
    detail = f" ({', '.join(f'{w:.3g}' for w in weights)})" if weights else ""
    temperatures = ", ".join(f"{t:.3g}" for t in combination.member_temperatures)
    of_labels = ", ".join(f"{t:.3g}" for t in combination.label_temperatures)
    by_label = f", of the findings {of_labels}" if of_labels else ""
    return f"{combination.strategy}{detail}; temperature {combination.temperature:.3g}, of the members {temperatures}{by_label}"


def _decision(manifest: Manifest) -> str:
    uncertain = f"uncertain below {manifest.decision.uncertain_below:.3g}"
    if manifest.multi_label:
        limits = ", ".join(f"{label} from {manifest.decision.threshold_of(label):.3g}" for label in manifest.labels)
        return f"present: {limits}; {uncertain}"
    first = manifest.decision.first
    rules = ", ".join(
        f"{label} from {value:.3g}{' even if another is more probable' if label in first else ''}"
        for label, value in manifest.decision.thresholds.items()
    )
    rules = rules or "no thresholds"
    return f"{rules}; {uncertain}"


def _budget(budget: ErrorBudget) -> str:
    answered = [f"{k} from {v.answer_from:.3g}" for k, v in budget.labels.items() if v.answer_from is not None]
    never = [k for k, v in budget.labels.items() if v.answer_from is None]
    return (
        f"at most {budget.max_wrong:.1%} of the answers of a label wrong (confidence {budget.confidence:.0%}), sets cover "
        f"{budget.coverage:.1%}; answered: {', '.join(answered) or 'none'}; never: {', '.join(never) or 'none'}; fitted on "
        f"{budget.fitted_on}"
    )


def _gate_set(manifest: Manifest) -> str:
    if (gate := manifest.gate_set) is None:
        return "none, engines are compared on the known answers"
    counts = ", ".join(f"{label} {count}" for label, count in gate.counts.items())
    what = "draws of a surrogate" if gate.kind == "surrogate" else "real images"
    terms = f"{printable(gate.attribution)}; licence: {printable(gate.licence)}"
    return f"{gate.images} {what} ({counts}) in {gate.file.path}; {terms}"


def _reference(bundle: Bundle) -> str:
    reference = Reference.of_bundle(bundle)
    if reference is None:
        return "none, drift is not measured"
    return f"{reference.exams} exams, {len(reference.statistics)} statistics: {printable(reference.of)}"


def _lung_box(manifest: Manifest) -> str:
    if manifest.segmenter is None:
        return "none, members get the full frame"
    rule = manifest.segmenter.lung_box
    return (
        f"mask from {rule.threshold:.3g}, margin {rule.margin:.0%}; valid if it covers "
        f"{rule.min_area:.0%} to {rule.max_area:.0%} of the frame with an aspect of {rule.min_aspect:.3g} to "
        f"{rule.max_aspect:.3g}"
    )


def _refusals(manifest: Manifest) -> str:
    if (checker := manifest.checker) is None:
        return "none, every image is answered"
    limits = checker.limits
    checks = ", ".join(f"{c.code} {'up to' if c.below else 'from'} {c.limit:.4g}" for c in checker.checks)
    return (
        f"made for {'patients of any age' if checker.population == 'any' else checker.population}; too_small below "
        f"{limits.min_side_px} px, blank below a contrast of {limits.min_contrast:.3g}, saturated above "
        f"{limits.max_saturated:.0%}; {checks or 'no scores'}"
    )


def _engines(bundle: Bundle) -> dict[str, list[str]]:
    """Return engine file names by backend. Whether they match this machine is checked by `screen` and `bench`."""
    folders = sorted(p for p in (bundle.root / ENGINES_DIR).glob("*") if p.is_dir())
    return {p.name: sorted(f.relative_to(p).as_posix() for f in p.rglob("*") if f.is_file()) for p in folders}


def _engine_lines(bundle: Bundle) -> list[str]:
    lines, moved = [], _moved_points(bundle)
    for name, files in _engines(bundle).items():
        lines.append(f"  {printable(name)}: {', '.join(map(printable, files)) or 'none'}")
        lines += [f"    limits of these engines: {_moves(bundle, moved[name])}"] if name in moved else []
    return lines or [f"  none yet: cxr-edge build-engine {bundle.root}"]


def _moved_points(bundle: Bundle) -> dict[str, OperatingPoint]:
    """Return the operating points of built engines that differ from the manifest's, by backend."""
    found = {}
    for name in _engines(bundle):
        try:
            record = BuildRecord.read(bundle.root / ENGINES_DIR / name / BUILD_FILE)
        except ValueError:  # which `screen` refuses
            continue
        if record.operating_point is not None and record.bundle_sha256 == bundle.digest:
            found[name] = record.operating_point
    return found


def _moves(bundle: Bundle, point: OperatingPoint) -> str:
    """Return the limits that differ from the manifest's."""
    manifest = OperatingPoint(decision=bundle.manifest.decision, budget=bundle.manifest.budget).limits()
    return "; ".join(
        f"{name} {_limit(manifest.get(name, DEFAULT_THRESHOLD))} -> {_limit(value)}"
        for name, value in point.limits().items()
        if value != manifest.get(name, DEFAULT_THRESHOLD)
    )


def _limit(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _pairs(pairs: dict[str, str]) -> Iterator[str]:
    width = max(map(len, pairs))
    for key, value in pairs.items():
        indented = value.replace("\n", "\n" + " " * (width + 2))
        yield f"{key:<{width}}  {indented}"


def _table(rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _tree(value: Any, indent: str) -> Iterator[str]:
    """Yield any JSON object as indented lines."""
    if not value:
        yield f"{indent}none"
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{indent}{printable(key)}"
            yield from _tree(item, indent + "  ")
        else:
            text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
            yield f"{indent}{printable(key)}: {printable(text)}"


def _short(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)
