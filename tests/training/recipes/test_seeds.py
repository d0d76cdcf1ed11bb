"""Several training seeds of one recipe: the same split, different weights, and tables with mean and deviation over seeds."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from cxr_edge.errors import InputError
from tests.builders.image_collections import write_collections
from training import reproduce, seeds
from training.data.dataset import prepare
from training.data.leakage import SplitSettings
from training.markdown import Table
from training.recipes.config import RunConfig
from training.recipes.flannel.config import FlannelConfig, load_flannel
from training.recipes.r20.config import R20Config, load_r20
from training.recipes.seed_runs import is_finished, share_split, with_seed, write_finished

pytestmark = pytest.mark.filterwarnings("ignore")

R20 = """
name = "tiny"
threads = 1
segmenter_px = 32
canvas_px = 32
epoch_images = 16
range_images = 2
known_answers = 2
resamples = 5
top = 1
cam_cases = 1

[segmenter]
epochs = 1
batch = 8

[members.custom]
architecture = "custom"
head_maps = 8

[modality]
epochs = 1
batch = 8

[multiclass]
epochs = 1
batch = 8

[prune]
step = 0.1
until = 0.1

[prune.retrain]
epochs = 1
batch = 8
"""

FLANNEL = """
name = "tiny"

[learners.a]
architecture = "plain"

[learners.b]
architecture = "plain"
plan = { seed = 7 }

[prune]
step = 0.1
"""


def _arguments(root: Path, *more: str) -> list[str]:
    options = {"--config": "tiny.toml", "--data": "data", "--out": "run", "--results": "results"}
    return ["r20", *(text for option, name in options.items() for text in (option, str(root / name))), *more]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data/, run/ (seed 1 first, then 1 and 2 by one command) and results/."""
    root = tmp_path_factory.mktemp("seeds")
    write_collections(root / "data", patients=8, size_px=64)
    (root / "tiny.toml").write_text(R20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _, file, **__: Path(file).touch())
        for more in (["1"], ["1", "2"]):
            assert reproduce.main(_arguments(root, "--seeds", *more)) == 0
    return root


def _rows(file: Path) -> list[list[str]]:
    return list(csv.reader(line for line in file.read_text().splitlines() if not line.startswith("# ")))


def _estimate(cell: str) -> float:
    return float(cell.split(" ")[0].replace(",", ""))


def test_figures_are_mean_and_deviation_of_the_seeds_own_tables(root: Path) -> None:
    compared = 0
    for file in (root / "results").glob("table-[3-7]*.csv"):
        head, *rows = _rows(file)
        own = [_rows(root / "results" / f"seed-{s}" / file.name) for s in (1, 2)]
        assert head == [*own[0][0], "seeds"]
        for row, *printed in zip(rows, *(table[1:] for table in own), strict=True):
            if row[0].startswith("paper"):
                assert row == [*printed[0], ""] == [*printed[1], ""]
                continue
            assert row[-1] == "2 of 2"
            for cell, *cells in zip(row[1:-1], *(p[1:] for p in printed), strict=True):
                if cell:
                    mean, sd = (float(v.replace(",", "")) for v in re.fullmatch(r"(\S+) \((\S+)\)", cell).groups())
                    values = [_estimate(c) for c in cells]
                    # rounded to the last digit, a count to a tenth or a whole
                    near = 0.51 * 10.0 ** -len(cell.split(" ")[0].partition(".")[2])
                    assert abs(mean - np.mean(values)) <= near
                    assert abs(sd - np.std(values, ddof=1)) <= near
                    compared += len(set(values)) == 2
    assert compared > 20


def test_all_seeds_have_the_split_of_the_configuration(root: Path, tmp_path: Path) -> None:
    config = load_r20(root / "tiny.toml")
    prepare(root / "data", tmp_path, SplitSettings(seed=config.seed, shares=config.side_shares), threads=1)
    expected = (tmp_path / "table.csv").read_bytes()
    assert [(root / f"run/seed-{s}/table.csv").read_bytes() for s in (1, 2)] == [expected, expected]
    one, other = (json.loads((root / f"results/seed-{s}/results.json").read_text()) for s in (1, 2))
    assert one["sides"] == other["sides"]
    assert one["seed"] == other["seed"] == config.seed


