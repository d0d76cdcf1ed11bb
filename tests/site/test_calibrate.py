"""`cxr-edge calibrate` on a drawn site: the new bundle, its card, and every refusal."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cxr_edge import Bundle, load_image
from cxr_edge.bundle import write_bundle
from cxr_edge.bundle.gate_file import pack_images
from cxr_edge.bundle.gate_set import attach_gate_set, read_gate_set
from cxr_edge.calibration import Promise
from cxr_edge.cli import main
from cxr_edge.drift import Reference, exam_statistics
from cxr_edge.engines import reference
from cxr_edge.errors import InputError
from cxr_edge.screening.screener import Screener
from cxr_edge.site.calibrate import SiteRequest, calibrate
from cxr_edge.specs.budget import ErrorBudget, LabelLimits
from tests.builders.site_cases import draw_case, write_cases
from tests.builders.toy_bundle import build_toy_bundle, toy_refused_image

COUNTS = {"normal": 50, "bacterial": 50}
PATIENT_NAME = "Miller"


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("site") / "cases", COUNTS)


@pytest.fixture(scope="module")
def calibrated(toy_bundle, cases, tmp_path_factory):
    """Return the report of a calibration, and the lines of progress."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("calibrated") / "new"
    return calibrate(Bundle.open(toy_bundle), cases, out, SiteRequest(), say=said.append), said


def refusal(bundle, source, tmp_path, **request):
    with pytest.raises(InputError) as error:
        calibrate(Bundle.open(bundle), source, tmp_path / "new", SiteRequest(**request))
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".calibrating-*"))
    return str(error.value)


def test_the_new_bundle_has_the_sites_point_and_the_old_networks(toy_bundle, calibrated):
    report, _ = calibrated
    old, new = Bundle.open(toy_bundle).manifest, Bundle.open(report.out).manifest
    assert new.version == f"{old.version}+site.1"
    assert [m.file for m in new.members] == [m.file for m in old.members]
    assert (new.segmenter, new.combination, new.known_answers) == (old.segmenter, old.combination, old.known_answers)
    assert new.budget == report.point.budget
    assert new.budget.labels["normal"].cases == new.budget.labels["bacterial"].cases == 50
    assert new.budget.labels["normal"].answer_from is not None
    assert new.budget.labels["viral"] == LabelLimits(set_from=0.0, answer_from=None, cases=0, answered=0, wrong=0)
    site = new.provenance["site"]
    assert site["cases"] == {"normal": 50, "bacterial": 50, "viral": 0, "covid-19": 0}
    assert site["of"] == {"version": old.version, "manifest_sha256": Bundle.open(toy_bundle).digest}
    assert len(site["cases_sha256"]) == 64


def test_the_new_bundle_answers_like_the_site_and_abstains_elsewhere(calibrated):
    bundle = Bundle.open(calibrated[0].out)
    screener = Screener(bundle, reference(bundle))
    answers = {label: screener.screen(load_image(draw_case(label, 900))) for label in ("normal", "bacterial", "viral")}
    assert (answers["normal"].decision, answers["bacterial"].decision) == ("normal", "bacterial")
    assert (answers["viral"].outcome, answers["viral"].reason.code) == ("abstained", "never_answered")
    assert "normal" in answers["normal"].prediction_set
    assert {"viral", "covid-19"} <= set(answers["bacterial"].prediction_set)


def test_report_and_card_have_the_figures_before_and_after(calibrated):
    report, said = calibrated
    assert said == ["screening 100 cases with the fp32 reference", "fitting the operating point"]
    assert (report.before.answered, report.before.cases) == (100, 100)
    assert report.after.cases == 100
    assert report.after.answered >= 90
    card = (report.out / "model-card.md").read_text()
    assert card.startswith("# Toy bundle")
    for words in (
        "## Calibrated on site",
        "50 normal, 50 bacterial; 100 patients",
        "not at another hospital",
        "| answered | 100.0 %",
    ):
        assert words in card
    text = "\n".join(report.lines())
    assert "no cases of viral, covid-19: never answered, and in every prediction set." in text
    assert "the cases name no site" in text
    assert text.endswith(f"Next: cxr-edge build-engine {report.out}")
    document = json.loads(json.dumps(report.as_json()))
    assert document["after"]["labels"]["normal"]["sensitivity"]["n"] == 50


def test_a_second_calibration_replaces_the_section(calibrated, cases, tmp_path):
    bundle = Bundle.open(calibrated[0].out)
    report = calibrate(bundle, cases, tmp_path / "again", SiteRequest())
    assert report.version.endswith("+site.2")
    assert (tmp_path / "again" / "model-card.md").read_text().count("## Calibrated on site") == 1
    assert any("calibrated on these very cases before" in note for note in report.notes)


