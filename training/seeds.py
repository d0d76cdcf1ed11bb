"""Summary of several training seeds: the tables of each seed's results folder in, one page of mean (sd) tables out.

A figure of one training is of little use if it changes with the seed. `results.json` holds every seed's value of every cell;
`python -m training.seeds FOLDER` writes page and tables again from it.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from cxr_edge.errors import InputError
from training import shared_files
from training.json_records import read_json
from training.loop.settings import TRAINING
from training.markdown import Table, write_results
from training.recipes.arguments import write_pages_again
from training.recipes.config import RunConfig
from training.recipes.page import RESULTS
from training.recipes.seed_runs import networks_of, seed_folder, with_seed
from training.recipes.segmenter import SEGMENTER

__all__ = [
    "SeedTable",
    "SeedTables",
    "align_tables",
    "check_folder",
    "gather_tables",
    "main",
    "read_table",
    "summary_table",
    "write_page",
]

# One table cell, with a value per seed; None if a seed's table lacks the row or column.
Cells = Sequence[str | None]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class SeedTable:
    """One table of all seeds."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[tuple[str | None, ...], ...], ...]  # row -> column -> seed


@dataclass(frozen=True, kw_only=True)
class SeedTables:
    """Contents of results.json."""

    command: str  # of `training.reproduce`
    config: str
    split_seed: int
    seeds: tuple[int, ...]
    networks_of: tuple[str, ...]  # run folders whose trained networks were reused
    segmenter_taken: bool  # copied from another run
    tables: Mapping[str, SeedTable]  # file name -> table


def check_folder(results: Path) -> None:
    """Raise InputError if a results folder holds the page of a run with one seed, which the summary would replace."""
    file = results / RESULTS
    if file.exists() and "seeds" not in shared_files.read_json(file):
        raise InputError(
            f"{results} holds the results of a run without --seeds, which those of several seeds would replace: give "
            f"another folder (--results {results}-seeds), or delete it"
        )


def gather_tables(command: str, config: RunConfig, seeds: Sequence[int], out: Path, results: Path) -> SeedTables:
    """Read all CSV tables of the seeds' results folders.

    command: of `training.reproduce`.
    out, results: parents of the seeds' run and results folders.
    """
    folders = [results / seed_folder(seed) for seed in seeds]
    for folder in folders:
        if not (folder / RESULTS).exists():
            raise InputError(f"{folder / RESULTS} is missing: run all stages with this seed, or leave the seed out")
    tables = [_tables(folder) for folder in folders]
    aligned = {file: align_tables([by_file.get(file) for by_file in tables]) for file in _merge(tables)}
    own_name = re.compile(rf"\b{re.escape(config.name)}-seed-\d+")
    segmenters = [out / seed_folder(seed) / SEGMENTER for seed in seeds]
    return SeedTables(
        command=command,
        config=config.name,
        split_seed=config.seed,
        seeds=tuple(seeds),
        networks_of=tuple(sorted({run for seed in seeds if (run := networks_of(with_seed(config, seed))) is not None})),
        segmenter_taken=any(s.exists() and not (s / TRAINING).exists() for s in segmenters),
        tables={file: replace(t, title=own_name.sub(config.name, t.title)) for file, t in aligned.items()},
    )


def _tables(folder: Path) -> dict[str, Table]:
    """Return file name -> table, in the order of the folder's page."""
    tables = {file.stem: read_table(file) for file in sorted(folder.glob("*.csv"))}
    page = (folder / "index.md").read_text(encoding="utf-8")
    return dict(sorted(tables.items(), key=lambda item: page.find(f"## {item[1].title}")))


