"""Several seeds of one recipe as one page: the tables of each seed's results folder in, the same tables with mean (sd) out.

A figure of one training says little where another seed gives another one. `results.json` keeps every seed's value of every
cell; `python -m training.seeds FOLDER` writes page and tables again from it.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cxr_edge.errors import InputError
from training.loop.settings import TRAINING
from training.markdown import Table, write_results
from training.recipes.config import RunConfig
from training.recipes.seed_runs import networks_of, seed_folder, with_seed
from training.recipes.segmenter import SEGMENTER
from training.shared_files import write_text

__all__ = ["aligned", "as_table", "check_folder", "gathered", "main", "read_table", "write_page"]

Json = Mapping[str, Any]
# Of one place in a table, a cell per seed; None where a seed's table lacks the row or column.
Cells = Sequence[str | None]
Key = TypeVar("Key", bound=Hashable)

RESULTS = "results.json"


def check_folder(results: Path) -> None:
    """Raises InputError where a results folder holds the page of a run with one seed, which the seeds' page would replace."""
    file = results / RESULTS
    if file.exists() and "seeds" not in json.loads(file.read_text(encoding="utf-8")):
        raise InputError(
            f"{results} holds the results of a run without --seeds, which those of several seeds would replace: give "
            f"another folder (--results {results}-seeds), or delete it"
        )


def gathered(command: str, config: RunConfig, seeds: Sequence[int], out: Path, results: Path) -> dict[str, Any]:
    """All CSV tables of the seeds' results folders, row by row, as the JSON object that `write_page` takes.

    command: of `training.reproduce`. out, results: folders that hold the seeds' own.
    """
    folders = [results / seed_folder(seed) for seed in seeds]
    for folder in folders:
        if not (folder / RESULTS).exists():
            raise InputError(f"{folder / RESULTS} is missing: run all stages with this seed, or leave the seed out")
    tables = [_tables(folder) for folder in folders]
    found = {file: aligned([of.get(file) for of in tables]) for file in _merged(tables)}
    for table in found.values():
        table["title"] = re.sub(rf"\b{re.escape(config.name)}-seed-\d+", config.name, table["title"])
    segmenters = [out / seed_folder(seed) / SEGMENTER for seed in seeds]
    return {
        "command": command,
        "config": config.name,
        "split_seed": config.seed,
        "seeds": list(seeds),
        "networks_of": sorted({run for seed in seeds if (run := networks_of(with_seed(config, seed))) is not None}),
        "segmenter_taken": any(s.exists() and not (s / TRAINING).exists() for s in segmenters),
        "tables": found,
    }


def _tables(folder: Path) -> dict[str, Table]:
    """File name -> table, in the order of the folder's page."""
    found = {file.stem: read_table(file) for file in sorted(folder.glob("*.csv"))}
    page = (folder / "index.md").read_text(encoding="utf-8")
    return dict(sorted(found.items(), key=lambda item: page.find(f"## {item[1].title}")))


