"""FLANNEL's tables: printed numbers digit for digit, in rows below ours, and titles with preset, n, split and seed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.builders.flannel_run import FOLDS, LABELS, flannel_run
from tests.training.recipes.flannel.test_results import finished_run, results_of
from training.evaluation.metrics import Figure as Share
from training.evaluation.metrics import interval
from training.json_records import from_json, read_json
from training.markdown import Table
from training.recipes.flannel import report
from training.recipes.flannel.published import PRINTED_COVID, TABLE_1, TABLE_3
from training.recipes.flannel.records import Results
from training.recipes.flannel.results import Table3Predictions
from training.recipes.flannel.tables import _caption, in_words, tables

# Copied from the paper a second time, row by row.
PRINTED_1 = """
ccx       119 100   11    7    1
kcx      5389   0 1492 2780 1117
AP       5413  24 1492 2780 1117
PA         95  76   11    7    1
training 4406  77 1194 2237  898
test     1102  23  309  550  220
all      5508 100 1503 2787 1118
"""
PRINTED_3 = """
InceptionV3                  0.5904(0.27) 0.5864(0.05) 0.8056(0.01) 0.8771(0.04) 0.7149(0.09)
Vgg19_bn                     0.6160(0.06) 0.5349(0.04) 0.7967(0.02) 0.8691(0.03) 0.7042(0.02)
ResNeXt101                   0.6378(0.12) 0.5649(0.03) 0.7959(0.01) 0.8537(0.02) 0.7140(0.03)
Resnet152                    0.6277(0.11) 0.5506(0.02) 0.7988(0.01) 0.8700(0.01) 0.7110(0.03)
Densenet161                  0.6880(0.07) 0.5930(0.02) 0.8017(0.01) 0.8953(0.01) 0.7445(0.02)
COVID-Net                    0.7179(0.13) 0.5592(0.04) 0.8095(0.02) 0.8787(0.03) 0.7413(0.03)
AI-Covid                     0.6391(0.16) 0.5238(0.07) 0.7504(0.02) 0.7223(0.03) 0.6589(0.07)
Voting                       0.7684(0.04) 0.6005(0.03) 0.8214(0.03) 0.9079(0.01) 0.7745(0.01)
Ensemble_MLP_I1              0.6247(0.07) 0.6042(0.03) 0.8185(0.01) 0.9161(0.01) 0.7409(0.02)
Ensemble_MLP_I2              0.3735(0.23) 0.6030(0.02) 0.8206(0.00) 0.9128(0.01) 0.6775(0.05)
FLANNEL_w/o_Focal            0.7671(0.06) 0.6001(0.03) 0.8238(0.01) 0.9135(0.01) 0.7761(0.01)
FLANNEL_w/o_Focal + Sampling 0.7837(0.04) 0.5953(0.04) 0.8245(0.01) 0.9131(0.01) 0.7791(0.02)
FLANNEL                      0.8168(0.03) 0.6063(0.02) 0.8267(0.00) 0.9144(0.01) 0.7910(0.01)
"""
OURS = {
    "InceptionV3": "inception", "Vgg19_bn": "vgg", "ResNeXt101": "resnext", "Resnet152": "resnet",
    "Densenet161": "densenet", "COVID-Net": "covid-net", "AI-Covid": "ai-covid", "Voting": "voting",
    "Ensemble_MLP_I1": "mlp-1", "Ensemble_MLP_I2": "mlp-2", "FLANNEL_w/o_Focal": "flannel-ce",
    "FLANNEL_w/o_Focal + Sampling": "flannel-ce-sampling", "FLANNEL": "flannel",
}  # fmt: skip
# Names of the tables whose titles count test images, and of those that count none of them.
COUNTING = (
    "against-the-paper",
    "table-3-methods",
    "together",
    "covid-19",
    "comparisons",
    "comparisons-auc",
    "weights",
    "temperature",
)
OTHERS = ("table-1-data", "findings", "dropped", "networks", "ap-view", "outside", "unseen", "unseen-pairs")


def tables_of(found: dict[str, Any]) -> dict[str, Table]:
    """Return the tables of a results.json."""
    return tables(from_json(Results, found))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return results_of(finished_run(tmp_path_factory.mktemp("tables") / "run"))


@pytest.fixture(scope="module")
def made(found: dict[str, Any]) -> dict[str, Table]:
    return tables_of(found)


def _value(printed: str) -> float:
    return float(printed.split("(")[0])


def test_table_1_is_the_printed_one() -> None:
    printed = {name: tuple(map(int, counts)) for name, *counts in map(str.split, PRINTED_1.strip().splitlines())}
    assert {row: counts for (_, row), counts in TABLE_1.items()} == printed
    assert [kind for kind, _ in TABLE_1] == ["original data"] * 2 + ["view"] * 2 + ["split"] * 2 + ["all"]


def test_table_1_adds_up() -> None:
    total = TABLE_1["all", "all"]
    for kind in ("original data", "view", "split"):
        parts = [counts for (of, _), counts in TABLE_1.items() if of == kind]
        assert tuple(map(sum, zip(*parts, strict=True))) == total, kind
    for counts in TABLE_1.values():
        assert counts[0] == sum(counts[1:])
    assert total == (5508, 100, 1503, 2787, 1118)


def test_table_3_is_the_printed_one() -> None:
    printed = {}
    for line in PRINTED_3.strip().splitlines():
        words = line.split()
        printed[" ".join(words[:-5])] = tuple(words[-5:])
    assert list(printed) == list(OURS)
    assert {OURS[name]: (name, values) for name, values in printed.items()} == TABLE_3


def test_printed_macros_are_the_mean_of_their_row_but_for_two() -> None:
    distances = {}
    for name, (_, printed) in TABLE_3.items():
        *by_label, macro = map(_value, printed)
        distances[name] = abs(sum(by_label) / 4 - macro)
    assert max(distances.values()) < 2e-3
    # More than rounding (half of the last digit of the row and of its mean): the paper's own slips.
    assert {name for name, d in distances.items() if d > 1e-4} == {"resnext", "resnet"}
    assert distances["resnext"] == pytest.approx(0.000925)
    assert distances["resnet"] == pytest.approx(0.000775)


def test_flannels_precision_and_recall_fit_its_f1() -> None:
    assert PRINTED_COVID == {"precision": "0.7833(0.07)", "recall": "0.8609(0.03)"}
    precision, recall = (_value(PRINTED_COVID[k]) for k in ("precision", "recall"))
    # The mean of five F1 is not the F1 of the means.
    assert 2 * precision * recall / (precision + recall) == pytest.approx(_value(TABLE_3["flannel"][1][0]), abs=5e-3)


def test_printed_rows_follow_ours(found: dict[str, Any], made: dict[str, Table]) -> None:
    table = made["table-3-methods"]
    assert table.head == ("method", *LABELS, "macro")
    names = [row[0] for row in table.rows]
    expected = []
    for method in found["methods"]:
        expected.append(in_words(method))
        if method in TABLE_3:
            expected.append(f"paper: {TABLE_3[method][0]}")
    assert names[: len(expected)] == expected
    assert "averaging" in names
    assert names[names.index("averaging") + 1] == "voting", "averaging has no printed row"
    row = table.rows[names.index("paper: FLANNEL")]
    assert row[1:] == ("0.8168 (0.03)", "0.6063 (0.02)", "0.8267 (0.00)", "0.9144 (0.01)", "0.7910 (0.01)")


def test_rows_of_the_paper_without_ours_are_named(found: dict[str, Any], made: dict[str, Table]) -> None:
    """A run that trained no AI-COVID shows the paper's row, and says that ours is missing."""
    rows = made["table-3-methods"].rows
    missing = [name for name in TABLE_3 if name not in found["methods"]]
    assert missing == ["inception", "resnext", "ai-covid"]
    last = [(row[0], row[1]) for row in rows[-2 * len(missing) :]]
    assert last == [
        ("inception: not trained in this run", "-"), ("paper: InceptionV3", "0.5904 (0.27)"),
        ("resnext: not trained in this run", "-"), ("paper: ResNeXt101", "0.6378 (0.12)"),
        ("ai-covid: not trained in this run", "-"), ("paper: AI-Covid", "0.6391 (0.16)"),
    ]  # fmt: skip
    assert {row[0].removeprefix("paper: ") for row in rows if row[0].startswith("paper: ")} == set(OURS)


