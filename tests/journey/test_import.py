"""A network trained elsewhere, from PyTorch to a screening: export, `import`, `build-engine` (int8 too), `screen`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr_edge.cli import main
from cxr_edge.decoding.decode import decode
from training.phantoms import write_samples

SIDE, FINDINGS, FINDING = 32, 18, 4


class Layer(nn.Module):
    """A layer of DenseNet, whose output joins its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.norm(x).relu())], 1)


class SmallDenseNet(nn.Module):
    """torchxrayvision's DenseNet in small: one channel in [-1024, 1024], independent findings, sigmoids at the end."""

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.Conv2d(1, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*stem, Layer(8), Layer(16), nn.BatchNorm2d(24))
        self.classifier = nn.Linear(24, FINDINGS)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).relu()
        pooled = nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)
        logits: Tensor = self.classifier(pooled)
        return logits.sigmoid()


@pytest.fixture(scope="module")
def xrays(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("xrays")
    write_samples(folder, count=6, size_px=256)
    return folder


def exported(folder: Path) -> tuple[Path, nn.Module]:
    """Export a network with plausible batch norms; return the file and the network."""
    torch.manual_seed(3)
    network = SmallDenseNet()
    with torch.no_grad():
        for _ in range(20):
            network(1024 * (2 * torch.rand(8, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3) - 1))
        network.classifier.weight.mul_(8)
    path, axes = folder / "densenet.onnx", {"x": {0: "N"}, "y": {0: "N"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 1, SIDE, SIDE),),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=axes,
            dynamo=False,
        )
    return path, network


def test_from_pytorch_to_a_screening(tmp_path, xrays, capsys):
    (path, _), bundle = exported(tmp_path), tmp_path / "bundle"
    words = ["--labels", "absent,present", "--preprocess", "torchxrayvision", "--column", str(FINDING)]
    assert main(["import", str(path), *words, "--images", str(xrays), "--out", str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["members"][0]
    assert report["has_cam"]
    assert report["parity"]["probability"] < 1e-3
    assert "The Sigmoid at the end was removed." in report["changes"]

    assert main(["build-engine", str(bundle), "--threads", "1", "--json"]) == 0
    rows = {row["precision"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {"fp32", "int8", "uint8"} <= set(rows)
    assert rows["uint8"]["parity"] is not None  # the gate compared it

    pictures = tmp_path / "heat"
    assert main(["screen", str(xrays), "--bundle", str(bundle), "--json", "--heatmap", str(pictures)]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert len(results) == len(list(pictures.iterdir())) == 6
    assert np.ptp([r["probabilities"]["present"] for r in results]) > 0.01


def test_the_answer_is_that_of_pytorch(tmp_path, xrays, capsys):
    """Pixels of the network's own size need no resize, so that both get the numbers of torchxrayvision."""
    path, network = exported(tmp_path)
    bundle, image = tmp_path / "bundle", tmp_path / "one.png"
    words = ["--labels", "absent,present", "--preprocess", "torchxrayvision", "--column", str(FINDING)]
    assert main(["import", str(path), *words, "--image-count", "2", "--out", str(bundle)]) == 0
    pixels = decode(sorted(xrays.glob("*.jpg"))[0]).pixels[100 : 100 + SIDE, 100 : 100 + SIDE]
    cv2.imwrite(str(image), pixels)
    assert main(["build-engine", str(bundle), "--precision", "fp32"]) == 0
    capsys.readouterr()
    assert main(["screen", str(image), "--bundle", str(bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"][0]["probabilities"]["present"]
    values = (2 * (pixels.astype(np.float32) / 255) - 1) * 1024  # torchxrayvision.datasets.normalize
    with torch.no_grad():
        expected = network(torch.from_numpy(values)[None, None])[0, FINDING].item()
    assert found == pytest.approx(expected, abs=1e-4)


def test_all_findings_at_once(tmp_path, xrays, capsys):
    """A multi-label bundle of 17 of the 18 findings: the gate compares int8, and the answers are PyTorch's sigmoids."""
    path, network = exported(tmp_path)
    bundle, image = tmp_path / "bundle", tmp_path / "one.png"
    names = ["" if i == FINDING else f"finding {i}" for i in range(FINDINGS)]
    words = [
        "--multi-label",
        "--labels",
        ",".join(names),
        "--threshold",
        "finding 0=0.25",
        "--preprocess",
        "torchxrayvision",
    ]
    assert main(["import", str(path), *words, "--images", str(xrays), "--out", str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["members"][0]
    assert report["has_cam"]
    assert FINDING not in report["findings"]
    assert main(["build-engine", str(bundle), "--threads", "1", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    rows = {row["precision"]: row for row in built["rows"]}
    assert {"fp32", "int8", "uint8"} <= set(rows)
    assert rows["uint8"]["parity"] is not None  # the gate compared it
    assert all("finding " in rows[p]["reason"] for p in ("uint8", "int8") if rows[p]["status"] == "rejected")

    pixels = decode(sorted(xrays.glob("*.jpg"))[0]).pixels[100 : 100 + SIDE, 100 : 100 + SIDE]
    cv2.imwrite(str(image), pixels)
    assert main(["build-engine", str(bundle), "--precision", "fp32"]) == 0
    capsys.readouterr()
    assert main(["screen", str(image), "--bundle", str(bundle), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"][0]
    values = (2 * (pixels.astype(np.float32) / 255) - 1) * 1024
    with torch.no_grad():
        shares = dict(zip(names, network(torch.from_numpy(values)[None, None])[0].tolist(), strict=True))
    del shares[""]
    assert result["probabilities"] == pytest.approx(shares, abs=1e-4)
    assert result["findings"] == [f for f, p in shares.items() if p >= (0.25 if f == "finding 0" else 0.5)]