def read_table(file: Path) -> Table:
    """A table that `Table.as_csv` wrote."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    comments = [line[2:].rstrip("\n") for line in lines[:2] if line.startswith("# ")]
    head, *rows = csv.reader(lines[len(comments) :])
    title, note = (*comments, "", "")[:2]
    return Table(title=title, head=tuple(head), rows=tuple(tuple(row) for row in rows), note=note)


def aligned(tables: Sequence[Table | None]) -> dict[str, Any]:
    """One table of every seed, or None where a seed has none: title, note, head, and rows of columns of a cell per seed.

    Rows go together by their first column, and by as many more columns of text as it takes to tell them apart; columns by
    their name. A row or column that only some seeds have stays, with None for the others.
    """
    there = [t for t in tables if t is not None]
    width = _key_width(there)
    keyed: list[dict[tuple[str | int, ...], dict[str, str]]] = [{} if t is None else _keyed(t, width) for t in tables]
    head = _merged(t.head for t in there)
    rows = [[[of.get(key, {}).get(column) for of in keyed] for column in head] for key in _merged(keyed)]
    notes = {t.note for t in there}
    return {"title": there[0].title, "note": notes.pop() if len(notes) == 1 else "", "head": head, "rows": rows}


# A pruned network is the same row, whichever step was chosen.
_STEP = re.compile(r"\(step (\d+)\)")


def _key_width(tables: Sequence[Table]) -> int:
    width = 1
    while any(len({_key(row, width) for row in t.rows}) < len(t.rows) for t in tables):
        if any(width >= len(t.head) or any(_number(row[width]) for row in t.rows) for t in tables):
            break
        width += 1
    return width


def _key(row: Sequence[str], width: int) -> tuple[str, ...]:
    return tuple(_STEP.sub("(step)", cell) for cell in row[:width])


def _keyed(table: Table, width: int) -> dict[tuple[str | int, ...], dict[str, str]]:
    """Row by key; rows of equal keys are told apart by their order."""
    seen: Counter[tuple[str, ...]] = Counter()
    found: dict[tuple[str | int, ...], dict[str, str]] = {}
    for row in table.rows:
        key = _key(row, width)
        found[(*key, seen[key])] = dict(zip(table.head, row, strict=True))
        seen[key] += 1
    return found


def _merged(orders: Iterable[Iterable[Key]]) -> list[Key]:
    """All that is in any of the orders, each after what it follows there."""
    merged: list[Key] = []
    for order in orders:
        place = 0
        for key in order:
            if key not in merged:
                merged.insert(place, key)
            place = merged.index(key) + 1
    return merged


def as_table(found: Json, seeds: int) -> Table:
    """Mean and sample standard deviation of every figure, and of how many seeds a row is. found: what `aligned` returns.

    What the paper printed, and a table that is equal for every seed, stay as they are.
    """
    head, rows = found["head"], found["rows"]
    title = re.sub(r"\bseed (\d+)\)$", rf"split seed \1; {seeds} seeds)", found["title"])
    if seeds > 1 and all(len({*cells}) == 1 for row in rows for cells in row):
        same = tuple(tuple(cells[0] for cells in row) for row in rows)
        return Table(title=title, head=tuple(head), rows=same, note=_joined("Equal for every seed.", found["note"]))
    made = [(*_row(head, row, seeds), _count(row[0], seeds)) for row in rows]
    left = [what for what, mark in _LEFT_OUT.items() if any(map(mark.search, _rests(head, rows)))]
    note = _joined(
        f"Mean (sd) over the seeds{'; left out: ' + ', '.join(left) if left else ''}.",
        f"Of a seed's own table: {found['note']}" if found["note"] else "",
    )
    return Table(title=title, head=(*head, "seeds"), rows=tuple(made), note=note)


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


_LEFT_OUT = {
    "intervals": re.compile(r"\["),
    "counts": re.compile(r"\(\d+/\d+\)"),
    "spread over folds": re.compile(r"\([\d.]+\)"),
    "p": re.compile(r"\(p "),
}


_PRINTED = re.compile(r"paper[:,] ")


def _is_printed(row: Sequence[Cells]) -> bool:
    return _PRINTED.match(next(c for c in row[0] if c is not None)) is not None


def _count(names: Cells, seeds: int) -> str:
    return "" if _is_printed([names]) else f"{len(_present(names))} of {seeds}"


def _rests(head: Sequence[str], rows: Sequence[Sequence[Cells]]) -> Iterable[str]:
    """What follows the estimate in cells that became a mean."""
    for row in rows:
        for column, cells in zip(head[1:], row[1:], strict=True):
            if numbers := _numbers(column, cells, printed=_is_printed(row)):
                yield from (number.rest for number in numbers)


def _row(head: Sequence[str], row: Sequence[Cells], seeds: int) -> list[str]:
    of, printed = len(_present(row[0])), _is_printed(row)
    return [_name(row[0]), *(_cell(c, cells, of, seeds, printed) for c, cells in zip(head[1:], row[1:], strict=True))]


def _name(cells: Cells) -> str:
    """The row's name; of a pruned network with every seed's step where they differ."""
    names = _present(cells)
    steps = ", ".join(found[1] for name in names if (found := _STEP.search(name)))
    return names[0] if len(set(names)) == 1 else _STEP.sub(f"(steps {steps})", names[0])


def _cell(column: str, cells: Cells, of: int, seeds: int, printed: bool) -> str:
    """A cell of the table of all seeds. of: how many seeds have the row."""
    present = _present(cells)
    if not present:
        return next((c for c in cells if c is not None), "")
    numbers = _numbers(column, cells, printed=printed)
    text = _mean(numbers) if numbers else _listed(present)
    return text if printed or len(present) == of else f"{text}, {len(present)} of {seeds}"


def _present(cells: Cells) -> list[str]:
    return [c for c in cells if c not in (None, "", "-", "nan")]


def _listed(values: Sequence[str]) -> str:
    """Text as it is, or each with its count where seeds differ."""
    counts = Counter(values)
    return values[0] if len(counts) == 1 else "; ".join(f"{n} × {value}" for value, n in counts.items())


@dataclass(frozen=True, kw_only=True)
class _Number:
    """A cell's estimate, how it was written, and the interval, spread or p that followed it."""

    value: float
    text: str
    rest: str


