"""View and age from DICOM headers, on drawn files and data sets: what has one meaning counts, nothing else does."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from cxr_edge.decoding.decode import decode
from cxr_edge.records import AcquisitionFacts
from tests.builders.dicom_files import dataset, file_bytes, xray_pixels

# pydicom's, when the builder sets values that are strange on purpose.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Invalid value for VR", "ignore:.*value multiplicity", "ignore:Value exceeds"
)


def _facts(**elements: object) -> AcquisitionFacts:
    """The facts of a file, which are those of its data set."""
    data = dataset(xray_pixels(), **elements)
    of_set = decode(data).facts
    of_file = decode(file_bytes(data)).facts
    assert of_file == of_set
    return of_file


def _view_code(value: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return [item]


@pytest.mark.parametrize(
    ("position", "view"),
    [("PA", "PA"), ("AP", "AP"), ("LL", "LATERAL"), ("RL", "LATERAL"), ("LLD", ""), ("FRONTAL", ""), (None, "")],
)
def test_view_position(position: str | None, view: str) -> None:
    assert _facts(ViewPosition=position).view == view


@pytest.mark.parametrize(
    ("value", "meaning", "view"),
    [
        ("272479007", "", "PA"),
        ("R-10206", "whatever", "AP"),
        ("399173006", "left lateral", "LATERAL"),
        ("X-1", "Antero-posterior", "AP"),
        ("X-1", "postero-anterior", "PA"),
        ("X-1", "left lateral decubitus", ""),
        ("X-1", "oblique", ""),
    ],
)
def test_view_code(value: str, meaning: str, view: str) -> None:
    assert _facts(ViewPosition=None, ViewCodeSequence=_view_code(value, meaning)).view == view


def test_an_orientation_to_the_front_is_lateral_and_one_to_the_side_leaves_ap_or_pa_open() -> None:
    assert _facts(ViewPosition=None, PatientOrientation=["A", "F"]).view == "LATERAL"
    assert _facts(ViewPosition=None, PatientOrientation=["L", "F"]).view == ""


@pytest.mark.parametrize(
    "elements",
    [
        {"ViewPosition": "AP", "ViewCodeSequence": _view_code("272479007", "postero-anterior")},
        {"ViewPosition": "PA", "PatientOrientation": ["P", "F"]},
    ],
)
def test_a_header_that_contradicts_itself_gives_no_view(elements: dict[str, object]) -> None:
    assert _facts(**elements).view == ""


@pytest.mark.parametrize(
    ("age", "years"),
    [("034Y", 34.0), ("006M", 0.5), ("012W", 12 / 52.18), ("020D", 20 / 365.25), ("51", 51.0), ("000Y", 0.0)],
)
def test_age(age: str, years: float) -> None:
    assert _facts(PatientAge=age).age_years == pytest.approx(years)


@pytest.mark.parametrize("age", ["", "414Y", "abcY", "-34Y", "34.5Y", "Y", "034Y\\035Y"])
def test_a_strange_age_is_ignored(age: str) -> None:
    assert _facts(PatientAge=age).age_years is None


def test_the_age_is_at_the_study_by_the_date_of_birth() -> None:
    facts = _facts(PatientBirthDate="20100401", StudyDate="20200331")
    assert facts.age_years == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize(
    ("birth", "study"),
    [
        ("20100401", None),
        (None, "20200331"),
        ("20101301", "20200331"),
        ("20210401", "20200331"),
        ("18000101", "20200331"),
    ],
)
def test_without_two_dates_that_fit_there_is_no_age(birth: str | None, study: str | None) -> None:
    elements = {"PatientBirthDate": birth, "StudyDate": study}
    assert _facts(**{name: value for name, value in elements.items() if value}).age_years is None


def test_the_stated_age_comes_before_the_dates() -> None:
    assert _facts(PatientAge="050Y", PatientBirthDate="20100401", StudyDate="20200331").age_years == 50.0


def test_the_uid_is_known_and_not_shown() -> None:
    facts = _facts(SOPInstanceUID="1.2.840.99.1")
    assert facts.sop_instance_uid == "1.2.840.99.1"
    assert "1.2.840" not in repr(facts)


@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("uid", ["", "Nobody^Knows", "1." * 40])
def test_a_uid_that_is_none_is_left_out(uid: str) -> None:
    assert decode(dataset(xray_pixels(), SOPInstanceUID=uid)).facts.sop_instance_uid == ""


def test_other_formats_have_no_facts() -> None:
    assert decode(xray_pixels(bits=8).astype("uint8")).facts == AcquisitionFacts()