def test_the_page_says_where_its_images_differ_from_the_papers(found: dict[str, Any], made: dict[str, Table]) -> None:
    images = found["data"]["all, all"][1 + LABELS.index("covid-19")]
    assert f"(Table 1; {images} COVID-19 images, the paper 100, other normals)" in made["against-the-paper"].note
    adults = {**found["data"], "original data, adults": [9] * 5}
    note = tables_of({**found, "data": adults})["against-the-paper"].note
    assert f"(Table 1; the collection adults besides the paper's two, {images} COVID-19" in note


def test_wordings_of_ap_are_those_that_the_version_read(found: dict[str, Any]) -> None:
    for dropped, words in (({}, "AP supine"), ({"ccx: view L": 3}, "AP supine, AP semi erect and the like")):
        assert tables_of({**found, "dropped": dropped})["table-1-data"].note.startswith(
            f"AP with {words}, as the paper"
        )


def test_our_rows_match_the_results(found: dict[str, Any], made: dict[str, Table]) -> None:
    ours = {row[0]: row for row in made["table-3-methods"].rows}["FLANNEL"]
    mean, sd = (found["methods"]["flannel"][k] for k in ("mean", "sd"))
    assert ours[1:] == tuple(f"{mean[k]:.4f} ({sd[k]:.2f})" for k in (*LABELS, "macro"))
    covid = {row[0]: row for row in made["covid-19"].rows}
    own = found["methods"]["flannel"]["together"]["labels"]["covid-19"]
    assert covid["FLANNEL"][1] == f"{mean['precision']:.4f} ({sd['precision']:.2f})"
    assert covid["FLANNEL"][3] == interval(from_json(Share, own["precision"]))
    assert covid["paper: FLANNEL"][1:] == ("0.7833 (0.07)", "0.8609 (0.03)", "", "", "", "")
    together = {row[0]: row for row in made["together"].rows}["FLANNEL"]
    assert together[-2] == interval(from_json(Share, found["methods"]["flannel"]["together"]["accuracy"]))
    ap = {row[0]: row for row in made["ap-view"].rows}["voting"]
    assert ap[1].startswith(f"{found['methods']['voting']['ap']['mean']['covid-19']:.4f} (")