@pytest.mark.parametrize("network", ["segmenter", "modality/custom", "multiclass/custom", "pruned/custom/step-01"])
def test_every_training_differs(network: str, root: Path) -> None:
    one, other = ((root / f"run/seed-{s}/{network}/weights.safetensors").read_bytes() for s in (1, 2))
    assert one != other


def _times(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}


def test_finished_seeds_are_skipped(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _times(root / "run")
    page = (root / "results/index.md").read_text()
    assert reproduce.main(_arguments(root, "--seeds", "1", "2")) == 0
    assert _times(root / "run") == before
    assert (root / "results/index.md").read_text() == page
    assert "stage" not in capsys.readouterr().err


def test_a_stage_is_run_for_each_seed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: t for p, t in _times(root / "run").items() if p.name == "weights.safetensors"}
    assert reproduce.main(_arguments(root, "--seeds", "1", "2", "--stage", "prune")) == 0
    assert capsys.readouterr().err.count("stage prune") == 2
    assert {p: t for p, t in _times(root / "run").items() if p in before} == before


def test_the_page_explains_the_spread(root: Path) -> None:
    page = (root / "results/index.md").read_text()
    for text in (
        "# tiny with 2 seeds",
        "--seeds 1 2`",
        "[seed 2](seed-2/index.md)",
        "The split (seed 1) and the folds are the same for all",
        "the variation of the training only",
        "the uncertainty of the sample of test patients",
        "split seed 1; 2 seeds)",
        "omitted: intervals, counts.",
        "Equal for every seed.",
    ):
        assert text in page
    assert "tiny-seed" not in page
    assert page.index("Table 3") < page.index("Table 7") < page.index("By class")


