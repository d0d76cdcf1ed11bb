"""A screener and its surroundings: threads, asyncio, fork, spawn and forkserver, pickling."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from cxr_edge import Bundle, BundleError, EngineError, Image, Screener, load_engines
from cxr_edge.compiler.build_bundle import build
from cxr_edge.engines import BuildSettings, reference


def image(seed: int) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 65536, (60 + seed, 90), dtype=np.uint16)
    pixels[20:50, 10:40] //= 4
    return Image.from_array(pixels, source=f"image {seed}")


@pytest.fixture(scope="module")
def screener(toy_bundle):
    bundle = Bundle.open(toy_bundle)
    return Screener(bundle, reference(bundle, threads=2), threads=2)


def answer(given: Screener, seed: int) -> str:
    """Return everything that is answered, without the times; called in other processes too."""
    fields = given.screen(image(seed)).as_json()
    del fields["times_ms"]
    return json.dumps(fields)


def test_eight_threads_answer_as_one(screener) -> None:
    expected = [answer(screener, seed) for seed in range(50)]
    with ThreadPoolExecutor(8) as pool:
        per_thread = [pool.submit(lambda: [answer(screener, seed) for seed in range(50)]) for _ in range(8)]
        assert all(future.result() == expected for future in per_thread)


def test_asyncio_answers_as_the_caller(screener) -> None:
    async def gathered() -> list[str]:
        return await asyncio.gather(*(asyncio.to_thread(answer, screener, seed) for seed in range(8)))

    assert asyncio.run(gathered()) == [answer(screener, seed) for seed in range(8)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_screener_is_passed_to_other_processes(screener, method) -> None:
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(answer, (screener, 3)) == answer(screener, 3)


FORK = """
import os, pickle, sys
from tests.screening.test_processes import answer
from cxr_edge import BackendError, Bundle, Screener
from cxr_edge.engines import reference

bundle = Bundle.open(sys.argv[1])
engines = reference(bundle, threads=2)
screener = Screener(bundle, engines, threads=2)
expected, pickled = answer(screener, 1), pickle.dumps(screener)
child = os.fork()
if child == 0:
    {in_child}
    sys.exit(0)
print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screener.screen and answer(screener, 1) == expected)
"""

IN_CHILD = {
    "ends": ("pass", ""),
    "drops it": ("del engines, screener", ""),
    "screens": (
        "try: answer(screener, 1)\n    except BackendError as error: print(error, flush=True)",
        "fork does not copy its threads: make one in this process, or start processes by spawn or forkserver",
    ),
    "screens a file": (
        "print(screener.screen_file(bundle.file(bundle.manifest.known_answers[0].file)).outcome.reason, flush=True)",
        "fork does not copy its threads",
    ),
    "makes one": (
        "print(answer(Screener(bundle, reference(bundle, threads=2), threads=2), 1) == expected, flush=True)",
        "True",
    ),
    "unpickles": ("print(answer(pickle.loads(pickled), 1) == expected, flush=True)", "True"),
}


@pytest.mark.parametrize("case", IN_CHILD)
def test_a_forked_child_works_or_has_an_error_and_never_hangs(toy_bundle, case) -> None:
    in_child, expected = IN_CHILD[case]
    code = FORK.replace("{in_child}", in_child)
    run = subprocess.run([sys.executable, "-c", code, str(toy_bundle)], capture_output=True, text=True, timeout=120)
    assert run.stdout.endswith("status 0 True\n"), run.stderr
    assert expected in run.stdout


PREPROCESSOR = """
import os, sys
import numpy as np
from cxr_edge import BackendError
from cxr_edge.records import Roi
from cxr_edge.specs.preprocess import PreprocessSpec
from cxr_edge.ops.preprocess import Preprocessor

given = [np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)], [Roi.full(64, 64)]
preprocessor = Preprocessor([PreprocessSpec(region="frame", canvas_px=32, crop_px=32)], threads=2)
preprocessor.run(*given)
child = os.fork()
if child == 0:
    try:
        preprocessor.run(*given)
    except BackendError as error:
        print(error, flush=True)
    del preprocessor
    sys.exit(0)
print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_drops_an_inherited_preprocessor() -> None:
    run = subprocess.run([sys.executable, "-c", PREPROCESSOR], capture_output=True, text=True, timeout=120)
    assert run.stdout.endswith("make one in the forked child\nstatus 0\n"), run.stderr


def test_a_forked_child_reads_images(tmp_path) -> None:
    code = (
        "import os, sys, numpy as np; from cxr_edge import Image;"
        "pixels = np.arange(3000 * 3000 * 3, dtype='u4').reshape(3000, 3000, 3).astype('u1') // 64;"
        "Image.from_array(pixels); child = os.fork();"
        "child or (Image.from_array(pixels), os._exit(0)); print(os.waitpid(child, 0)[1])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout == "0\n", run.stderr


def test_pickling_keeps_threads_and_kind(screener) -> None:
    class Own(Screener):
        pass

    Own.__qualname__ = "Own"
    sys.modules[__name__].Own = Own
    own = pickle.loads(pickle.dumps(Own(screener.bundle, reference(screener.bundle, threads=2), threads=2)))
    assert type(own) is Own
    assert answer(own, 2) == answer(screener, 2)
    assert own.describe() == screener.describe()
    assert len(pickle.dumps(screener)) < 2000


def test_engines_of_another_folder_are_loaded_again(toy_bundle_copy, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = Bundle.open(toy_bundle_copy)
    build(bundle, BuildSettings(precision="fp32"), tmp_path / "engines")
    pickled = pickle.dumps(Screener(bundle, load_engines(bundle, "engines")))
    monkeypatch.chdir("/")
    assert "fp32" in pickle.loads(pickled).describe()


def test_changed_engines_are_refused(screener) -> None:
    engines = reference(screener.bundle)
    pickled = pickle.dumps(Screener(screener.bundle, replace(engines, precisions=("int8",) * len(engines.precisions))))
    with pytest.raises(EngineError, match=r"the engines have changed since .* int8.* found onnxruntime: .* fp32"):
        pickle.loads(pickled)


def test_a_changed_bundle_is_refused(toy_bundle_copy) -> None:
    bundle = Bundle.open(toy_bundle_copy)
    pickled = pickle.dumps(Screener(bundle, reference(bundle)))
    manifest = toy_bundle_copy / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text + "\n")
    with pytest.raises(BundleError, match="has changed since the Screener was pickled: expected digest"):
        pickle.loads(pickled)
    manifest.unlink()
    with pytest.raises(BundleError, match="has no manifest"):
        pickle.loads(pickled)


def test_engines_that_were_not_loaded_cannot_be_pickled(screener) -> None:
    by_hand = replace(reference(screener.bundle), reload=None)
    with pytest.raises(EngineError, match="its engines were not loaded by load_engines"):
        pickle.dumps(Screener(screener.bundle, by_hand))


def test_results_can_be_pickled(screener) -> None:
    screening = screener.screen(image(1), heatmap=True)
    again = pickle.loads(pickle.dumps(screening))
    assert again == screening
    np.testing.assert_array_equal(again.heatmap, screening.heatmap)
    with pytest.raises(BundleError, match="x"):
        raise pickle.loads(pickle.dumps(BundleError("x")))
