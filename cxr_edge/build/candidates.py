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

__all__ = ["PRECISION_CHOICES", "Candidate", "PrecisionChoice", "Recipe", "make", "recipes"]

PrecisionChoice = Literal["auto", "fp32", "int8"]
PRECISION_CHOICES: tuple[str, ...] = get_args(PrecisionChoice)

# What a user's word for a precision stands for, as far as a backend compiles it: int8 comes in two schemes.
_PRECISIONS = {"auto": ("fp32", "uint8", "int8"), "fp32": ("fp32",), "int8": ("uint8", "int8")}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make one candidate. keep_first_float: leave the first layer in fp32, if the gate refused it otherwise."""

    precision: str
    keep_first_float: bool = False

    @property
    def needs_ranges(self) -> bool:
        return self.precision != "fp32"

    def gentler(self) -> Recipe | None:
        """What to try if the gate refuses this one."""
        return (
            None
            if self.keep_first_float or not self.needs_ranges
            else Recipe(precision=self.precision, keep_first_float=True)
        )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A compiled, loaded engine on trial; file is in the build's scratch folder until it is chosen."""

    recipe: Recipe
    file: Path
    engine: Engine


def recipes(choice: PrecisionChoice, backend: Backend) -> Iterator[Recipe]:
    """What to try for the user's choice of precision on `backend`."""
    for precision in _PRECISIONS[choice]:
        if precision in backend.precisions:
            yield Recipe(precision=precision)


def make(
    recipe: Recipe,
    part: Part,
    simplified: Simplified,
    ranges: Ranges | None,
    backend: Backend,
    options: CompileOptions,
    scratch: Path,
) -> Candidate:
    """Write the ONNX of `recipe`, compile and load it. ranges: needed if the recipe needs them.

    Raises CxrEdgeError with the reason if that is not possible.
    """
    stem = f"{part.name}.{recipe.precision}{'.first-float' if recipe.keep_first_float else ''}"
    source, engine = scratch / f"{stem}.source.onnx", scratch / f"{stem}{backend.suffix}"
    onnx.save(_rewritten(recipe, simplified.model, ranges), source)
    backend.compile(source, engine, options)
    source.unlink()
    loaded = backend.load(engine, options)
    check_signature(loaded, part)
    return Candidate(recipe=recipe, file=engine, engine=loaded)


def _rewritten(recipe: Recipe, model: onnx.ModelProto, ranges: Ranges | None) -> onnx.ModelProto:
    if not recipe.needs_ranges:
        return model
    if ranges is None:
        raise ValueError(f"{recipe.precision} cannot be made without activation ranges")
    keep = frozenset([first_layer(model)]) if recipe.keep_first_float else frozenset[str]()
    return quantize(model, ranges.tensors, _scheme(recipe.precision), keep_float=keep)


def _scheme(precision: str) -> Scheme:
    """The scheme of that precision, with 7-bit weights where 8-bit ones could overflow the processor's 16-bit sums."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    exact = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(host.instruction_sets())
    return SCHEMES[precision].reduced() if x86 and not exact else SCHEMES[precision]