_ESTIMATE = re.compile(r"([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)((?: \[.*\])?(?: \(.*\))?)")


def _number(cell: str) -> _Number | None:
    found = _ESTIMATE.fullmatch(cell)
    return None if found is None else _Number(value=float(found[1].replace(",", "")), text=found[1], rest=found[2])


def _numbers(column: str, cells: Cells, *, printed: bool) -> list[_Number]:
    """The seeds' figures; empty for text, for what the paper printed, and for p, of which a mean means nothing."""
    if printed or column == "the paper" or re.match(r"p\b", column):
        return []
    numbers = [_number(c) for c in _present(cells)]
    return [n for n in numbers if n is not None] if None not in numbers else []


def _mean(numbers: Sequence[_Number]) -> str:
    """`0.912 (0.013)`, in the cells' digits; counts that differ with one more. The sd of one seed is a dash."""
    values, texts = [n.value for n in numbers], [n.text for n in numbers]
    sign, comma = ("+" if any(t[0] == "+" for t in texts) else ""), ("," if any("," in t for t in texts) else "")
    digits = max(len(t.partition(".")[2]) for t in texts)
    if any("e" in t for t in texts) or digits > 6:
        form = ".3g"
    else:
        form = f"{comma}.{digits or int(not comma and len(set(values)) > 1)}f"
    sd = "-" if len(values) == 1 else format(np.std(values, ddof=1), form)
    return f"{format(np.mean(values), sign + form)} ({sd})"


def write_page(found: Json, folder: Path) -> Path:
    """Write index.md, results.json and every table as CSV to `folder`. Returns the page."""
    made = {file: as_table(t, len(found["seeds"])) for file, t in found["tables"].items()}
    write_results(found, made, folder)
    page = "\n\n".join([_opening(found), *(t.as_markdown() for t in made.values())])
    write_text(folder / "index.md", page + "\n")
    return folder / "index.md"


def _opening(found: Json) -> str:
    seeds = found["seeds"]
    listed = ", ".join(str(s) for s in seeds)
    pages = ", ".join(f"[seed {s}]({seed_folder(s)}/index.md)" for s in seeds)
    return (
        f"# {found['config']} with {len(seeds)} seeds\n\nMade by `python -m training.reproduce {found['command']} --seeds "
        f"{' '.join(map(str, seeds))}`; every figure comes from `results.json` beside this page, which has each seed's value, as "
        f"the tables of its own page have it: {pages}, with the figures and all that is no CSV table.\n\nSeeds {listed}. A seed "
        f"changes what training draws: initial weights, order and drawing of images, augmentation, the fits of combinations, a "
        f"search.{_taken(found)} The split (seed {found['split_seed']}) and the folds are the same for all, so every seed "
        "is judged on the same test images. Cells are the mean over the seeds and, in brackets, the sample standard deviation "
        "(n - 1). That is the spread of training alone, on these test patients: it is not the uncertainty of having drawn these "
        "test patients and no others, which the intervals on the seeds' own pages give."
    )


def _taken(found: Json) -> str:
    """What other runs trained, which a seed does not train again."""
    runs = ", ".join(f"`{run}`" for run in found["networks_of"])
    segmenter = " A segmenter was taken from another run and not trained again." if found["segmenter_taken"] else ""
    return segmenter + (f" Trained networks were taken from {runs} and not trained again." if runs else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and tables of several seeds again from their results.json. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m training.seeds", description=main.__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="results folders, such as docs/results/r20-cpu-seeds")
    for folder in parser.parse_args(arguments).folders:
        print(write_page(json.loads((folder / RESULTS).read_text(encoding="utf-8")), folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
