"""Comparison of results with their records: equal, within the tolerance, different, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxr_edge.evidence.constants import TOLERANCE
from cxr_edge.evidence.records import (
    BundleRecord,
    DroppedRecord,
    EngineRecord,
    FailureRecord,
    InputRecord,
    LibraryRecord,
    MachineRecord,
    RunRecord,
    ScreeningRecord,
    SoftwareRecord,
)
from cxr_edge.evidence.replay import compare

INPUT = InputRecord(sha256="a" * 64, name="b" * 64)
RUN = RunRecord(
    bundle=BundleRecord(name="toy", version="1", sha256="c" * 64, counter=0),
    labels=("normal", "covid-19"),
    operating_point="d" * 64,
    backend="onnxruntime",
    execution="onnxruntime: a fp32",
    engines=(EngineRecord(part="a", precision="fp32", sha256="e" * 64),),
    versions={"onnxruntime": "1.20", "processor": "P", "driver": "1"},
    machine=MachineRecord(host="box", processor="P", instruction_sets="avx2", platform="Linux"),
    software=SoftwareRecord(
        cxr_edge="0.1.0",
        code_sha256="1" * 64,
        core_sha256="2" * 64,
        python="3.11",
        libraries={"numpy": LibraryRecord(version="2.0", sha256="3" * 64)},
    ),
    options={"threads": 1, "answer_all": False, "deadline_ms": None, "workers": 2},
    site_key="k",
    signer="",
)
RESULT = ScreeningRecord(
    input=INPUT,
    outcome="answered",
    reason=None,
    decision="normal",
    forced_decision="normal",
    findings=None,
    prediction_set=None,
    probabilities=(0.75, 0.25),
    members={"a": (0.75, 0.25)},
    roi=(0, 0, 9, 9),
    view="PA",
    view_estimated=False,
    checks={"inverted": 0.125},
    flags=("no_window",),
    times_ms={"decode": 1.0},
)
FAILURE = FailureRecord(input=INPUT, error="no image")


def compared(before=RESULT, after=RESULT, run=RUN, now=RUN):
    return compare(before, run, after, now)


def test_equal_results():
    found = compared(after=replace(RESULT, times_ms={"decode": 2.0}, input=replace(INPUT, name="f" * 64)))
    assert (found.equality, found.largest, found.differences, found.causes) == ("equal", 0.0, (), ())


def test_the_last_bit_counts():
    found = compared(after=replace(RESULT, probabilities=(0.75 + 2**-24, 0.25)))
    assert found.equality == "within tolerance"
    assert 0 < found.largest < 1e-7
    assert found.differences == ("probabilities or scores differ by up to 5.96e-08",)


def test_minus_zero_is_another_bit():
    before, after = (replace(RESULT, probabilities=(1.0, zero)) for zero in (0.0, -0.0))
    assert compared(before, after).equality == "within tolerance"


@pytest.mark.parametrize(
    "change",
    [
        {"probabilities": (0.75 - 2 * TOLERANCE, 0.25)},
        {"members": {"a": (0.75 - 2 * TOLERANCE, 0.25)}},
        {"checks": {"inverted": 0.125 + 2 * TOLERANCE}},
        {"members": {"b": (0.75, 0.25)}},
        {"members": {"a": (0.75,)}},
        {"probabilities": (float("nan"), 0.25)},
        {"checks": {}},
        {"outcome": "refused"},
        {"reason": "inverted"},
        {"forced_decision": "covid-19"},
        {"findings": ("covid-19",)},
        {"prediction_set": ("normal",)},
        {"flags": ()},
        {"view": "AP"},
    ],
)
def test_different_results(change):
    found = compared(after=replace(RESULT, **change))
    assert found.equality == "different"
    assert found.differences


def test_not_a_number_is_equal_to_itself():
    nan = replace(RESULT, probabilities=(float("nan"), 0.25))
    assert compared(nan, nan).equality == "equal"
    assert compared(nan, RESULT).as_json()["largest"] is None


def test_another_lung_box_is_within_the_tolerance_if_the_probabilities_are():
    found = compared(after=replace(RESULT, roi=(0, 0, 9, 8)))
    assert found.equality == "within tolerance"
    assert found.differences == ("another lung box: [0, 0, 9, 9] when recorded, [0, 0, 9, 8] now",)


def test_differences_in_words():
    found = compared(after=replace(RESULT, flags=("a", "b"), findings=("covid-19",), reason="inverted"))
    assert found.differences == (
        "another reason: none when recorded, inverted now",
        "another findings: none when recorded, covid-19 now",
        "another flags: no_window when recorded, a b now",
    )


def test_failures():
    assert compared(FAILURE, FAILURE).equality == "equal"
    other = compared(FAILURE, replace(FAILURE, error="too large"))
    assert other.differences == ("it failed with another reason: 'no image' when recorded, 'too large' now",)
    assert compared(FAILURE, RESULT).differences == ("it failed when it was recorded (no image) and is screened now",)
    assert compared(RESULT, FAILURE).differences == ("it fails now: no image",)
    assert compared(RESULT, FAILURE).equality == "different"


SOFTWARE, MACHINE = RUN.software, RUN.machine


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            {"bundle": replace(RUN.bundle, version="2", sha256="0" * 64)},
            "another bundle: toy 1 when recorded, toy 2 now",
        ),
        ({"bundle": replace(RUN.bundle, sha256="0" * 64)}, "another bundle of the same name: digest cccccccccccc..."),
        ({"operating_point": "0" * 64}, "another operating point"),
        ({"backend": "tensorrt"}, "another backend: onnxruntime when recorded, tensorrt now"),
        ({"engines": (replace(RUN.engines[0], sha256="0" * 64),)}, "other engines: a"),
        (
            {"engines": (replace(RUN.engines[0], sha256="0" * 64, precision="int8"),)},
            "other engines: a (fp32 when recorded, int8 now)",
        ),
        ({"machine": replace(MACHINE, processor="Q")}, "another machine (processor): 'P' when recorded, 'Q' now"),
        ({"machine": replace(MACHINE, instruction_sets="avx")}, "another machine (instruction sets)"),
        ({"versions": {**RUN.versions, "driver": "2"}}, "another driver: 1 when recorded, 2 now"),
        ({"software": replace(SOFTWARE, cxr_edge="0.2.0")}, "another cxr-edge: 0.1.0 when recorded, 0.2.0 now"),
        ({"software": replace(SOFTWARE, code_sha256="0" * 64)}, "other Python code of cxr-edge of the same version"),
        ({"software": replace(SOFTWARE, core_sha256="0" * 64)}, "another native core"),
        ({"software": replace(SOFTWARE, libraries={})}, "another numpy: 2.0 when recorded, none now"),
        (
            {"software": replace(SOFTWARE, libraries={"numpy": LibraryRecord(version="2.1", sha256="")})},
            "another numpy: 2.0 when recorded, 2.1 now",
        ),
        (
            {"software": replace(SOFTWARE, libraries={"numpy": LibraryRecord(version="2.0", sha256="0" * 64)})},
            "another build of numpy 2.0",
        ),
        ({"options": {**RUN.options, "answer_all": True}}, "another option answer_all: False when recorded, True now"),
    ],
)
def test_causes_in_words(change, cause):
    found = compared(now=replace(RUN, **change))
    assert len(found.causes) == 1
    assert found.causes[0].startswith(cause)


def test_options_that_change_no_output_and_another_host_are_no_causes():
    options = {**RUN.options, "workers": 1, "deadline_ms": 50.0, "max_pixels": 9}
    assert compared(now=replace(RUN, options=options, machine=replace(MACHINE, host="other"))).causes == ()


def test_a_degraded_record_says_so():
    found = compared(before=replace(RESULT, dropped=(DroppedRecord(member="b", reason="too late"),)))
    assert found.causes == ("degraded when recorded: without b (too late)",)
    assert RunRecord.from_json(RUN.as_json()) == RUN
