"""Both papers' full-size recipes on drawn X-rays, as far as a CPU goes: `make papers-smoke` or `python -m training.papers_smoke`.

The full configurations as they are today in; out, after every stage of both pipelines at the networks' own width, input size and
batch: tables, bundles, engines, a screening, and what each stage and network took (docs/results/papers-smoke.json and .md). Only
lengths differ (`shortened`). Every stage is a process of its own; killed, the same command goes on at the stage that was not
finished. It ends with status 1 and the reason where a stage fails or gives less than it should.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from cxr_edge.backends.cpu_quota import available_cores
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import path_argument
from training.data.drawn_collections import Counts, draw
from training.json_records import from_json, read_json, write_json
from training.papers import page
from training.papers.hours import hours, total, work_of
from training.papers.records import Done, Engine, Machine, MeasuredNetwork, PaperSmoke, Smoke
from training.papers.speed import CONFIGS, PAPERS, PaperConfig, Speed, networks_of, published
from training.parallel import computes_bfloat16
from training.recipes.r20.config import R20Config
from training.reproduce import FLANNEL_STAGES, R20_STAGES
from training.shared_files import write_text

__all__ = ["Command", "commands", "main", "shortened", "toml"]

STAGES: Mapping[str, Sequence[str]] = {"r20": R20_STAGES, "flannel": FLANNEL_STAGES}
# What the last stage must have left in the folder of tables.
TABLES: Mapping[str, Sequence[str]] = {
    "r20": (*(f"table-{n}-*.csv" for n in range(2, 8)), "results.json", "index.md"),
    "flannel": ("table-1-data.csv", "table-3-methods.csv", "results.json", "index.md"),
}
_STEPS = 2  # of pruning
_FINISHED = "finished"  # a file in the folder of a finished smoke
_TAIL = 15  # lines of a log that a message quotes

# Started by a process that holds nothing: a child's peak memory counts from what the process that started it held.
_WATCH = (
    "import json, resource, subprocess, sys; out = open(sys.argv[2], 'wb');"
    "rc = subprocess.run(sys.argv[4:], stdout=out, stderr=open(sys.argv[3], 'ab')).returncode;"
    "u = resource.getrusage(resource.RUSAGE_CHILDREN);"
    "json.dump({'rc': rc, 'peak_kib': u.ru_maxrss, 'cpu_s': u.ru_utime + u.ru_stime}, open(sys.argv[1], 'w'))"
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One process of the smoke. name: as the results call it. arguments: of this interpreter."""

    name: str
    arguments: tuple[str, ...]


@dataclass(kw_only=True)
class _Smoke:
    """out: the folder that everything is made in. done: command -> what it took, as in PAPER.json, written after each."""

    out: Path
    threads: int
    precision: str
    hub: bool
    done: dict[str, Done] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.out / "data"