def read_table(file: Path) -> Table:
    """Read a table that `Table.as_csv` wrote."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    comments = [line[2:].rstrip("\n") for line in lines[:2] if line.startswith("# ")]
    head, *rows = csv.reader(lines[len(comments) :])
    title, note = (*comments, "", "")[:2]
    return Table(title=title, head=tuple(head), rows=tuple(tuple(row) for row in rows), note=note)


def align_tables(tables: Sequence[Table | None]) -> SeedTable:
    """Align one table of all seeds (None for a seed without it): title, note, head, and rows of cells with a value per seed.

    Rows are matched by their first column, and by as many further text columns as are needed to distinguish them; columns by
    their name. A row or column that only some seeds have stays, with None for the others.
    """
    present = [t for t in tables if t is not None]
    width = _key_width(present)
    keyed: list[dict[tuple[str | int, ...], dict[str, str]]] = [{} if t is None else _keyed(t, width) for t in tables]
    head = _merge(t.head for t in present)
    by_row = ([by_key.get(key, {}) for by_key in keyed] for key in _merge(keyed))
    rows = tuple(tuple(tuple(row.get(column) for row in own) for column in head) for own in by_row)
    notes = {t.note for t in present}
    note = notes.pop() if len(notes) == 1 else ""
    return SeedTable(title=present[0].title, note=note, head=tuple(head), rows=rows)


# A pruned network is the same row for every selected step.
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
    """Return key -> row; rows with equal keys are distinguished by their order."""
    seen: Counter[tuple[str, ...]] = Counter()
    by_key: dict[tuple[str | int, ...], dict[str, str]] = {}
    for row in table.rows:
        key = _key(row, width)
        numbered: tuple[str | int, ...] = (*key, seen[key])
        by_key[numbered] = dict(zip(table.head, row, strict=True))
        seen[key] += 1
    return by_key


def _merge(orders: Iterable[Iterable[Key]]) -> list[Key]:
    """Merge several orders into one: every key comes after its predecessors."""
    merged: list[Key] = []
    for order in orders:
        position = 0
        for key in order:
            if key not in merged:
                merged.insert(position, key)
            position = merged.index(key) + 1
    return merged


def summary_table(aligned: SeedTable, seeds: int) -> Table:
    """Return mean and sample standard deviation of every figure, and the number of seeds of every row.

    The paper's rows, and a table that is equal for every seed, are unchanged.
    """
    head, rows = aligned.head, aligned.rows
    title = re.sub(r"\bseed (\d+)\)$", rf"split seed \1; {seeds} seeds)", aligned.title)
    if seeds > 1 and all(len({*cells}) == 1 for row in rows for cells in row):
        same = tuple(tuple(cells[0] or "" for cells in row) for row in rows)
        return Table(title=title, head=head, rows=same, note=_join("Equal for every seed.", aligned.note))
    cells = [(*_row(head, row, seeds), _count(row[0], seeds)) for row in rows]
    omitted = [what for what, mark in _OMITTED.items() if any(map(mark.search, _rests(head, rows)))]
    note = _join(
        f"Mean (sd) over the seeds{'; omitted: ' + ', '.join(omitted) if omitted else ''}.",
        f"Note of the single tables: {aligned.note}" if aligned.note else "",
    )
    return Table(title=title, head=(*head, "seeds"), rows=tuple(cells), note=note)


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


_OMITTED = {
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
    """Yield the text after the estimate, in cells that are replaced by a mean."""
    for row in rows:
        for column, cells in zip(head[1:], row[1:], strict=True):
            if numbers := _numbers(column, cells, printed=_is_printed(row)):
                yield from (number.rest for number in numbers)


def _row(head: Sequence[str], row: Sequence[Cells], seeds: int) -> list[str]:
    of, printed = len(_present(row[0])), _is_printed(row)
    return [_name(row[0]), *(_cell(c, cells, of, seeds, printed) for c, cells in zip(head[1:], row[1:], strict=True))]


def _name(cells: Cells) -> str:
    """Return the row's name; for a pruned network with the step of every seed if they differ."""
    names = _present(cells)
    steps = ", ".join(m[1] for name in names if (m := _STEP.search(name)))
    return names[0] if len(set(names)) == 1 else _STEP.sub(f"(steps {steps})", names[0])


def _cell(column: str, cells: Cells, of: int, seeds: int, printed: bool) -> str:
    """Return a cell of the summary. of: number of seeds that have the row."""
    present = _present(cells)
    if not present:
        return next((c for c in cells if c is not None), "")
    numbers = _numbers(column, cells, printed=printed)
    text = _mean(numbers) if numbers else _list(present)
    return text if printed or len(present) == of else f"{text}, {len(present)} of {seeds}"


