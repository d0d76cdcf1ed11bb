"""Candidates for one network: every precision worth trying, written as ONNX, compiled and loaded.

A part of a bundle and its activation ranges come in; a `Candidate` a precision comes out, or the reason why there is
none. What the candidates are worth is for `gate` and `autotune` to say.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import onnx

from cxr_edge.backends import cpu_info
from cxr_edge.backends.base import Backend, CompileOptions, Engine
from cxr_edge.compiler.calibrate import Ranges
from cxr_edge.compiler.graph.half import HalfName, half_layers, to_half
from cxr_edge.compiler.graph.half_emulation import emulated
from cxr_edge.compiler.graph.int8 import SCHEMES, Scheme, first_layer, int8_layers, quantize
from cxr_edge.compiler.graph.simplify import Simplified
from cxr_edge.engines import Part, check_signature
from cxr_edge.errors import BackendError

__all__ = [
    "NAMES",
    "PRECISION_CHOICES",
    "RECIPES",
    "Candidate",
    "PrecisionChoice",
    "Recipe",
    "layers",
    "make",
    "on_reference",
    "recipes",
]

PrecisionChoice = Literal["auto", "fp32", "fp16", "bf16", "int8"]
PRECISION_CHOICES: tuple[str, ...] = get_args(PrecisionChoice)

_MIXED = "-mixed"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make one candidate.

    name: the precision as the table and the engine's file name have it. scheme: of the activations in 8 bits, half: the
    type of everything in 16 bits; at most one of them. fp32_stem: leave the first layer in fp32. It sees one gray
    channel, on which int8 kernels are slow, and the image's full resolution, where rounding hurts most: so it may be the
    faster or the only acceptable one. keep_float: names of outputs whose nodes compute in fp32.
    """

    name: str
    scheme: Scheme | None = None
    half: HalfName | None = None
    fp32_stem: bool = False
    keep_float: frozenset[str] = frozenset()

    @property
    def kind(self) -> str:
        """What the user calls it: int8 stands for all schemes of 8 bits."""
        return "int8" if self.scheme else self.half or "fp32"

    @property
    def needs(self) -> str:
        """What a backend must name among its precisions to compile it."""
        return self.scheme.name if self.scheme else self.half or "fp32"

    @property
    def steps_back(self) -> bool:
        """Whether a mixed recipe follows when the gate refuses it."""
        return self.kind != "fp32" and not self.fp32_stem and not self.keep_float

    def mixed(self, keep_float: frozenset[str]) -> Recipe:
        """The same with `keep_float` in fp32."""
        return replace(self, name=self.name.removesuffix(_MIXED) + _MIXED, keep_float=keep_float)


RECIPES = (
    Recipe(name="fp32"),
    Recipe(name="fp16", half="fp16"),
    Recipe(name="bf16", half="bf16"),
    Recipe(name="uint8", scheme=SCHEMES["uint8"]),
    Recipe(name="uint8-fp32-stem", scheme=SCHEMES["uint8"], fp32_stem=True),
    Recipe(name="int8", scheme=SCHEMES["int8"]),
)
# Every name that a build may give an engine.
NAMES = (*(r.name for r in RECIPES), *(r.mixed(frozenset()).name for r in RECIPES if r.steps_back))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A compiled, loaded engine on trial; file is in the build's scratch folder until it is chosen."""

    recipe: Recipe
    file: Path
    engine: Engine


def recipes(choice: PrecisionChoice, backend: Backend) -> tuple[Recipe, ...]:
    """What to try for the user's choice of precision on `backend`. Raises BackendError if it has none of that."""
    found = tuple(r for r in RECIPES if choice in ("auto", r.kind) and r.needs in backend.precisions)
    if not found:
        has = sorted({r.kind for r in RECIPES if r.needs in backend.precisions})
        raise BackendError(
            f"{backend.name} has no {choice} here, only {', '.join(has)}: give --precision one of these or auto, or "
            f"another --backend"
        )
    return found


def make(
    recipe: Recipe,
    part: Part,
    simplified: Simplified,
    ranges: Ranges | None,
    backend: Backend,
    options: CompileOptions,
    scratch: Path,
) -> Candidate:
    """Write the ONNX of `recipe`, compile and load it. ranges: needed for schemes of 8 bits.

    Raises CxrEdgeError with the reason if that is not possible.
    """
    # A mixed recipe is tried several times; what passed must outlive the next try.
    stem = f"{part.name}.{recipe.name}" + (f".{len(recipe.keep_float)}" if recipe.keep_float else "")
    source, engine = scratch / f"{stem}.source.onnx", scratch / f"{stem}{backend.suffix}"
    onnx.save(_rewritten(recipe, simplified.model, ranges), source)
    backend.compile(source, engine, options)
    source.unlink()
    loaded = backend.load(engine, options)
    check_signature(loaded, part)
    return Candidate(recipe=recipe, file=engine, engine=loaded)


def layers(recipe: Recipe, model: onnx.ModelProto) -> tuple[str, ...]:
    """The output names of the layers that `recipe` would reduce in `model`."""
    return half_layers(model) if recipe.half else int8_layers(model)


def on_reference(recipe: Recipe, model: onnx.ModelProto, ranges: Ranges | None) -> onnx.ModelProto:
    """`model` after `recipe`, such that ONNX Runtime on the CPU runs it and rounds as the recipe asks for."""
    rewritten = _rewritten(recipe, model, ranges)
    return emulated(rewritten) if recipe.half else rewritten


def _rewritten(recipe: Recipe, model: onnx.ModelProto, ranges: Ranges | None) -> onnx.ModelProto:
    if recipe.half is not None:
        return to_half(model, recipe.half, keep_float=recipe.keep_float)
    if recipe.scheme is None:
        return model
    if ranges is None:
        raise ValueError(f"{recipe.name} cannot be made without activation ranges")
    keep = frozenset([first_layer(model)]) if recipe.fp32_stem else recipe.keep_float
    return quantize(model, ranges.tensors, _for_this_processor(recipe.scheme), keep_float=keep)


def _for_this_processor(scheme: Scheme) -> Scheme:
    """`scheme` with 7-bit weights where 8-bit ones could overflow the processor's 16-bit sums."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    exact = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(cpu_info.instruction_sets())
    return scheme.reduced() if x86 and not exact else scheme