def shortened(config: PaperConfig, weights: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the settings that the smoke changes in a full configuration: TOML tables by name, "" for the top.

    Lengths: an epoch (one or two steps of the images drawn; the segmenter's batch of 2 makes five) and a trial where there
    are many, two steps of pruning, two folds, fewer images, resamples and cases of reports. weights: network -> file in place
    of the hub's.
    """
    one = {"epochs": 1}
    top = {"range_images": 4, "known_answers": 2, "resamples": 50, "cam_cases": 2}
    own = {f"{kind}.{name}": {"imagenet": weights[name]} for kind, name in _from_imagenet(config) if name in weights}
    if isinstance(config, R20Config):
        pruned: dict[str, dict[str, Any]] = {"prune": {"until": _STEPS * config.prune.step}, "prune.retrain": one}
        stages: dict[str, dict[str, Any]] = {
            "segmenter": one,
            "search": {"trials": 1, "epochs": 1},
            "modality": one,
            "binary": one,
            "multiclass": one,
        }
        return {"": {"name": "papers-smoke-r20", **top}, **stages, **pruned, **own}
    return {"": {"name": "papers-smoke-flannel", "folds": 2, **top}, "learn": one, "fit": {"epochs": 1}, **own}


def _from_imagenet(config: PaperConfig) -> Iterator[tuple[str, str]]:
    """Table and name of every network that starts from ImageNet's weights."""
    if isinstance(config, R20Config):
        yield from (("members", name) for name, m in config.members.items() if m.imagenet is not None)
        return
    for kind, networks in (("learners", config.learners), ("baselines", config.baselines)):
        yield from ((kind, name) for name, m in networks.items() if m.imagenet is not None)


def toml(base: Path, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """A configuration that extends `base` by tables, "" being the top."""
    lines = [f"extends = {json.dumps(str(base))}"]
    for name, values in tables.items():
        lines += [f"\n[{name}]"] if name else []
        lines += [f"{k} = {json.dumps(v)}" for k, v in values.items()]
    return "\n".join(lines) + "\n"


def commands(smoke: _Smoke, paper: str) -> Iterator[Command]:
    """All processes of a paper, in order: its networks alone, its stages, its engines, a screening."""
    config, folder = published(paper), smoke.out / paper
    starts = {name for _, name in _from_imagenet(config)}
    for name in networks_of(config):
        weights = ("--weights", str(_weights(smoke, paper, name))) if name in starts and not smoke.hub else ()
        measure = ("-m", "training.papers.speed", paper, name, "--threads", str(smoke.threads), *weights)
        yield Command(name=f"{paper} network {name}", arguments=measure)
    given = (
        "--config",
        folder.with_suffix(".toml"),
        "--data",
        smoke.data,
        "--out",
        folder,
        "--results",
        folder / "results",
    )
    for stage in STAGES[paper]:
        arguments = ("-m", "training.reproduce", paper, *map(str, given), "--stage", stage)
        yield Command(name=f"{paper} stage {stage}", arguments=arguments)
    cli = ("-c", "import sys; from cxr_edge.cli import main; sys.exit(main())")
    engines = ("--engines", str(folder / "engines"), "--json")
    build = (*cli, "build-engine", str(folder / "bundle"), *engines, "--precision", smoke.precision)
    yield Command(name=f"{paper} build-engine", arguments=(*build, "--threads", str(smoke.threads)))
    shown = sorted(
        str(next(smoke.data.glob(pattern))) for pattern in ("rsna/*/*.dcm", "chest_xray/*/*/*.jpeg", "*/images/*.png")
    )
    yield Command(
        name=f"{paper} screen", arguments=(*cli, "screen", *shown, "--bundle", str(folder / "bundle"), *engines)
    )


def _weights(smoke: _Smoke, paper: str, name: str) -> Path:
    return (smoke.out / "weights" / f"{paper}-{name}.safetensors").absolute()


def _write_config(smoke: _Smoke, paper: str) -> None:
    config = published(paper)
    weights = {} if smoke.hub else {name: str(_weights(smoke, paper, name)) for _, name in _from_imagenet(config)}
    tables = shortened(config, weights)
    tables[""]["threads"] = smoke.threads
    write_text(smoke.out / f"{paper}.toml", toml(CONFIGS.absolute() / f"{paper}-full.toml", tables))


def _run(smoke: _Smoke, command: Command) -> None:
    """Run a command and note what it took; one that is noted is done. Raises InputError with the end of its log."""
    if command.name in smoke.done:
        return
    print(command.name, file=sys.stderr, flush=True)
    stem = smoke.out / "logs" / command.name.replace(" ", "-")
    stem.parent.mkdir(parents=True, exist_ok=True)
    taken, out, log = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("json", "out", "log"))
    again = log.exists()
    begin = time.monotonic()
    watched = [sys.executable, "-c", _WATCH, *map(str, (taken, out, log)), sys.executable, *command.arguments]
    on_cpu = {"OMP_NUM_THREADS": str(smoke.threads), "CUDA_VISIBLE_DEVICES": ""}
    if subprocess.run(watched, env={**os.environ, **on_cpu}, check=False).returncode:
        raise InputError(f"{command.name}: could not be started")
    used = json.loads(taken.read_text())
    if used["rc"]:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
        raise InputError(f"{command.name} ended with status {used['rc']}; the end of {log}:\n{tail}")
    text = out.read_text()
    smoke.done[command.name] = Done(
        seconds=time.monotonic() - begin,
        cpu_s=used["cpu_s"],
        peak_mib=used["peak_kib"] / 1024,
        resumed=again,
        output=json.loads(text) if text.startswith("{") else None,
    )
    paper = command.name.split()[0]
    write_json(_state(smoke, paper), _done(smoke, paper))


def _done(smoke: _Smoke, paper: str) -> dict[str, Done]:
    return {name: d for name, d in smoke.done.items() if name.startswith(f"{paper} ")}


def _state(smoke: _Smoke, paper: str) -> Path:
    return smoke.out / f"{paper}.json"


def _load(smoke: _Smoke, paper: str) -> None:
    if _state(smoke, paper).exists():
        smoke.done |= {name: from_json(Done, d) for name, d in read_json(dict, _state(smoke, paper)).items()}


def _check(smoke: _Smoke, paper: str) -> None:
    """Raises InputError unless the paper ended in tables, engines of every part and answers."""
    results = smoke.out / paper / "results"
    if missing := [pattern for pattern in TABLES[paper] if not any(results.glob(pattern))]:
        raise InputError(
            f"{paper}: {results} holds no {', '.join(missing)}: the stage tables wrote less than the paper's"
        )
    built = smoke.done[f"{paper} build-engine"].output
    if not built["complete"]:
        raise InputError(f"{paper}: a part of the bundle has no engine: {json.dumps(built['rows'])}")
    for answer in smoke.done[f"{paper} screen"].output["results"]:
        odds = answer.get("probabilities", {}).values()
        if not (odds and all(map(math.isfinite, odds)) and math.isclose(sum(odds), 1, abs_tol=1e-3)):
            raise InputError(f"{paper}: {answer.get('source')} was not answered: {json.dumps(answer)}")


def _found(smoke: _Smoke) -> Smoke:
    return Smoke(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=_machine(smoke),
        images={**asdict(Counts()), "all": Counts().images},
        imagenet="timm's hub" if smoke.hub else "random weights in files of timm's layout",
        papers={paper: _paper(smoke, paper) for paper in PAPERS},
    )


def _paper(smoke: _Smoke, paper: str) -> PaperSmoke:
    config, took = published(paper), _done(smoke, paper)
    networks = {n: took[f"{paper} network {n}"] for n in networks_of(config)}
    speeds = {n: from_json(Speed, d.output) for n, d in networks.items()}
    rows = hours(work_of(config), speeds)
    return PaperSmoke(
        changed={name or "(top)": values for name, values in shortened(config, {}).items()},
        networks={n: MeasuredNetwork(**vars(speeds[n]), **vars(d.costs)) for n, d in networks.items()},
        stages={n.removeprefix(f"{paper} "): d.costs for n, d in took.items() if " network " not in n},
        engines=tuple(from_json(Engine, row) for row in took[f"{paper} build-engine"].output["rows"]),
        screened=len(took[f"{paper} screen"].output["results"]),
        hours=(*rows, total(rows)),
    )


def _machine(smoke: _Smoke) -> Machine:
    cpus = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        processor=cpus[0] if cpus else platform.processor(),
        precision="bf16" if computes_bfloat16(torch.device("cpu")) else "fp32",
        vectors=torch.backends.cpu.get_cpu_capability(),
        cores=available_cores(),
        memory_gib=round(memory, 1),
        threads=smoke.threads,
        load=round(os.getloadavg()[2], 1),
        torch=torch.__version__,
    )


def _smoke(args: argparse.Namespace) -> None:
    if (args.out / _FINISHED).exists():
        shutil.rmtree(args.out)  # a new smoke tests today's recipes
    smoke = _Smoke(out=args.out, threads=args.threads, precision=args.precision, hub=args.imagenet == "hub")
    draw(smoke.data, Counts())
    for paper in PAPERS if args.paper is None else (args.paper,):
        _load(smoke, paper)
        _write_config(smoke, paper)
        for command in commands(smoke, paper):
            _run(smoke, command)
        _check(smoke, paper)
    if args.paper is None:
        write_json(args.results.with_suffix(".json"), _found(smoke))
        (args.out / _FINISHED).touch()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the smoke and write OUT.json and OUT.md. Returns 0, or 1 where a paper's recipe does not come to its end."""
    parser = argparse.ArgumentParser(prog="python -m training.papers_smoke", description=__doc__)
    parser.add_argument(
        "--out", type=path_argument, default=Path("build/papers-smoke"), help="folder of the runs (%(default)s)"
    )
    parser.add_argument(
        "--results", type=path_argument, default=Path("docs/results/papers-smoke"), help="without suffix (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=available_cores(), help="all cores by default (%(default)s)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "auto"),
        default="fp32",
        help="of the engines; auto tries int8 too (%(default)s)",
    )
    parser.add_argument(
        "--imagenet",
        choices=("random", "hub"),
        default="random",
        help="hub downloads timm's weights; random puts files of random weights in their place (%(default)s)",
    )
    parser.add_argument("--paper", choices=PAPERS, help="one paper only, and no page: for two at a time")
    parser.add_argument("--page", action="store_true", help="only write the page again from the JSON")
    args = parser.parse_args(arguments)
    try:
        if not args.page:
            _smoke(args)
        if args.paper is not None:
            return 0
        found = read_json(Smoke, args.results.with_suffix(".json"))
    except (CxrEdgeError, OSError) as error:
        print(f"training.papers_smoke: {error}", file=sys.stderr)
        return 1
    write_text(args.results.with_suffix(".md"), page.page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
