"""Whole imports: a bundle that opens and screens, or nothing at all."""

from __future__ import annotations

import json

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.cli import main
from cxr_edge.compiler import known_answers
from cxr_edge.engines import reference
from cxr_edge.errors import ContractError
from cxr_edge.imports import run as importer
from cxr_edge.imports.draft import ImportSettings
from cxr_edge.imports.parity import measure_parity
from cxr_edge.imports.run import NetworkToImport, import_networks
from cxr_edge.imports.trained_input import PRESETS, TrainedInput
from cxr_edge.screening.screener import Screener
from tests.imports.networks import Design, drawn, network, saved

UNIT = PRESETS["unit"]
TWO = ("absent", "present")


@pytest.fixture
def xrays(tmp_path):
    """A folder with four images, and a file that is none."""
    folder = tmp_path / "xrays"
    (folder / "sub").mkdir(parents=True)
    for i, image in enumerate(drawn()):
        cv2.imwrite(str(folder / ("sub" if i % 2 else "") / f"{i}.png"), image.pixels)
    (folder / "notes.txt").write_text("no X-ray")
    return folder


def imported(networks, out, *, said=None, **settings):
    settings = {"labels": TWO, "image_count": 5, **settings}
    say = (lambda _: None) if said is None else said.append
    return import_networks(networks, ImportSettings(**settings), out, say=say)


def folders(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if p.is_dir())


def test_a_bundle_of_two_networks_with_lung_boxes(tmp_path, xrays):
    one = NetworkToImport(
        path=saved(network(Design(end="Sigmoid", columns=5)), tmp_path, "first net.onnx"), trained=UNIT, column=2
    )
    two = NetworkToImport(
        path=saved(network(Design(nhwc=True, batch=1, columns=1, head="norm"), seed=1), tmp_path, "segmenter.onnx"),
        trained=TrainedInput(region="lungs", range=(-1.0, 1.0)),
        output="logit",
    )
    said = []
    report = imported([one, two], tmp_path / "out", images=xrays, weights=(3.0, 1.0), said=said)
    bundle = Bundle.open(tmp_path / "out")
    manifest = bundle.manifest
    assert [m.name for m in manifest.members] == ["first-net", "segmenter-2"]
    assert [m.has_cam for m in manifest.members] == [True, False]
    assert [m.preprocess.region for m in manifest.members] == ["frame", "lungs"]
    assert all(m.activation_ranges for m in manifest.members)
    assert (manifest.name, manifest.segmenter is not None, len(manifest.known_answers)) == ("out", True, 8)
    assert manifest.combination.parameters == {"weights": [0.75, 0.25]}
    assert [n.name for n in check_networks(bundle)] == ["segmenter", "first-net", "segmenter-2"]
    assert bundle.unlisted_files() == ()
    assert any("notes.txt" in line for line in said)
    facts = manifest.provenance["members"]["first-net"]
    assert (facts["sha256"], facts["finding"]) == (report.entries[0].original.sha256, 2)
    assert "no image" not in json.dumps(manifest.as_json())
    card = bundle.file(manifest.model_card).read_text()
    assert "**No accuracy was measured**" in card
    assert report.entries[0].original.sha256 in card
    assert "It has no class activation map" in card
    assert "4 images of" in "\n".join(report.lines())
    screening = Screener(bundle, reference(bundle)).screen(drawn()[0])
    first = report.entries[0].original.run(drawn()[0], screening.roi)[2]
    assert screening.members[0].probabilities[1] == pytest.approx(first, abs=1e-5)


def test_phantoms_without_images(tmp_path):
    path = saved(network(Design(end="Softmax")), tmp_path)
    report = imported([NetworkToImport(path=path, trained=UNIT)], tmp_path / "out", labels=("a", "b", "c"), name="mine")
    assert report.bundle.manifest.name == "mine"
    assert report.bundle.manifest.members[0].activation_ranges is None
    assert report.images == "5 drawn phantoms"
    assert any("--images FOLDER compares on X-rays" in note for note in report.notes)
    assert report.as_json()["members"][0]["parity"]["probability"] < 1e-5


def test_another_network_leaves_nothing(tmp_path, monkeypatch):
    def wrong(member, names, probabilities, logits, **options):
        return measure_parity(member, names, (probabilities[0], probabilities[1][:, ::-1]), None, **options)

    monkeypatch.setattr(importer, "measure_parity", wrong)
    path = saved(network(Design(end="Softmax", columns=2)), tmp_path)
    before = folders(tmp_path)
    with pytest.raises(ContractError, match="so nothing is kept"):
        imported([NetworkToImport(path=path, trained=UNIT)], tmp_path / "out")
    assert folders(tmp_path) == before


