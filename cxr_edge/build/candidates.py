"""Candidates for one network: every precision worth trying, written as ONNX, compiled and loaded.

A part of a bundle and its activation ranges come in; a `Candidate` a precision comes out, or the reason why there is
none. What the candidates are worth is for `gate` and `autotune` to say.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import onnx

from cxr_edge.backends import host
from cxr_edge.backends.base import Backend, CompileOptions, Engine
from cxr_edge.build.calibrate import Ranges
from cxr_edge.build.precision import SCHEMES, Scheme, first_layer, quantize
from cxr_edge.build.simplify import Simplified
from cxr_edge.engines import Part, check_signature

__all__ = ["PRECISION_CHOICES", "RECIPES", "Candidate", "PrecisionChoice", "Recipe", "make", "recipes"]

PrecisionChoice = Literal["auto", "fp32", "int8"]
PRECISION_CHOICES: tuple[str, ...] = get_args(PrecisionChoice)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make one candidate.

    name: the precision as the table and the engine's file name have it. scheme: of the activations, None for fp32.
    fp32_stem: leave the first layer in fp32. It sees one gray channel, on which int8 kernels are slow, and the image's
    full resolution, where rounding hurts most: so it may be the faster or the only acceptable one.
    """

    name: str
    scheme: Scheme | None = None
    fp32_stem: bool = False


RECIPES = (
    Recipe(name="fp32"),
    Recipe(name="uint8", scheme=SCHEMES["uint8"]),
    Recipe(name="uint8-fp32-stem", scheme=SCHEMES["uint8"], fp32_stem=True),
    Recipe(name="int8", scheme=SCHEMES["int8"]),
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A compiled, loaded engine on trial; file is in the build's scratch folder until it is chosen."""

    recipe: Recipe
    file: Path
    engine: Engine


def recipes(choice: PrecisionChoice, backend: Backend) -> Iterator[Recipe]:
    """What to try for the user's choice of precision on `backend`; int8 stands for all schemes of 8 bits."""
    for recipe in RECIPES:
        kind = "fp32" if recipe.scheme is None else "int8"
        if choice in ("auto", kind) and (recipe.scheme.name if recipe.scheme else "fp32") in backend.precisions:
            yield recipe


def make(
    recipe: Recipe,
    part: Part,
    simplified: Simplified,
    ranges: Ranges | None,
    backend: Backend,
    options: CompileOptions,
    scratch: Path,
) -> Candidate:
    """Write the ONNX of `recipe`, compile and load it. ranges: not needed for fp32.

    Raises CxrEdgeError with the reason if that is not possible.
    """
    source = scratch / f"{part.name}.{recipe.name}.source.onnx"
    engine = scratch / f"{part.name}.{recipe.name}{backend.suffix}"
    onnx.save(_rewritten(recipe, simplified.model, ranges), source)
    backend.compile(source, engine, options)
    source.unlink()
    loaded = backend.load(engine, options)
    check_signature(loaded, part)
    return Candidate(recipe=recipe, file=engine, engine=loaded)


def _rewritten(recipe: Recipe, model: onnx.ModelProto, ranges: Ranges | None) -> onnx.ModelProto:
    if recipe.scheme is None:
        return model
    if ranges is None:
        raise ValueError(f"{recipe.name} cannot be made without activation ranges")
    keep = frozenset([first_layer(model)]) if recipe.fp32_stem else frozenset[str]()
    return quantize(model, ranges.tensors, _for_this_processor(recipe.scheme), keep_float=keep)


def _for_this_processor(scheme: Scheme) -> Scheme:
    """`scheme` with 7-bit weights where 8-bit ones could overflow the processor's 16-bit sums."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    exact = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(host.instruction_sets())
    return scheme.reduced() if x86 and not exact else scheme