def test_labels_without_cases_keep_their_limits_if_asked(toy_bundle, cases, tmp_path):
    root = tmp_path / "bundle"
    shutil.copytree(toy_bundle, root)
    limits = LabelLimits(set_from=0.125, answer_from=0.25, cases=80, answered=60, wrong=0)
    budget = ErrorBudget(
        max_wrong=0.05, confidence=0.9, coverage=0.95, fitted_on="x", labels={"viral": limits, "normal": limits}
    )
    write_bundle(root, replace(Bundle.open(root).manifest, budget=budget))
    report = calibrate(Bundle.open(root), cases, tmp_path / "new", SiteRequest(keep_absent=True))
    assert report.point.budget.labels["viral"] == limits
    assert report.point.budget.labels["normal"] != limits
    assert report.point.budget.labels["covid-19"].answer_from is None


def test_many_patients_fit_the_temperature_too(toy_bundle, tmp_path):
    """400 patients: a quarter fits the temperature and nothing else; known answers follow, so that a build agrees."""
    source = write_cases(tmp_path / "cases", {"normal": 200, "bacterial": 200})
    report = calibrate(Bundle.open(toy_bundle), source, tmp_path / "new", SiteRequest(threads=2))
    bundle = Bundle.open(tmp_path / "new")
    assert (report.point.temperature_patients, report.point.patients) == (100, 300)
    assert report.point.sharpness > 2  # every drawn case is decided rightly
    assert bundle.manifest.combination.temperature < Bundle.open(toy_bundle).manifest.combination.temperature / 2
    screener = Screener(bundle, reference(bundle))
    for answer in bundle.manifest.known_answers:
        found = screener.screen(load_image(bundle.file(answer.file))).probabilities
        assert found == pytest.approx(answer.probabilities, abs=1e-4)


def test_too_few_cases_are_refused_with_the_number_needed(toy_bundle, tmp_path):
    source = write_cases(tmp_path / "cases", {"normal": 44, "bacterial": 45})
    text = refusal(toy_bundle, source, tmp_path)
    assert "normal has 44 patients; at least 45 of each label are needed" in text
    assert "--never-answer LABEL" in text
    report = calibrate(Bundle.open(toy_bundle), source, tmp_path / "new", SiteRequest(never=("normal",)))
    assert report.point.budget.labels["normal"].answer_from is None
    assert report.point.budget.labels["bacterial"].answer_from is not None
    assert "normal is never answered, as requested." in report.notes


def test_several_images_of_a_patient_are_one_case(toy_bundle, tmp_path):
    source = write_cases(tmp_path / "cases", {"normal": 45, "bacterial": 45})
    (source / "normal" / "one").mkdir()
    for name in ("0.png", "1.png"):
        (source / "normal" / name).rename(source / "normal" / "one" / name)
    assert "normal has 44 patients" in refusal(toy_bundle, source, tmp_path)


def test_one_label_shows_no_wrong_answer(toy_bundle, tmp_path):
    source = write_cases(tmp_path / "cases", {"normal": 46})
    assert "all cases are normal: wrong answers show only on cases of two labels" in refusal(
        toy_bundle, source, tmp_path
    )


def test_a_promise_that_no_limit_keeps_is_refused_with_one_that_is(toy_bundle, tmp_path):
    """A tenth of each label's cases lie under the other's name."""
    source = write_cases(tmp_path / "cases", {"normal": 60, "bacterial": 60})
    for i in range(0, 60, 8):
        for label, other in (("normal", "bacterial"), ("bacterial", "normal")):
            (source / label / f"{i}.png").rename(source / other / f"wrong-{i}.png")
    text = refusal(toy_bundle, source, tmp_path)
    assert "no answer keeps the promise of at most 5.0% wrong with a confidence of 90%" in text
    assert "with --max-wrong 0." in text


def test_few_unreadable_images_are_left_out_and_listed(toy_bundle, cases, calibrated, tmp_path):
    source = shutil.copytree(cases, tmp_path / "cases")
    for i in range(11):
        (source / "normal" / f"notes-{i}.txt").write_text("no image")
    said: list[str] = []
    report = calibrate(Bundle.open(toy_bundle), source, tmp_path / "new", SiteRequest(), say=said.append)
    assert said[1].startswith("11 of 111 cases are left out: ")
    assert "notes-0.txt: it cannot be read" in said[1]
    note = "11 of 111 cases are left out, since the bundle would not answer them: 11 unreadable."
    assert note in report.notes
    assert note in (tmp_path / "new" / "model-card.md").read_text()
    assert report.point == calibrated[0].point