def test_a_batch_that_cannot_be_made_dynamic(tmp_path):
    model = network(Design(batch=1, columns=2))
    shape = helper.make_tensor("fixed", TensorProto.INT64, [3], [1, 1, 2])
    model.graph.initializer.extend([shape, helper.make_tensor("two", TensorProto.INT64, [2], [1, 2])])
    model.graph.node[-1].output[0] = "rows"
    model.graph.node.append(helper.make_node("Unsqueeze", ["rows", "axis"], ["more"], name="more"))
    model.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [0]))
    model.graph.node.append(helper.make_node("Reshape", ["more", "two"], ["output_1"], name="last"))
    network_ = NetworkToImport(path=saved(model, tmp_path), trained=UNIT, output="softmax-logits")
    # the reshape of (1, N, 2) to (1, 2) fails for two images
    with pytest.raises(ContractError, match=r"fixed batch size that cannot be made dynamic.*dynamic_shapes"):
        imported([network_], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_map_that_is_no_map_of_the_logits_is_left_out(tmp_path, monkeypatch):
    from cxr_edge.imports import member_graph

    found = member_graph.find_class_map

    def wrong(*arguments):
        from dataclasses import replace

        class_map = found(*arguments)
        return replace(class_map, weight=class_map.weight * 2)

    monkeypatch.setattr(member_graph, "find_class_map", wrong)
    path = saved(network(Design(end="Softmax", columns=2)), tmp_path)
    report = imported([NetworkToImport(path=path, trained=UNIT)], tmp_path / "out")
    assert not report.bundle.manifest.members[0].has_cam
    assert "the one found does not give its logits" in "\n".join(report.lines())


def test_values_of_the_training_program(tmp_path, xrays):
    path = saved(network(Design(end="Softmax", columns=2), seed=3), tmp_path)
    one = NetworkToImport(path=path, trained=UNIT, expected=tmp_path / "values.csv")
    from cxr_edge.imports.original import read_original
    from cxr_edge.records import Roi

    original = read_original(path, UNIT)
    rows = [(i, original.run(image, Roi.full(9, 9))) for i, image in enumerate(drawn()[:2])]
    lines = [f"{'sub/' if i % 2 else ''}{i}.png,{values[0]},{values[1]}" for i, values in rows]
    (tmp_path / "values.csv").write_text("\n".join(["file,a,b", *lines]))
    report = imported([one], tmp_path / "out", images=xrays)
    assert report.entries[0].expected < 1e-6
    lines = [f"{'sub/' if i % 2 else ''}{i}.png,{values[1]},{values[0]}" for i, values in rows]
    (tmp_path / "values.csv").write_text("\n".join(["file,a,b", *lines]))
    with pytest.raises(ContractError, match="differ from those of --expected"):
        imported([one], tmp_path / "again", images=xrays)


def command(*words):
    return main(["import", *map(str, words)])


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(known_answers, "_SIDE_PX", 64)
    path = saved(network(Design(end="Softmax")), tmp_path)
    words = (path, "--labels", "a, b,c", "--preprocess", "unit", "--image-count", 3, "--threads", 1)
    assert command(*words, "--out", tmp_path / "one") == 0
    out, err = capsys.readouterr()
    assert "net: probabilities differ by at most" in out
    assert f"Next: cxr-edge build-engine {tmp_path / 'one'}" in out
    assert "comparing the members" in err
    assert command(*words, "--out", tmp_path / "two", "--json") == 0
    assert json.loads(capsys.readouterr().out)["members"][0]["name"] == "net"
    assert main(["inspect", str(tmp_path / "two")]) == 0
    assert "accuracy: not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"--labels": "a"}, 2, "expected two or more different labels"),
        ({"--labels": "a,a,b"}, 2, "expected two or more different labels"),
        ({"--labels": "a,b"}, 2, "needs 3 labels"),
        ({"--preprocess": "imagnet"}, 2, "--preprocess takes torchxrayvision"),
        ({"--column": "x"}, 2, "expected the number of a column"),
        ({"--column": "1"}, 3, "--column goes with independent findings"),
        ({"--combine": "missing.json"}, 2, "cannot be read"),
        ({"--combine": "weights.json"}, 2, "has 2 weights for 1 networks"),
        ({"--combine": "zero.json"}, 2, "must hold a list of 1 numbers of 0 or more, not all 0"),
        ({"--images": "missing"}, 2, "--images takes a folder of X-rays"),
        ({"--images": "empty"}, 2, "none of the 0 files"),
        ({"--expected": "values.csv"}, 2, "has values for the files of --images"),
        ({"--out": "full"}, 2, "is not empty"),
        ({"--out": "net.onnx"}, 2, "is a file"),
        ({"--out": "a/b"}, 2, "there is no folder"),
        ({"--output": "multi-label-logits"}, 3, "declared as multi-label-logits, but"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used(tmp_path, monkeypatch, capsys, change, status, message):
    monkeypatch.chdir(tmp_path)
    saved(network(Design(end="Softmax")), tmp_path)
    (tmp_path / "weights.json").write_text('{"weights": [1, 2]}')
    (tmp_path / "zero.json").write_text("[0]")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "x").mkdir(parents=True)
    before = folders(tmp_path)
    options = {"--labels": "a,b,c", "--preprocess": "unit", "--out": "out", "--image-count": "2", **change}
    words = [word for pair in options.items() for word in pair]
    try:
        found = command("net.onnx", *words)
    except SystemExit as error:
        found = error.code
    assert found == status
    assert message in capsys.readouterr().err
    assert folders(tmp_path) == before


def test_options_once_or_for_each(tmp_path, capsys):
    paths = [saved(network(Design(end="Softmax")), tmp_path, f"{i}.onnx") for i in range(3)]
    words = ("--labels", "a,b,c", "--preprocess", "unit", "--preprocess", "bytes", "--out", tmp_path / "out")
    assert command(*paths, *words) == 2
    assert "--preprocess is given 2 times for 3 networks: give it once, or once for each" in capsys.readouterr().err


def test_a_saturated_network_is_noted(tmp_path):
    model = network(Design(end="Softmax", scale=1e5))
    report = imported(
        [NetworkToImport(path=saved(model, tmp_path), trained=PRESETS["bytes"])],
        tmp_path / "out",
        labels=("a", "b", "c"),
    )
    assert any("same outputs for all" in note and "--preprocess is wrong" in note for note in report.notes)
    assert onnx.load(tmp_path / "out" / "net.onnx").producer_name == "cxr-edge import"
    assert np.isfinite(report.entries[0].parity.probability)
