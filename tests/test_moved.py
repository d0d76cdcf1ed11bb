"""Import paths and public names of version 0.1: until version 0.3 they work and give a DeprecationWarning."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cxr_edge import moved
from training.moved import MODULES

# Old module -> module of today, with full names.
MOVED = {
    f"{package}.{old}": f"{package}.{new}"
    for package, table in (("cxr_edge", moved.CXR_EDGE), ("training", MODULES))
    for old, new in table.items()
}

# Module of 0.1 -> its `__all__`, from the sources of 0.1: never regenerate it. Not in it: `cxr_edge` itself, which did not
# change, and the parts of `cxr_edge.decoding`, which were internal (`decode` is the interface).
NAMES: dict[str, list[str]] = json.loads((Path(__file__).parent / "data" / "public-names-0.1.json").read_text("utf-8"))
WITH_TRAINING = find_spec("torch") is not None  # training needs it, and the lowest versions are tested without
PUBLIC = {module: names for module, names in NAMES.items() if WITH_TRAINING or module.startswith("cxr_edge")}

# Names of 0.1 without a successor of the same signature.
REMOVED: dict[str, set[str]] = {
    "cxr_edge.build.candidates": {"PRECISION_CHOICES"},
    "cxr_edge.build.store": {"remove_stale"},
    "training.flannel.stages": {"chosen_step", "network_folder"},  # methods of training.recipes.flannel.run.FoldRun
    "training.starter": {"UNSEEN_FILE", "train_member"},  # `training.sites`; `StarterRun.train_member`
    "training.tables": {"unseen_as_markdown"},  # `training.sites` and its page
    "training.unseen": {"said_of_unseen"},
    "training.card": {"SOURCES"},  # `source_descriptions()` of training.data.collections
}

# Imports every module and reads its names; prints the missing names and the warnings of each module as JSON.
PROGRAM = """
import importlib, json, sys, warnings
result = {}
for module, names in json.load(sys.stdin).items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = importlib.import_module(module)
        missing = [name for name in names if not hasattr(loaded, name)]
    result[module] = missing, [str(w.message) for w in caught if w.category is DeprecationWarning]
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, tuple[set[str], list[str]]]:
    """Import every module of 0.1 in one child process; return its missing names and its warnings."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(PUBLIC), capture_output=True, text=True, check=True
    )
    return {module: (set(missing), warnings) for module, (missing, warnings) in json.loads(run.stdout).items()}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_of_0_1_has_its_public_names(imported, module):
    missing, _ = imported[module]
    assert missing == REMOVED.get(module, set())


@pytest.mark.parametrize("old", MOVED)
def test_a_moved_module_warns_with_its_new_name(imported, old):
    _, warnings = imported.get(old, (set(), None))
    if warnings is None:
        pytest.skip("not part of the public interface of 0.1")
    assert f"{old} is {MOVED[old]} now; the old name goes with version 0.3" in warnings


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("cxr_edge.bundle", "check_networks", "cxr_edge.bundle.onnx_check.check_networks"),
        ("cxr_edge.bench", "environment", "cxr_edge.environment.environment"),
        ("cxr_edge.backends", "keep_proof", "cxr_edge.backends.self_test.save_self_test_engine"),
        ("cxr_edge.report", "writing", "cxr_edge.report.output_errors"),
        ("training.parallel", "wait", "training.parallel.barrier"),
    ],
)
def test_a_renamed_attribute_warns_with_its_new_name(imported, module, old, new):
    if module not in PUBLIC:
        pytest.skip("training needs torch")
    _, warnings = imported[module]
    assert f"{module}.{old} is {new} now; the old name goes with version 0.3" in warnings


def test_a_moved_module_has_the_same_objects():
    program = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from cxr_edge.device.arena import Arena as old\n"
        "from cxr_edge.gpu.arena import Arena as new\n"
        "assert old is new\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(not WITH_TRAINING, reason="training needs torch")
def test_a_plan_of_0_1_has_bfloat16():
    program = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from training.engine import Plan, fit\n"
        "from training.loop.plan import Plan as today\n"
        "assert Plan(epochs=2, bfloat16=False) == today(epochs=2, precision='fp32')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_attribute_is_an_attribute_error():
    import cxr_edge.bundle

    with pytest.raises(AttributeError, match=r"module 'cxr_edge\.bundle' has no attribute 'nonsense'"):
        cxr_edge.bundle.nonsense  # noqa: B018


def test_importing_the_package_does_not_warn():
    program = "import cxr_edge.cli, cxr_edge.bundle, cxr_edge.bench, cxr_edge.engines"
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning:cxr_edge", "-c", program], check=True)


def test_a_build_request_of_0_1_builds(toy_bundle, tmp_path):
    program = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from pathlib import Path\n"
        "from cxr_edge.build.engine import BuildRequest, build\n"
        "from cxr_edge.bundle import Bundle\n"
        "request = BuildRequest(bundle=Bundle.open(sys.argv[1]), engines_dir=Path(sys.argv[2]), precision='fp32')\n"
        "assert build(request).complete\n"
    )
    subprocess.run([sys.executable, "-c", program, str(toy_bundle), str(tmp_path / "engines")], check=True)
    assert (tmp_path / "engines" / "onnxruntime" / "build.json").is_file()