def test_table_1_has_printed_rows(found: dict[str, Any], made: dict[str, Table]) -> None:
    rows = made["table-1-data"].rows
    assert len(rows) == 2 * len(TABLE_1)
    for ours, papers in zip(rows[::2], rows[1::2], strict=True):
        assert ours[1:] == tuple(map(str, found["data"][ours[0]]))
        assert papers[0] == f"paper: {ours[0]}"
        first, second = ours[0].split(", ")
        assert papers[1:] == tuple(map(str, TABLE_1[first, second]))


def test_three_labels_have_no_printed_rows(tmp_path: Path) -> None:
    labels = ("covid-19", "viral", "normal")
    found = results_of(finished_run(tmp_path / "run", labels=labels))
    made = tables_of(found)
    table = made["table-3-methods"]
    assert table.head == ("method", *labels, "macro")
    assert not [row for row in table.rows if row[0].startswith("paper")]
    papers = [row for row in made["table-1-data"].rows if row[0].startswith("paper")]
    assert papers[0] == ("paper: original data, kcx", "5389", "0", "1492", "1117")


def test_printed_columns_follow_the_order_of_our_labels(tmp_path: Path) -> None:
    labels = ("normal", "covid-19", "viral", "bacterial")
    made = tables_of(results_of(finished_run(tmp_path / "run", labels=labels)))
    papers = {row[0]: row[1:] for t in made.values() for row in t.rows if row[0].startswith("paper")}
    assert papers["paper: FLANNEL"] != papers["paper: Voting"]
    voting = ("0.9079 (0.01)", "0.7684 (0.04)", "0.6005 (0.03)", "0.8214 (0.03)", "0.7745 (0.01)")
    assert papers["paper: Voting"] == voting
    assert papers["paper: all, all"] == ("5508", "1118", "100", "1503", "2787")