def test_many_unreadable_images_are_refused(toy_bundle, cases, tmp_path):
    source = shutil.copytree(cases, tmp_path / "cases")
    for i in range(12):
        (source / "normal" / f"notes-{i}.txt").write_text("no image")
    text = refusal(toy_bundle, source, tmp_path)
    assert text.startswith("12 of 112 cases cannot be used, more than 10%")
    assert "notes-0.txt: it cannot be read" in text


def test_cases_that_the_bundle_refuses_are_left_out(cases, tmp_path):
    bundle = build_toy_bundle(tmp_path / "toy", checker=True)
    source = shutil.copytree(cases, tmp_path / "cases")
    cv2.imwrite(str(source / "normal" / "turned.png"), toy_refused_image("turned"))
    report = calibrate(bundle, source, tmp_path / "new", SiteRequest())
    assert "1 of 101 cases are left out, since the bundle would not answer them: 1 turned." in report.notes
    assert report.patients == 100


def test_the_same_picture_twice_is_refused_also_in_another_format(toy_bundle, cases, tmp_path):
    source = shutil.copytree(cases, tmp_path / "cases")
    cv2.imwrite(str(source / "normal" / "again.bmp"), draw_case("normal", 3))
    text = refusal(toy_bundle, source, tmp_path)
    assert "again.bmp: the same picture as" in text
    assert "3.png" in text


def test_known_answers_of_the_bundle_are_no_cases(toy_bundle, cases, tmp_path):
    source = shutil.copytree(cases, tmp_path / "cases")
    shutil.copy(toy_bundle / "known-smooth.png", source / "normal")
    assert "known-smooth.png: a known answer of the bundle" in refusal(toy_bundle, source, tmp_path)


def test_requests_that_cannot_be_met(toy_bundle, cases, tmp_path):
    assert "--never-answer: flu is no label of the bundle" in refusal(toy_bundle, cases, tmp_path, never=("flu",))
    assert "which has no error budget" in refusal(toy_bundle, cases, tmp_path, keep_absent=True)
    findings = build_toy_bundle(tmp_path / "findings", multi_label=True).root
    assert "findings that do not exclude each other" in refusal(findings, cases, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match=r"full exists: give another folder"):
        calibrate(Bundle.open(toy_bundle), cases, tmp_path / "full", SiteRequest())
    with pytest.raises(InputError, match=r"there is no folder .*absent for the new bundle"):
        calibrate(Bundle.open(toy_bundle), cases, tmp_path / "absent" / "new", SiteRequest())


def _table(cases, tmp_path, site_of):
    rows = [f"{f},{f.parent.name},{PATIENT_NAME}{i},{site_of(f)}" for i, f in enumerate(sorted(cases.rglob("*.png")))]
    file = tmp_path / "cases.csv"
    file.write_text("\n".join(["path,label,patient,site", *rows]))
    return file


def test_sites_that_tell_the_label_are_named(toy_bundle, cases, tmp_path):
    file = _table(cases, tmp_path, lambda f: f.parent.name)
    report = calibrate(Bundle.open(toy_bundle), file, tmp_path / "new", SiteRequest())
    assert any("no site has both bacterial and normal" in note for note in report.notes)
    assert not any("the promise holds for patients and scanners like these alone" in note for note in report.notes)


def test_cases_of_a_training_source_are_named_and_no_patient_is_written(toy_bundle, cases, tmp_path):
    root = tmp_path / "bundle"
    shutil.copytree(toy_bundle, root)
    provenance = {"images": {"train": {"kcx/normal": 3}}}
    write_bundle(root, replace(Bundle.open(root).manifest, provenance=provenance))
    report = calibrate(Bundle.open(root), _table(cases, tmp_path, lambda f: "kcx"), tmp_path / "new", SiteRequest())
    assert any("the bundle was trained on images of kcx" in note for note in report.notes)
    assert any("all cases are of the site 'kcx'" in note for note in report.notes)
    for file in ("manifest.json", "model-card.md"):
        assert PATIENT_NAME not in (tmp_path / "new" / file).read_text()


def test_the_command(toy_bundle, cases, tmp_path, capsys):
    arguments = ["calibrate", str(toy_bundle), str(cases), "--out", str(tmp_path / "new")]
    assert main([*arguments, "--max-wrong", "0.1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["budget"]["max_wrong"]) == ("1+site.1", 0.1)
    assert main(arguments) == 2  # the folder exists
    assert "exists" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "b"), "--max-wrong", "2"]) == 2
    assert "max_wrong is a share above 0 and below 1" in capsys.readouterr().err


