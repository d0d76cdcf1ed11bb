"""The page of `training.papers_smoke`: its JSON in, Markdown out. No figure is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from training.markdown import table
from training.papers.hours import GPUS, MASKS, R20_IMAGES, TOP
from training.papers.records import Costs, MeasuredNetwork, PaperSmoke, Smoke

__all__ = ["page"]
_TITLES = {"r20": "R20 (`r20-full`)", "flannel": "FLANNEL (`flannel-full`)"}


def page(found: Smoke) -> str:
    """The whole page."""
    parts = [_opening(found)]
    for paper, p in found.papers.items():
        parts += [f"## {_TITLES[paper]}", _changes(p), _networks(p), _stages(p), _end(p)]
    return "\n\n".join([*parts, *_hours(found)]) + "\n"


def _opening(found: Smoke) -> str:
    m = found.machine
    costs: list[Costs | MeasuredNetwork] = []
    for p in found.papers.values():
        costs += [*p.networks.values(), *p.stages.values()]
    seconds, core = sum(c.seconds for c in costs), sum(c.cpu_s for c in costs)
    return (
        f"# The papers' recipes at full size, run for a few steps\n\nMade by `make papers-smoke` ({found.made}): both full "
        "configurations, with the papers' own networks at their own width, input size, batch and optimizer, through every stage, "
        f"on {found.images['all']} drawn X-rays in the published folders. It proves that the stages fit together, and what "
        "they cost; what was learnt is worth nothing. No GPU was used. ImageNet weights: "
        f"{found.imagenet}.\n\nMachine: {m.processor} ({m.vectors}), {m.cores} cores, {m.memory_gib} GiB, "
        f"{m.threads} threads, torch {m.torch}, {m.precision}; load average over 15 minutes {m.load}. *Peak* is the "
        "largest resident set of the row's process (`ru_maxrss`, libraries included). *Core seconds* are the processor time of "
        f"all its threads: less than {m.threads} times the seconds where the process waited, or other programs had the cores. "
        f"All rows together: {seconds / 60:.0f} minutes, {core / 60:.0f} core minutes."
    )


def _changes(p: PaperSmoke) -> str:
    shown = "; ".join(
        f"`{name}` {', '.join(f'{k} = {json.dumps(v)}' for k, v in values.items())}"
        for name, values in p.changed.items()
    )
    return f"Changed in the configuration: {shown}; threads; files in place of the hub's weights."


def _networks(p: PaperSmoke) -> str:
    head = ["network", "architecture", "parameters", "G MACs", "input", "batch"]
    head += ["trained/s", "trained/s, free cores", "asked/s", "asked/s, free cores", "peak MiB"]
    rows = [
        [
            n.network,
            n.architecture,
            f"{n.parameters:,}",
            f"{n.macs / 1e9:.3g}",
            "x".join(map(str, n.input)),
            n.batch,
            _rate(n.train_s),
            _rate(n.train_core_s / n.threads),
            _rate(n.ask_s),
            _rate(n.ask_core_s / n.threads),
            f"{n.peak_mib:.0f}",
        ]
        for n in p.networks.values()
    ]
    return (
        "Each network alone, a process each: one optimizer step of a batch (the fastest of up to three; one where the first "
        "takes ten seconds), and four images without gradients. Images a second by the clock, and by core seconds over threads: "
        f"what cores with nothing else to do would give.\n\n{table(head, rows)}"
    )


def _rate(seconds: float) -> str:
    return _three_digits(1 / seconds) if seconds else "-"


def _stages(p: PaperSmoke) -> str:
    rows = [
        [
            f"{name}{' (resumed)' if s.resumed else ''}",
            f"{s.seconds:.0f}",
            f"{s.cpu_s:.0f}",
            f"{s.peak_mib:.0f}",
        ]
        for name, s in p.stages.items()
    ]
    return table(["process", "seconds", "core seconds", "peak MiB"], rows)


def _end(p: PaperSmoke) -> str:
    rows = [[e.part, e.precision, e.status, e.reason or ""] for e in p.engines]
    return (
        "It ended in the paper's tables and a bundle, whose engines passed the parity gate and answered "
        f"{p.screened} files:\n\n{table(['engine', 'precision', 'status', 'reason'], rows)}"
    )


def _hours(found: Smoke) -> Iterator[str]:
    m = found.machine
    gpus = "; ".join(
        f"{g.name} {100 * g.utilisation[0]:.0f} to {100 * g.utilisation[1]:.0f} % of {g.peak_tflops:g} TFLOP/s"
        for g in GPUS
    )
    yield (
        "## Hours of the true recipes\n\nCPU: measured core seconds an image over the threads "
        f"({m.threads}, {m.precision}), times the images of the papers' collections and the configurations' epochs. GPU: "
        "**estimated, not measured**: two operations a multiply-accumulate, a step three times a forward pass, at an assumed "
        f"share of the data sheet's dense bfloat16 peak ({gpus}). NVIDIA's own ResNet-50 trains at 19 % of an A100's peak in "
        "batches of 256 (2,470 images/s, DeepLearningExamples), and a V100 asked in batches of 16 gives a third of its rate at "
        "256; these recipes have batches of 2 to 16, and many of their layers are small or depthwise. Reading images, "
        "export and reports are in no column. The lower bound has every training stopped by its patience as early as it can "
        "be, the upper one none; pruned networks count as whole ones."
    )
    yield (
        f"Images: R20's Table 1, training part, of which a tenth validates (modality {R20_IMAGES['modality']:,}, binary "
        f"{R20_IMAGES['binary']:,}, all labels {R20_IMAGES['multiclass']:,}); {MASKS} masks (our assumption: the paper gives no "
        f"number); {', '.join(TOP)} go on, as in the paper. FLANNEL's Table 1: five folds of 4,406 images."
    )
    for paper, p in found.papers.items():
        machines = list(p.hours[0].by_machine)
        rows = [[h.stage, _range(h.trained, 1e6), *(_range(h.by_machine[m]) for m in machines)] for h in p.hours]
        titles = [f"{m}, hours{'' if m == 'CPU' else ' (estimated)'}" for m in machines]
        yield f"### {_TITLES[paper]}\n\n{table(['stage', 'million images trained', *titles], rows)}"


def _range(bounds: Sequence[float], unit: float = 1.0) -> str:
    low, high = (_three_digits(b / unit) for b in bounds)
    return low if low == high else f"{low} to {high}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