def test_a_collection_that_the_paper_lacks_has_no_printed_row(found: dict[str, Any]) -> None:
    data = {"original data, rsna": [10, 1, 2, 3, 4], **found["data"]}
    rows = tables_of({**found, "data": data})["table-1-data"].rows
    assert rows[0] == ("original data, rsna", "10", "1", "2", "3", "4")
    assert not rows[1][0].startswith("paper")


def test_without_ap_images_there_is_no_ap_table(found: dict[str, Any]) -> None:
    methods = {name: {**m, "ap": None} for name, m in found["methods"].items()}
    assert "ap-view" in tables_of(found)
    assert "ap-view" not in tables_of({**found, "methods": methods})


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("flannel", "FLANNEL"),
        ("flannel-ce", "FLANNEL without focal loss"),
        ("flannel-ce-sampling", "FLANNEL without focal loss, with oversampling"),
        ("mlp-1", "MLP, one layer"),
        ("mlp-2", "MLP, two layers"),
        ("voting", "voting"),
        ("densenet", "densenet"),
        ("flannel, unpruned", "FLANNEL, unpruned"),
        ("vgg, unpruned", "vgg, unpruned"),
    ],
)
def test_methods_have_names_for_readers(method: str, words: str) -> None:
    assert in_words(method) == words


def test_titles_name_preset_n_split_and_seed(found: dict[str, Any], made: dict[str, Table]) -> None:
    assert set(made) == {*COUNTING, *OTHERS}
    details = f"preset sane, made, n = 24, by patient, 4:1, {FOLDS} folds of the training side, seed 1"
    results = from_json(Results, found)
    assert _caption(results, "What") == f"What ({details})"
    assert _caption(results, "What", 7) == f"What ({details.replace('24', '7')})"
    for name in COUNTING:
        assert details in made[name].title, name
    for name in OTHERS:
        assert "preset sane" in made[name].title, name
        assert "seed 1" in made[name].title, name
    assert f"n = {found['methods']['flannel']['ap']['images']}," in made["ap-view"].title
    assert f"n = {7 + 8 + 6}," in made["outside"].title
    assert "by patient, 4:1" in made["table-1-data"].title


def test_a_run_without_other_collections_has_an_empty_table_of_them(found: dict[str, Any]) -> None:
    table = tables_of({**found, "outside": {}})["outside"]
    assert table.rows == ()
    assert "n = 0" in table.title


def test_pruned_learners_have_both_sizes(found: dict[str, Any]) -> None:
    vgg = {"architecture": "plain", "parameters": 500.0, "macs": 1e6}
    networks = {"vgg": {**vgg, "unpruned": {**vgg, "parameters": 1000.0}}, "covid-net": vgg}
    table = tables_of({**found, "networks": networks, "pruned": True})["networks"]
    assert table.rows == (
        ("vgg", "plain", "500", "1.0"), ("vgg, unpruned", "plain", "1,000", "1.0"), ("covid-net", "plain", "500", "1.0"),
    )  # fmt: skip
    assert "pruned" in table.note
    assert "pruned" not in tables_of(found)["networks"].note


def test_every_table_reads_back_from_its_csv(made: dict[str, Table]) -> None:
    for name, table in made.items():
        lines = [line for line in table.as_csv().splitlines() if not line.startswith("#")]
        rows = [tuple(row) for row in csv.reader(io.StringIO("\n".join(lines)))]
        assert rows == [table.head, *table.rows], name
        assert table.title in table.as_markdown()


def test_published_probabilities_stay_below_the_modules_limit(made: dict[str, Table], tmp_path: Path) -> None:
    table = made["temperature"]
    assert [row[0] for row in table.rows] == ["as published", "with temperature"]
    learners, labels = len(flannel_run(tmp_path).config.learners), len(LABELS)
    limit = 2.718281828459045**learners / (2.718281828459045**learners + labels - 1)
    assert f"No published answer can pass {limit:.4f}" in table.note
    assert float(table.rows[0][3]) < limit