def test_names_by_option(toy_bundle, cases, tmp_path, capsys):
    file = tmp_path / "cases.csv"
    rows = [f"{f},{'n' if f.parent.name == 'normal' else 'b'}" for f in cases.rglob("*.png")]
    file.write_text("\n".join(["x,y", *rows]))
    options = ["--path-column", "x", "--label-column", "y", "--label-name", "n=normal", "b=bacterial"]
    assert main(["calibrate", str(toy_bundle), str(file), "--out", str(tmp_path / "new"), *options]) == 0
    assert "Cases: 50 normal, 50 bacterial" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["starter"], ["starter", "cases"], ["--max-wrong", "few"], ["--label-name", "n"]]
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["calibrate", *arguments])
    assert "cxr-edge calibrate: error: " in capsys.readouterr().err


def test_the_plan_needs_no_bundle(capsys):
    assert main(["calibrate", "--plan"]) == 0
    text = capsys.readouterr().out
    assert "45 with 0, 77 with 1, 105 with 2, 132 with 3 wrong" in text
    assert "50 where 90% are answered, 65 where 70% are answered, 90 where 50% are answered" in text
    assert "Cases of a label below which its sets exclude nothing: 19." in text
    assert main(["calibrate", "--plan", "--json", "--max-wrong", "0.02"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["least_cases_of_a_label"] == 114
    assert plan["cases"]["50"]["most_wrong_answers"] is None
    assert plan["cases"]["500"]["shown_with_wrong_share"]["0"] == pytest.approx(1 - 0.1 ** (1 / 500), abs=1e-6)


def test_the_promise_is_the_default_of_the_command():
    assert Promise() == Promise(max_wrong=0.05, confidence=0.9, coverage=0.95)


@pytest.mark.parametrize("temperature", [False, True])
def test_drift_is_measured_against_the_cases(toy_bundle, cases, tmp_path, monkeypatch, temperature):
    """The reference is what the new bundle itself finds in the cases, at its own temperature too."""
    if temperature:  # of which a quarter fits the temperature
        monkeypatch.setattr("cxr_edge.site.fit.LEAST_CASES", 80)
    report = calibrate(Bundle.open(toy_bundle), cases, tmp_path / "new", SiteRequest(promise=Promise(max_wrong=0.2)))
    bundle, old = Bundle.open(report.out), Bundle.open(toy_bundle)
    assert (bundle.manifest.combination.temperature != old.manifest.combination.temperature) is temperature
    found = Reference.of_bundle(bundle)
    screener = Screener(bundle, reference(bundle))
    images = [load_image(path) for path in sorted(cases.rglob("*.png"))]
    exams = [exam_statistics(screener.screen(image), image) for image in images]
    assert found.exams == len(exams) == 100
    for name, values in found.statistics.items():
        assert values == pytest.approx(sorted(exam[name] for exam in exams), abs=0.011), name


@pytest.mark.parametrize("temperature", [False, True])
def test_the_gate_set_is_kept_with_answers_at_the_new_point(toy_bundle, cases, tmp_path, monkeypatch, temperature):
    """Its images stay, byte by byte; probabilities and decisions are what the new bundle finds in them."""
    if temperature:
        monkeypatch.setattr("cxr_edge.site.fit.LEAST_CASES", 80)
    shutil.copytree(toy_bundle, tmp_path / "gated")
    before = Bundle.open(tmp_path / "gated")
    images = [load_image(path).pixels for path in sorted(cases.rglob("*.png"))[::10]]
    screener = Screener(before, reference(before))
    answers = [screener.screen(load_image(pixels)) for pixels in images]
    file = pack_images(
        images,
        [None] * len(images),
        before.manifest.labels,
        np.array([a.probabilities for a in answers]),
        [a.forced_decision for a in answers],
    )
    gated = attach_gate_set(before, file, licence="CC0-1.0", attribution="drawn")
    report = calibrate(gated, cases, tmp_path / "new", SiteRequest(promise=Promise(max_wrong=0.2)))
    bundle = Bundle.open(report.out)
    found, screener = read_gate_set(bundle), Screener(bundle, reference(bundle))
    assert (bundle.manifest.gate_set.file == gated.manifest.gate_set.file) is (
        np.array_equal(found.probabilities, read_gate_set(gated).probabilities)
        and found.decisions == read_gate_set(gated).decisions
    )
    for image, shares, decision in zip(found.images, found.probabilities, found.decisions, strict=True):
        screening = screener.screen(image)
        assert shares == pytest.approx(screening.probabilities, abs=1e-3)
        assert decision == screening.forced_decision