def test_pages_are_written_from_results_json(root: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes((root / "results/results.json").read_bytes())
    assert seeds.main([str(tmp_path)]) == 0
    for file in ("index.md", "table-6-pruned.csv"):
        assert (tmp_path / file).read_bytes() == (root / "results" / file).read_bytes()
    found = json.loads((tmp_path / "results.json").read_text())["tables"]["table-3-modality"]
    column = found["head"].index("AUC")
    own = [_rows(root / f"results/seed-{s}/table-3-modality.csv")[1][column] for s in (1, 2)]
    assert found["rows"][0][column] == own


@pytest.mark.parametrize("given", [[], ["-1"], ["one"], ["1,2"], ["100000"]])
def test_invalid_seeds_are_rejected(given: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        reproduce.main(_arguments(root, "--seeds", *given))
    assert status.value.code == 2
    message = capsys.readouterr().err
    assert ("expected whole numbers from 0 to 99999, such as --seeds 1 2 3" if given else "at least one") in message


def test_a_repeated_seed_is_rejected(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(_arguments(root, "--seeds", "3", "3")) == 2
    assert "each once, such as --seeds 1 2 3; got [3, 3]" in capsys.readouterr().err
    assert not (root / "run/seed-3").exists()


def test_results_of_one_run_are_not_replaced(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text('{"seed": 1}')
    assert reproduce.main([*_arguments(root), "--results", str(tmp_path), "--seeds", "3"]) == 2
    assert f"--results {tmp_path}-seeds" in capsys.readouterr().err
    assert not (root / "run/seed-3").exists()


def test_a_seed_without_results_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"seed-9/results\.json is missing: run all stages with this seed"):
        seeds.gather_tables("r20", load_r20(root / "tiny.toml"), [1, 9], root / "run", root / "results")


def test_another_split_is_rejected(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.csv").write_text(name)
    with pytest.raises(
        InputError, match=r"b has another split than .*a, and seeds are comparable on the same test images"
    ):
        share_split(tmp_path / "a", tmp_path / "b")


def test_finished_means_this_configuration_and_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(R20)
    config, run = load_r20(tmp_path / "tiny.toml"), tmp_path / "run"
    (run / "networks").mkdir(parents=True)
    (run / "networks/weights").touch()
    write_finished(config, run)
    assert not is_finished(config, run, tmp_path)
    (tmp_path / "results.json").touch()
    assert is_finished(config, run, tmp_path)
    assert not is_finished(replace(config, top=2), run, tmp_path)
    (run / "networks/weights").unlink()
    assert not is_finished(config, run, tmp_path)


@pytest.fixture
def flannel(tmp_path: Path) -> FlannelConfig:
    (tmp_path / "flannel.toml").write_text(FLANNEL)
    return load_flannel(tmp_path / "flannel.toml")


def _own_seeds(config: FlannelConfig) -> list[int]:
    retrain = config.prune.retrain.seed if config.prune else -1
    return [config.fit_seed, config.segmenter.seed, config.learn.seed, retrain, config.learners["b"].plan["seed"]]


def test_a_seed_changes_all_training_seeds_but_not_the_split(flannel: FlannelConfig) -> None:
    one, two = with_seed(flannel, 1), with_seed(flannel, 2)
    assert _own_seeds(one)[:-1] == [1] * 4
    assert _own_seeds(two)[:-1] == [2] * 4
    assert (one.seed, two.seed) == (flannel.seed, flannel.seed)
    assert replace(one, name="tiny", training_seed=None, learners=flannel.learners) == flannel


def test_members_that_differ_only_in_their_seed_differ_for_every_seed(flannel: FlannelConfig) -> None:
    seen = [s for seed in (1, 2, 7, 8) for s in {*_own_seeds(with_seed(flannel, seed))}]
    assert len(seen) == len(set(seen)) == 8


def test_networks_are_taken_from_the_run_of_the_same_seed(flannel: FlannelConfig, tmp_path: Path) -> None:
    taking = replace(flannel, learners_of=str(tmp_path / "other"))
    assert with_seed(taking, 2).learners_of == str(tmp_path / "other")
    (tmp_path / "other/seed-1").mkdir(parents=True)
    assert with_seed(taking, 2).learners_of == str(tmp_path / "other/seed-2")


@pytest.mark.parametrize(("text", "load"), [(R20, load_r20), (FLANNEL, load_flannel)])
def test_the_training_seed_of_a_file_reaches_its_plans(text: str, load: type, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("training_seed = 5\nseed = 3\n" + text)
    config: R20Config | FlannelConfig = load(tmp_path / "own.toml")
    assert isinstance(config, RunConfig)
    assert (config.seed, config.fit_seed) == (3, 5)
    assert (config.learn if isinstance(config, FlannelConfig) else config.modality).seed == 5


HEAD = ("model", "F", "AUC", "optimizer")


def _table(*rows: tuple[str, ...], head: tuple[str, ...] = HEAD, title: str = "T (n = 3, seed 1)") -> Table:
    return Table(title=title, head=head, rows=rows, note="")


def _merged(*tables: Table | None) -> Table:
    return seeds.summary_table(seeds.align_tables(tables), len(tables))


def test_intervals_text_and_missing_values() -> None:
    made = _merged(
        _table(("vgg", "0.50", "0.900 [0.8, 1.0] (9/10)", "sgd"), ("plain", "0.10", "-", "adam")),
        _table(("vgg", "0.60", "0.800 [0.7, 0.9] (8/10)", "adam"), ("nas", "0.30", "0.100 [0, 1]", "sgd")),
        _table(("vgg", "0.70", "-", "sgd"), ("plain", "0.30", "0.300 [0, 1]", "adam")),
    )
    assert made.head == (*HEAD, "seeds")
    assert made.rows == (
        ("vgg", "0.60 (0.10)", "0.850 (0.071), 2 of 3", "2 × sgd; 1 × adam", "3 of 3"),
        ("nas", "0.30 (-)", "0.100 (-)", "sgd", "1 of 3"),
        ("plain", "0.20 (0.14)", "0.300 (-), 1 of 3", "adam", "2 of 3"),
    )
    assert made.title == "T (n = 3, split seed 1; 3 seeds)"
    assert made.note == "Mean (sd) over the seeds; omitted: intervals, counts."


def test_one_seed_has_no_deviation() -> None:
    assert _merged(_table(("vgg", "0.50", "1,234", "sgd"))).rows == (("vgg", "0.50 (-)", "1,234 (-)", "sgd", "1 of 1"),)


def test_a_spread_over_folds_and_a_p_are_left_out() -> None:
    made = _merged(
        _table(("a", "0.8000 (0.02)", "+0.0100 (p 0.3)", "1 × x"), head=("m", "F", "AUC", "p (McNemar)")),
        _table(("a", "0.9000 (0.05)", "-0.0200 (p 1)", "0.5"), head=("m", "F", "AUC", "p (McNemar)")),
    )
    assert made.rows[0][1:3] == ("0.8500 (0.0707)", "-0.0050 (0.0212)")
    assert made.note == "Mean (sd) over the seeds; omitted: spread over folds, p."


def test_no_mean_is_made_of_p() -> None:
    head = ("m", "p (McNemar)")
    assert _merged(_table(("a", "0.5"), head=head), _table(("a", "0.1"), head=head)).rows[0][1] == "1 × 0.5; 1 × 0.1"


@pytest.mark.parametrize(
    ("cells", "made"),
    [
        (("3", "4"), "3.5 (0.7)"),
        (("3", "3", "9"), "5.0 (3.5)"),
        (("1,000", "1,003"), "1,002 (2)"),
        (("1e-05", "0.0003"), "0.000155 (0.000205)"),
        (("+0.10", "-0.30"), "-0.10 (0.28)"),
        (("+0.10", "+0.30"), "+0.20 (0.14)"),
        (("3/5", "4/5"), "1 × 3/5; 1 × 4/5"),
        (("0.5", "sgd"), "1 × 0.5; 1 × sgd"),
    ],
)
def test_figures_keep_their_form(cells: tuple[str, ...], made: str) -> None:
    tables = [_table(("a", cell), head=("m", "v")) for cell in cells]
    assert _merged(*tables).rows[0][1] == made


def test_rows_are_matched_by_as_many_columns_as_needed() -> None:
    head = ("combination", "class", "F")
    one = _table(("mean", "a", "0.1"), ("mean", "b", "0.2"), head=head)
    other = _table(("mean", "b", "0.4"), ("mean", "a", "0.3"), head=head)
    assert [row[:3] for row in _merged(one, other).rows] == [("mean", "a", "0.2 (0.1)"), ("mean", "b", "0.3 (0.1)")]


def test_a_pruned_network_is_one_row_whatever_its_step() -> None:
    rows = [("a, pruned (step 2)", "0.1"), ("a, pruned (step 4)", "0.3"), ("a, pruned (step 2)", "0.2")]
    made = _merged(*(_table(row, head=("m", "F")) for row in rows))
    assert made.rows == (("a, pruned (steps 2, 4, 2)", "0.2 (0.1)", "3 of 3"),)


def test_a_column_and_a_table_that_only_some_seeds_have_stay() -> None:
    one, other = _table(("a", "0.1"), head=("m", "vgg")), _table(("a", "0.3"), head=("m", "resnet"))
    made = _merged(one, other, None)
    assert made.head == ("m", "resnet", "vgg", "seeds")
    assert made.rows == (("a", "0.3 (-), 1 of 3", "0.1 (-), 1 of 3", "2 of 3"),)


def test_printed_rows_do_not_change() -> None:
    head = ("m", "F", "the paper")
    own = [_table(("a", f, "0.8 (0.03)"), ("paper: a", "0.9 (0.01)", ""), head=head) for f in ("0.1", "0.3")]
    assert _merged(*own).rows == (("a", "0.2 (0.1)", "0.8 (0.03)", "2 of 2"), ("paper: a", "0.9 (0.01)", "", ""))


def test_a_table_that_is_equal_for_every_seed_does_not_change() -> None:
    table = _table(("a", "0.1", "0.5 [0, 1]", "sgd"))
    made = _merged(table, table)
    assert (made.head, made.rows, made.note) == (table.head, table.rows, "Equal for every seed.")


def test_a_note_that_differs_is_left_to_the_seeds_pages() -> None:
    tables = [replace(_table(("a", "0.1"), head=("m", "F")), note=note) for note in ("T 1.1.", "T 1.2.")]
    assert seeds.align_tables(tables).note == ""
    assert seeds.align_tables([tables[0], tables[0]]).note == "T 1.1."


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    for note in ("", 'A note, with "quotes".'):
        table = replace(_table(("a, b", "0.1", "", 'x "y"')), note=note)
        (tmp_path / "t.csv").write_text(table.as_csv())
        assert seeds.read_table(tmp_path / "t.csv") == table