def test_printed_figures_are_compared_with_our_intervals(found: dict[str, Any]) -> None:
    flannel = found["methods"]["flannel"]
    together = flannel["together"]
    figures = {"viral": (0.7, 0.65, 0.75), "bacterial": (0.7, 0.6, 0.75), "normal": (0.9, 0.88, 0.95)}
    labels = {k: {**v, "f1": {**v["f1"], **dict(zip(("value", "low", "high"), figures.get(k, (0.8, 0.7, 0.9)), strict=True))}}
              for k, v in together["labels"].items()}  # fmt: skip
    changed = {**found["methods"], "flannel": {**flannel, "together": {**together, "labels": labels}}}
    rows = {row[0]: row for row in tables_of({**found, "methods": changed})["against-the-paper"].rows}
    assert rows["F1 covid-19"][3:] == ("0.8168 (0.03)", "within our interval")
    assert rows["F1 viral"][3:] == ("0.6063 (0.02)", "below our interval: ours is better")
    assert rows["F1 bacterial"][3:] == ("0.8267 (0.00)", "above our interval: ours is worse")
    assert rows["COVID-19 recall"][3] == "0.8609 (0.03)"
    assert list(rows)[-3:] == ["macro-F1", "COVID-19 precision", "COVID-19 recall"]


def test_pages_follow_the_guarded_label(tmp_path: Path) -> None:
    labels = ("normal", "viral", "bacterial")
    run = finished_run(tmp_path / "run", labels=labels, guard="viral")
    found = results_of(run)
    assert found["positive"] == "viral"
    one, k = found["methods"]["flannel"]["folds"][0], labels.index("viral")
    predictions = Table3Predictions(run).predictions("flannel", 0)
    true, flagged = predictions.true == k, predictions.predicted == k
    assert one["recall"] == pytest.approx((true & flagged).sum() / true.sum())
    assert one["precision"] == pytest.approx((true & flagged).sum() / flagged.sum())
    made = tables_of(found)
    assert "covid-19" not in made
    assert made["viral"].title.startswith("viral against the rest")
    assert [row[0] for row in made["against-the-paper"].rows][-2:] == ["viral precision", "viral recall"]
    assert [row[3:] for row in made["against-the-paper"].rows][-2:] == [("-", "-")] * 2, "the paper's are of COVID-19"
    assert made["comparisons"].head[2] == "viral F1"
    assert made["outside"].title.startswith("Called viral at sources that no learner saw")
    for table in (made["viral"], made["comparisons"], made["outside"], made["ap-view"]):
        assert "COVID-19" not in table.as_markdown()


def test_pictures_follow_the_guarded_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: Path(file).touch())
    for name in ("_case_rows", "_mean_row"):  # of networks, which do not exist
        monkeypatch.setattr(report, name, lambda *_: None)
    monkeypatch.setattr(report, "cam_picture", lambda _, __, file: Path(file).touch())
    run = finished_run(tmp_path / "run", labels=("normal", "viral", "bacterial"), guard="viral")
    page = report.write(run, from_json(Results, results_of(run)), tmp_path / "page")
    text = page.read_text()
    assert "F1 for viral, mean" in text
    assert "class activation map for viral" in text
    for name in ("f1-viral", "f1-viral-ap", "roc", "precision-recall", "confusion"):
        assert f"({name}.png)" in text
        assert (page.parent / f"{name}.png").exists()
    assert read_json(Results, page.parent / "results.json").positive == "viral"


def test_an_earlier_run_stands_beside(found: dict[str, Any]) -> None:
    earlier = json.loads(json.dumps(found))
    del earlier["methods"]["covid-net"]
    earlier["methods"]["voting"]["together"]["macro_f1"]["value"] = 0.1234
    made = tables(from_json(Results, found), from_json(Results, earlier))["before"]
    rows = {row[0]: row for row in made.rows}
    assert "covid-net" not in rows
    assert rows["voting"][3].startswith("0.123")
    assert rows["voting"][7] == interval(from_json(Results, found).methods["voting"].together.macro_f1)
