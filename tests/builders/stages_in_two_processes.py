"""What test_stages_in_two_processes.py runs: every stage of both papers, each by a command of its own, in two processes.

The processes meet a fixed number of times in a stage. If one met the others once more, as in something that only the first
asks for, it would wait for ever, or be left alone when the others end.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tests.builders.cheap import make_cheap, trace_exports
from tests.builders.two_processes import launch
from tests.training.recipes.kills import make_data
from training import reproduce
from training.parallel import barrier, world
from training.recipes.flannel.stages import AUGMENTED
from training.recipes.run import PREDICTIONS


def main(folder: Path) -> None:
    """What each process runs."""
    warnings.simplefilter("ignore")
    make_cheap(), trace_exports()
    Figure.savefig = lambda _, file, **__: Path(file).touch()  # type: ignore[method-assign, assignment]
    if world().is_main:
        make_data(folder)
        _write_configs(folder)
    barrier(world())
    _stages(folder, "r20", "r20", [s for s in reproduce.R20_STAGES if s != "search"])
    _stages(folder, "flannel", "flannel", reproduce.FLANNEL_STAGES)
    # Trained and pruned, but a kill came before the answers: the first process alone has something to do.
    if world().is_main:
        for name in (PREDICTIONS, AUGMENTED):
            for file in (folder / "flannel").glob(f"pruned/*/*/*/{name}"):
                file.unlink()
    _stages(folder, "flannel", "flannel", ("prune", "augmented"))
    _stages(folder, "r20", "taken", ("segment", "task"), "--segmenter-of", str(folder / "r20"))
    (folder / f"done-{world().rank}").touch()


def _write_configs(folder: Path) -> None:
    text = (folder / "r20.toml").read_text()
    searched = text[text.index("[search]") : text.index("[modality]")]
    (folder / "r20.toml").write_text(text.replace(searched, ""))  # torchrun does not search
    (folder / "taken.toml").write_text(f"networks = {json.dumps(str(folder / 'r20'))}\n" + text.replace(searched, ""))


def _stages(folder: Path, paper: str, run: str, stages: Sequence[str], *more: str) -> None:
    places = {"--config": f"{run}.toml", "--data": "data", "--out": run, "--results": f"{run}-results"}
    given = [text for option, name in places.items() for text in (option, str(folder / name))]
    for stage in stages:
        assert reproduce.main([paper, *given, "--stage", stage, *more]) == 0, stage


if __name__ == "__main__":
    launch(main, Path(sys.argv[1]))