def _present(cells: Cells) -> list[str]:
    return [c for c in cells if c is not None and c not in ("", "-", "nan")]


def _list(values: Sequence[str]) -> str:
    """Return the text, or each text with its count if seeds differ."""
    counts = Counter(values)
    return values[0] if len(counts) == 1 else "; ".join(f"{n} × {value}" for value, n in counts.items())


@dataclass(frozen=True, kw_only=True)
class _Number:
    """The parts of a cell with a figure."""

    value: float  # the estimate
    text: str  # the estimate as printed
    rest: str  # interval, spread or p after the estimate


_ESTIMATE = re.compile(r"([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)((?: \[.*\])?(?: \(.*\))?)")


def _number(cell: str) -> _Number | None:
    m = _ESTIMATE.fullmatch(cell)
    return None if m is None else _Number(value=float(m[1].replace(",", "")), text=m[1], rest=m[2])


def _numbers(column: str, cells: Cells, *, printed: bool) -> list[_Number]:
    """Return the seeds' figures; empty for text, for the paper's figures, and for p, whose mean is meaningless."""
    if printed or column == "the paper" or re.match(r"p\b", column):
        return []
    numbers = [_number(c) for c in _present(cells)]
    return [n for n in numbers if n is not None] if None not in numbers else []


def _mean(numbers: Sequence[_Number]) -> str:
    """Format mean and sd, `0.912 (0.013)`, with the cells' digits (one more for differing counts); one seed has no sd."""
    values, texts = [n.value for n in numbers], [n.text for n in numbers]
    sign, comma = ("+" if any(t[0] == "+" for t in texts) else ""), ("," if any("," in t for t in texts) else "")
    digits = max(len(t.partition(".")[2]) for t in texts)
    if any("e" in t for t in texts) or digits > 6:
        form = ".3g"
    else:
        form = f"{comma}.{digits or int(not comma and len(set(values)) > 1)}f"
    sd = "-" if len(values) == 1 else format(np.std(values, ddof=1), form)
    return f"{format(np.mean(values), sign + form)} ({sd})"


def write_page(folder: Path) -> Path:
    """Write index.md and every table as CSV from the folder's results.json. Returns the page."""
    results = read_json(SeedTables, folder / RESULTS)
    tables = {file: summary_table(t, len(results.seeds)) for file, t in results.tables.items()}
    return write_results(tables, folder, opening=[_opening(results)])


def _opening(results: SeedTables) -> str:
    seeds = results.seeds
    listed = ", ".join(str(s) for s in seeds)
    pages = ", ".join(f"[seed {s}]({seed_folder(s)}/index.md)" for s in seeds)
    return (
        f"# {results.config} with {len(seeds)} seeds\n\nMade by `python -m training.reproduce {results.command} --seeds "
        f"{' '.join(map(str, seeds))}`; every figure comes from `results.json` beside this page, which has each seed's values. "
        f"The pages of the seeds have their own tables and figures: {pages}.\n\nSeeds {listed}. A training seed "
        f"determines initial weights, order and sampling of images, augmentation, the fits of combinations and the "
        f"search.{_reused(results)} The split (seed {results.split_seed}) and the folds are the same for all, so every seed "
        "is evaluated on the same test images. Cells are the mean over the seeds and, in brackets, the sample standard deviation "
        "(n - 1). This is the variation of the training only, on the same test patients; the intervals on the seeds' pages give "
        "the uncertainty of the sample of test patients."
    )


def _reused(results: SeedTables) -> str:
    """Return sentences on networks of other runs, which are not trained again for a seed."""
    runs = ", ".join(f"`{run}`" for run in results.networks_of)
    segmenter = " The segmenter was copied from another run and not trained again." if results.segmenter_taken else ""
    return segmenter + (f" Trained networks were reused from {runs} and not trained again." if runs else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and tables of several seeds again from their results.json. Returns the exit status."""
    return write_pages_again("training.seeds", arguments, write_page, example="docs/results/r20-cpu-seeds")


if __name__ == "__main__":
    sys.exit(main())
