"""Study of the gate: which damaged engines do phantoms, a surrogate and real images refuse? `python -m training.gate_study`.

The bundle (`--bundle`, with a surrogate as its gate set) and the run folder of its training come in, for validation and test
images; JSON and Markdown come out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from cxr_edge.backends.cpu_info import processor_name
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.gate_set import read_gate_set
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import not_empty
from cxr_edge.records import Image
from training.data.dataset import Sample, data_folder
from training.data.targets import Target
from training.evaluation.gate_damage import damaged_engines
from training.evaluation.gate_pages import gate_as_markdown
from training.evaluation.gate_study import PHANTOMS, REAL, SURROGATE, TEST, GateComparison, GateStudy, ImageSets, rows
from training.json_records import as_stored, write_json
from training.recipes.arguments import add_out_argument, add_run_arguments
from training.recipes.config import load_config
from training.recipes.members import StarterRun
from training.shared_files import write_text

__all__ = ["main"]

_TEST_OF_LABEL = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the engines, write the page. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.gate_study", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml", run=("--run", "runs/starter"))
    parser.add_argument("--bundle", type=not_empty, default="starter", help="with a gate set (%(default)s)")
    parser.add_argument("--note", default="", help="paragraph for the page")
    add_out_argument(parser, "docs/results/gate")
    args = parser.parse_args(arguments)
    try:
        config = load_config(args.config)
        samples = StarterRun(config, data_folder(args.data), args.run).samples
        results = study(Bundle.open(args.bundle), samples, config.target, seed=config.seed, note=args.note)
    except CxrEdgeError as error:
        print(f"training.gate_study: {error}", file=sys.stderr)
        return 2
    write_json(args.out.with_suffix(".json"), results)
    write_text(args.out.with_suffix(".md"), gate_as_markdown(as_stored(results)))
    return 0


def study(bundle: Bundle, samples: Sequence[Sample], target: Target, *, seed: int, note: str = "") -> GateStudy:
    """Compare the damaged engines of the bundle. Raises InputError unless its gate set is a surrogate."""
    gate = read_gate_set(bundle)
    if gate is None or gate.kind != "surrogate":
        raise InputError("the study is of a bundle whose gate set is a surrogate: attach one with training.gate_set")
    each = len(gate.images) // len(target.labels)
    real, real_truth = _balanced(samples, target, "validation", each, seed)
    test, test_truth = _balanced(samples, target, "test", _TEST_OF_LABEL, seed)
    answers = bundle.manifest.known_answers
    sets = ImageSets(
        images={
            PHANTOMS: [decode(bundle.file(a.file)) for a in answers],
            SURROGATE: gate.images,
            REAL: real,
            TEST: test,
        },
        truth={
            PHANTOMS: [None] * len(answers),
            SURROGATE: [t if isinstance(t, int) else None for t in gate.truth],
            REAL: real_truth,
            TEST: test_truth,
        },
    )
    comparison = GateComparison(bundle, sets)
    found = rows(comparison, damaged_engines(bundle), lambda line: print(line, file=sys.stderr, flush=True))
    return GateStudy(
        bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
        seed=seed,
        images={name: len(images) for name, images in sets.images.items()},
        rows=found,
        machine=processor_name(),
        note=note,
    )


def _balanced(
    samples: Sequence[Sample], target: Target, side: str, each: int, seed: int
) -> tuple[list[Image], list[int | None]]:
    """Return at most `each` images of each label of a side, and their labels."""
    rng, images, truth = np.random.default_rng(seed), list[Image](), list[int | None]()
    for label in range(len(target.labels)):
        own = [s for s in samples if s.side == side and target.label_index(s.record.label) == label]
        for at in rng.permutation(len(own))[:each]:
            images.append(decode(own[at].record.path))
            truth.append(label)
    return images, truth


if __name__ == "__main__":
    sys.exit(main())
