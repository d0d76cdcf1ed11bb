"""Candidates for one network: each precision worth trying, written as ONNX, compiled and loaded.

A network and its activation ranges come in; one `Candidate` per precision comes out, or the reason why it cannot be
built. `parity` and `timing` evaluate them.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from cxr_edge.backends import cpu_info
from cxr_edge.backends.base import Backend, CompileOptions, Engine
from cxr_edge.compiler.calibrate import Ranges
from cxr_edge.compiler.graph.half import HalfName, half_layers, to_half
from cxr_edge.compiler.graph.half_emulation import emulate_half
from cxr_edge.compiler.graph.int8 import SCHEMES, Scheme, first_layer, int8_layers, quantize
from cxr_edge.compiler.graph.simplify import Simplified
from cxr_edge.engines import NetworkFile, check_signature
from cxr_edge.engines.records import PrecisionChoice
from cxr_edge.errors import BackendError

__all__ = [
    "PRECISION_NAMES",
    "RECIPES",
    "Candidate",
    "Recipe",
    "choose_recipes",
    "make_candidate",
    "reducible_layers",
    "rewrite_for_cpu",
    "scheme_for_processor",
]

_MIXED = "-mixed"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Rewriting of a network for one candidate."""

    name: str  # the precision in the table and in the engine's file name
    scheme: Scheme | None = None  # of 8-bit activations; excludes `half`
    half: HalfName | None = None  # 16-bit type of everything
    # Leave the first layer in fp32. It takes one gray channel, on which int8 kernels are slow, at the image's full
    # resolution, where rounding has most effect: so this may be the faster or the only acceptable variant.
    fp32_stem: bool = False
    keep_float: frozenset[str] = frozenset()  # names of outputs whose nodes compute in fp32

    @property
    def kind(self) -> str:
        """The precision as the user chooses it: int8 covers all 8-bit schemes."""
        return "int8" if self.scheme else self.half or "fp32"

    @property
    def required_precision(self) -> str:
        """Backend precision required."""
        return self.scheme.name if self.scheme else self.half or "fp32"

    @property
    def tries_mixed(self) -> bool:
        """True if a mixed recipe follows when this one is rejected."""
        return self.kind != "fp32" and not self.fp32_stem and not self.keep_float

    def mixed(self, keep_float: frozenset[str]) -> Recipe:
        """Return the same recipe with `keep_float` in fp32."""
        return replace(self, name=self.name.removesuffix(_MIXED) + _MIXED, keep_float=keep_float)


RECIPES = (
    Recipe(name="fp32"),
    Recipe(name="fp16", half="fp16"),
    Recipe(name="bf16", half="bf16"),
    Recipe(name="uint8", scheme=SCHEMES["uint8"]),
    Recipe(name="uint8-fp32-stem", scheme=SCHEMES["uint8"], fp32_stem=True),
    Recipe(name="int8", scheme=SCHEMES["int8"]),
)
# Every precision name that an engine file may have.
PRECISION_NAMES = (*(r.name for r in RECIPES), *(r.mixed(frozenset()).name for r in RECIPES if r.tries_mixed))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A compiled and loaded engine under comparison."""

    recipe: Recipe
    file: Path  # in the build's scratch folder until it is selected
    engine: Engine


def choose_recipes(choice: PrecisionChoice, backend: Backend) -> tuple[Recipe, ...]:
    """Return the recipes for the user's choice of precision on `backend`. Raises BackendError if there are none."""
    supported = [r for r in RECIPES if r.required_precision in backend.precisions]
    chosen = tuple(r for r in supported if choice in ("auto", r.kind))
    if not chosen:
        raise BackendError(
            f"{backend.name} has no {choice} here, only {', '.join(sorted({r.kind for r in supported}))}: give "
            f"--precision one of these or auto, or another --backend"
        )
    return chosen


def make_candidate(
    recipe: Recipe,
    network: NetworkFile,
    simplified: Simplified,
    ranges: Ranges | None,
    backend: Backend,
    options: CompileOptions,
    scratch: Path,
) -> Candidate:
    """Write the ONNX file of `recipe`, compile and load it. ranges: required for 8-bit schemes.

    Raises CxrEdgeError with the reason if that is not possible.
    """
    # A mixed recipe is tried several times; the file of one that passed must outlive the next attempt.
    stem = f"{network.name}.{recipe.name}" + (f".{len(recipe.keep_float)}" if recipe.keep_float else "")
    source, engine = scratch / f"{stem}.source.onnx", scratch / f"{stem}{backend.suffix}"
    onnx.save(_rewrite(recipe, simplified.model, ranges), source)
    backend.compile(source, engine, options)
    source.unlink()
    loaded = backend.load(engine, options)
    check_signature(loaded, network)
    return Candidate(recipe=recipe, file=engine, engine=loaded)


def reducible_layers(recipe: Recipe, model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the output names of the layers that `recipe` would reduce in `model`."""
    return half_layers(model) if recipe.half else int8_layers(model)


def rewrite_for_cpu(recipe: Recipe, model: onnx.ModelProto, ranges: Ranges | None) -> onnx.ModelProto:
    """Rewrite `model` by `recipe` so that ONNX Runtime runs it on the CPU with the recipe's rounding."""
    rewritten = _rewrite(recipe, model, ranges)
    return emulate_half(rewritten) if recipe.half else rewritten


def scheme_for_processor(scheme: Scheme) -> Scheme:
    """Return `scheme`, with 7-bit weights if 8-bit ones could overflow this processor's 16-bit sums."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    exact = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(cpu_info.instruction_sets())
    return scheme.with_7_bit_weights() if x86 and not exact else scheme


def _rewrite(recipe: Recipe, model: onnx.ModelProto, ranges: Ranges | None) -> onnx.ModelProto:
    if recipe.half is not None:
        return to_half(model, recipe.half, keep_float=recipe.keep_float)
    if recipe.scheme is None:
        return model
    if ranges is None:
        raise ValueError(f"{recipe.name} cannot be built without activation ranges")
    keep = frozenset([first_layer(model)]) if recipe.fp32_stem else recipe.keep_float
    return quantize(model, ranges.tensors, scheme_for_processor(recipe.scheme), keep_float=keep)
