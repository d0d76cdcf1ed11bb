"""Cases of a site: what is read, and every sentence with which cases are refused."""

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from cxr_edge.site.cases import Reading, read_cases

LABELS = ("normal", "covid-19")


def table(tmp_path: Path, text: str, name: str = "cases.csv") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8-sig")
    return file


def read(source: Path, **reading: object):
    return read_cases(source, LABELS, Reading(**reading))


def test_a_folder_per_label(tmp_path):
    for name in ("normal/a.png", "normal/.hidden", "Covid 19/p7/1.png", "Covid 19/p7/2.png", ".git/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read(tmp_path)
    assert [(c.label, c.patient, c.path.name) for c in found] == [
        ("covid-19", "p7", "1.png"),
        ("covid-19", "p7", "2.png"),
        ("normal", "normal/a.png", "a.png"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table(tmp_path, delimiter):
    rows = [
        ("Image", "Diagnosis", "Patient ID", "hospital"),
        ("x/1.png", "normal", "7", "A"),
        ("2.png", "COVID-19", "8", "B"),
    ]
    found = read(table(tmp_path, "\n".join(delimiter.join(row) for row in rows) + "\n\n"))
    assert [(c.path, c.label, c.patient, c.site) for c in found] == [
        (tmp_path / "x/1.png", "normal", "7", "A"),
        (tmp_path / "2.png", "covid-19", "8", "B"),
    ]


def test_columns_and_labels_by_option(tmp_path):
    file = table(tmp_path, "a,b,patient\n1.png,0,7\n2.png,1,7\n")
    found = read(file, columns={"path": "a", "label": "b", "patient": ""}, renamed={"0": "normal", "1": "covid-19"})
    assert [(c.label, c.patient) for c in found] == [("normal", "1.png"), ("covid-19", "2.png")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: expected a first line with the columns path and label"),
        ("name,label\n1,normal\n", "no column path.*it has name, label. Name it with --path-column NAME"),
        (
            "path,file_name,diagnosis,class\n",
            "'diagnosis' and 'class' may both be the label: say which with --label-column",
        ),
        ("path,label\n1.png,flu\n", "row 2: the label 'flu' is none of the bundle's, normal, covid-19: rename it"),
        ("path,label\n1.png,\n", "row 2: the label is empty"),
        ("path,label,patient\n1.png,normal\n", "row 2: 2 cells, expected 3 or more"),
        ("path,label\n1.png,normal\n1.png,normal\n", "row 3: the file of row 2 again"),
        ("path,label\n", "holds no cases: expected a sub-folder per label"),
        ('path,label\n"1.png,normal\n', "cannot be read as CSV"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(table(tmp_path, text))


def test_a_patient_under_two_labels_is_refused_without_the_name(tmp_path):
    file = table(tmp_path, "path,label,patient\n1.png,normal,Miller\n2.png,covid-19,Miller\n")
    with pytest.raises(InputError, match="row 3: a patient with the label covid-19 here and normal at row 2") as error:
        read(file)
    assert "Miller" not in str(error.value)


def test_all_faults_are_named_up_to_ten(tmp_path):
    file = table(tmp_path, "path,label\n" + "".join(f"{i}.png,flu\n" for i in range(12)))
    with pytest.raises(InputError, match=r"row 11: .*; and 2 more"):
        read(file)


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder or file .*absent"):
        read(tmp_path / "absent")
    (tmp_path / "utf16.csv").write_bytes("path,label\n".encode("utf-16"))
    with pytest.raises(InputError, match="cannot be read as CSV in UTF-8"):
        read(tmp_path / "utf16.csv")
    with pytest.raises(InputError, match="no column 'c'; the columns are a, b"):
        read(table(tmp_path, "a,b\n"), columns={"path": "c"})
    (tmp_path / "cases" / "flu").mkdir(parents=True)
    with pytest.raises(InputError, match="folder flu: the label 'flu' is none of the bundle's"):
        read(tmp_path / "cases")
