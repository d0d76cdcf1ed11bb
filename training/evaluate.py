"""Evaluation on test patients: a bundle and a run folder in, JSON and Markdown out: `python -m training.evaluate`.

Test patients' files go through the deployed path (`Screener`), as on a device. Besides the figures of the ensemble and of
each member, the report has those that a good average hides: adult normals, each source, findings outside the labels, the
lungs painted over, and the accuracy of a source classifier.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.engines import EngineSet
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import not_empty, path_argument
from training.data.canvases import Canvases
from training.data.dataset import Sample, data_folder, load
from training.evaluation.bundle import evaluate
from training.evaluation.finding_bundle import evaluate_findings
from training.evaluation.finding_pages import findings_as_markdown
from training.evaluation.pages import results_as_markdown
from training.json_records import write_json
from training.recipes.arguments import add_out_argument, add_run_arguments
from training.recipes.config import Config, load_config
from training.shared_files import write_text

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate a bundle and write OUT.json and OUT.md. Returns 0, or 2 for invalid inputs."""
    args = _parser().parse_args(arguments)
    try:
        bundle, config = Bundle.open(args.bundle), load_config(args.config)
        samples = load(data_folder(args.data), args.run / "table.csv")
        canvases = Canvases.load(args.run / "canvases.npz")
        built = None if args.engines is None else engines.load(bundle, args.engines, threads=1)
        page = _evaluate(bundle, samples, canvases, config, built, args.out.with_suffix(".json"))
    except CxrEdgeError as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 2
    write_text(args.out.with_suffix(".md"), page)
    return 0


def _evaluate(
    bundle: Bundle, samples: Sequence[Sample], canvases: Canvases, config: Config, built: EngineSet | None, file: Path
) -> str:
    """Write the results to `file`. Returns the page. Raises InputError for a configuration of another kind of labels."""
    if bundle.manifest.multi_label != config.multi_label:
        kinds = {True: "findings (multi_label = true)", False: "labels that exclude each other"}
        raise InputError(
            f"{bundle.root} has {kinds[bundle.manifest.multi_label]}, the configuration {kinds[config.multi_label]}: give the "
            "configuration and the run folder that made the bundle"
        )
    if bundle.manifest.multi_label:
        findings = evaluate_findings(bundle, samples, canvases, config, built=built)
        write_json(file, findings)
        return findings_as_markdown(findings)
    results = evaluate(bundle, samples, canvases, config, built=built)
    write_json(file, results)
    return results_as_markdown(results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml")
    add_out_argument(parser, "docs/results/starter")
    parser.add_argument(
        "--bundle", type=not_empty, default="starter", help="folder of the bundle, or the word starter (%(default)s)"
    )
    parser.add_argument(
        "--engines", type=path_argument, help="engines built from it, to evaluate beside the fp32 reference"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
