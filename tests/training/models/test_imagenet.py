"""ImageNet weights: from a file, folded to gray, and errors without them. The weights in these tests are random."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cxr_edge.errors import InputError
from tests.tolerances import assert_close
from training.models import NetworkSpec, build, imagenet
from training.models.imagenet import WEIGHT_PACKAGES, load_imagenet, weights_file

torch.set_num_threads(1)

SMALL = "mobilenetv3_small_050"


def spec_of(name: str = f"timm:{SMALL}", channels: int = 1) -> NetworkSpec:
    return NetworkSpec(architecture=name, labels=2, channels=channels, head_maps=8)


def published(name: str = SMALL) -> tuple[nn.Module, dict[str, Tensor]]:
    """A full network of timm with random statistics, in place of the published one."""
    torch.manual_seed(7)
    network = timm.create_model(name, pretrained=False).eval()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
    return network, network.state_dict()


def written(weights: Mapping[str, Tensor], file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in weights.items()}, file)
    else:
        torch.save({"state_dict": weights}, file)
    return file


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_color_features_equal_the_published_network(tmp_path: Path, name: str) -> None:
    whole, weights = published()
    network = build(spec_of(channels=3)).eval()
    head = network.head.conv.weight.clone()
    load_imagenet(network, spec_of(channels=3), written(weights, tmp_path / name))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.trunk(image), whole.forward_features(image))
    assert torch.equal(network.head.conv.weight, head)


def test_gray_equals_three_copies(tmp_path: Path) -> None:
    whole, weights = published()
    network = build(spec_of()).eval()
    load_imagenet(network, spec_of(), written(weights, tmp_path / "weights.safetensors"))
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = whole.forward_features(image.expand(-1, 3, -1, -1))
        assert_close(network.trunk(image), expected)
    assert float(expected.abs().max()) > 0


def test_a_file_of_another_network_raises_and_changes_nothing(tmp_path: Path) -> None:
    network = build(spec_of())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    file = written(published("resnet10t")[1], tmp_path / "resnet.safetensors")
    with pytest.raises(
        InputError, match=r"resnet.safetensors does not hold.*missing: conv_stem.weight.*unexpected: conv1"
    ):
        load_imagenet(network, spec_of(), file)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_error_names_missing_unexpected_and_wrong_shapes(tmp_path: Path) -> None:
    _, weights = published()
    weights = {**weights, "extra.weight": torch.ones(1), "bn1.bias": torch.ones(3)}
    del weights["bn1.weight"]
    with pytest.raises(InputError) as error:
        load_imagenet(build(spec_of()), spec_of(), written(weights, tmp_path / "weights.pth"))
    for part in ("missing: bn1.weight", "unexpected: extra.weight", "of another shape: bn1.bias [3]"):
        assert part in str(error.value)


def test_older_names_and_files_without_batch_counts(tmp_path: Path) -> None:
    _, weights = published("densenet121")
    old = {k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v for k, v in weights.items()}
    old = {k: v for k, v in old.items() if not k.endswith("num_batches_tracked")}
    spec = spec_of("timm:densenet121", 3)
    network = build(spec)
    load_imagenet(network, spec, written(old, tmp_path / "densenet.pth"))
    name = "features.denseblock4.denselayer16.norm1.running_mean"
    assert torch.equal(network.trunk.network.state_dict()[name], weights[name])


def test_a_second_classifier_is_ignored(tmp_path: Path) -> None:
    _, weights = published()
    weights = {**weights, "AuxLogits.fc.weight": torch.ones(2, 2)}  # as in torchvision's file of Inception-V3
    load_imagenet(build(spec_of()), spec_of(), written(weights, tmp_path / "weights.pth"))


def test_invalid_files_raise(tmp_path: Path) -> None:
    network, spec = build(spec_of()), spec_of()
    with pytest.raises(InputError, match="there is no file"):
        load_imagenet(network, spec, tmp_path / "nothing.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(InputError, match="is no state dict"):
            load_imagenet(network, spec, tmp_path / name)
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "epoch.pth")
    with pytest.raises(InputError, match="more than tensors"):
        load_imagenet(network, spec, tmp_path / "epoch.pth")


def _torchscript(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(file))


# What people give -> what they are told.
OTHER_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "script.pt": (_torchscript, "unexpected: weight, bias"),
    "network.pth": (
        lambda file: torch.save(nn.Sequential(nn.Linear(2, 2)), file),
        "not unpickled: save the weights, with",
    ),
    "weights.h5": (lambda file: file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "a Keras file"),
    "network.onnx": (lambda file: file.write_bytes(b"\x08\x08\x12\x07pytorch"), "of another network: .*nothing more"),
    "renamed.pth": (lambda file: file.write_bytes(b"\x08\x08\x12\x07pytorch"), "an ONNX file"),
    "empty.pth": (lambda file: file.write_bytes(b""), "is empty: copy it again"),
    "cut.pth": (lambda file: file.write_bytes(b"PK\x03\x04" + bytes(99)), "cut off, or damaged"),
    "lfs.pth": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
    "page.pth": (lambda file: file.write_text("<!DOCTYPE html><html>"), "a web page"),
    "folder.pth": (lambda file: file.mkdir(), "is a folder: give a state dict"),
}


@pytest.mark.parametrize("name", list(OTHER_FILES))
def test_files_of_other_kinds_are_named(name: str, tmp_path: Path) -> None:
    write, expected = OTHER_FILES[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=expected) as caught:
        load_imagenet(build(spec_of()), spec_of(), tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["custom", "narrow-vgg", "nasnet-mobile", "plain", "inverted", "inception"])
def test_own_designs_have_no_imagenet_weights(name: str) -> None:
    with torch.device("meta"):
        network = build(spec_of(name))
    with pytest.raises(InputError, match=f"{name} has no ImageNet weights: train it from scratch"):
        load_imagenet(network, spec_of(name), None)


def test_the_error_without_connection_suggests_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"could not be downloaded from timm/mobilenetv3.*Give them as a file.*from scratch"
    ):
        load_imagenet(build(spec_of()), spec_of(), None)


def test_weights_of_the_hub_are_loaded_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    _, weights = published()
    monkeypatch.setattr("timm.models.load_state_dict_from_hf", lambda name: weights)
    network = build(spec_of())
    load_imagenet(network, spec_of(), None)
    assert torch.equal(network.trunk.network.bn1.running_mean, weights["bn1.running_mean"])


def test_tensors_under_other_names_are_matched_by_order_and_shape(tmp_path: Path) -> None:
    _, weights = published()
    foreign = {f"_{i}_{k.replace('.', '/')}": v for i, (k, v) in enumerate(weights.items())}
    foreign = {k: v for k, v in foreign.items() if not k.endswith("num_batches_tracked")}
    network = build(spec_of(channels=3))
    load_imagenet(network, spec_of(channels=3), written(foreign, tmp_path / "foreign.pth"))
    found = network.trunk.network.state_dict()
    assert all(torch.equal(found[k], weights[k]) for k in found if not k.endswith("num_batches_tracked"))


def test_other_names_of_another_network_raise(tmp_path: Path) -> None:
    foreign = {f"_{i}": v for i, v in enumerate(published("resnet10t")[1].values())}
    with pytest.raises(InputError, match=r"foreign\.pth does not hold the weights.*missing: conv_stem\.weight"):
        load_imagenet(build(spec_of()), spec_of(), written(foreign, tmp_path / "foreign.pth"))


def test_weights_are_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("timm:tf_efficientnet_lite0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imagenet, "WEIGHT_PACKAGES", {spec.architecture: "drawn-weights"})
    with pytest.raises(InputError, match="not installed: pip install drawn-weights"):
        weights_file("package", spec)
    file = tmp_path / "drawn_weights" / "models" / "drawn.pth"
    file.parent.mkdir(parents=True)
    (tmp_path / "drawn_weights" / "__init__.py").touch()
    file.touch()
    importlib.invalidate_caches()
    assert weights_file("package", spec) == file


def test_a_network_without_a_package_of_weights_raises() -> None:
    with pytest.raises(InputError, match=f"no package holds ImageNet weights of timm:{SMALL}, but of.*lite0"):
        weights_file("package", spec_of())
    assert weights_file("hub", spec_of()) is None
    assert weights_file("a/b.pth", spec_of()) == Path("a/b.pth")
    assert all(timm.is_model(name.removeprefix("timm:")) for name in WEIGHT_PACKAGES)
