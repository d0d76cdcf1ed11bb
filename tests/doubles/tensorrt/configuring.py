"""Builder configuration of the fake, with optimization profiles and timing caches."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from typing import Any

from tests.doubles.tensorrt import foundation
from tests.doubles.tensorrt.foundation import Bound, check_type, new

_CACHE_MAGIC = b"fake timing cache"


class IOptimizationProfile(Bound):
    __slots__ = ("_shapes",)

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        shapes = [list(map(operator.index, shape)) for shape in (min, opt, max)]
        if len(set(map(len, shapes))) > 1 or any(not a <= b <= c for a, b, c in zip(*shapes, strict=True)):
            raise RuntimeError(f"Shape provided for {input} is inconsistent with other shapes.")
        self._shapes[check_type(input, str)] = shapes

    def get_shape(self, input: str) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._shapes.get(check_type(input, str), [])]

    def __bool__(self) -> bool:
        return True

    def _fits(self, tensor: Any) -> bool:
        least, _, largest = self._shapes.get(tensor.name, ([], [], []))
        sides = zip(tensor.shape, least, largest, strict=False)
        return len(least) == len(tensor.shape) and all(s == -1 or s == a == b for s, a, b in sides)


class ITimingCache(Bound):
    __slots__ = ("_entries", "_made_by")

    def serialize(self) -> Any:
        content = json.dumps({"made_by": self._made_by, "entries": sorted(self._entries)})
        return foundation.host_memory(self._flavour, _CACHE_MAGIC + content.encode())

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        if not self._matches(check_type(input_cache, ITimingCache), ignore_mismatch):
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True

    def _matches(self, other: Any, ignore_mismatch: bool) -> bool:
        same_device = other._made_by[1] == self._flavour.compute_capability
        return other._made_by[0] == self._flavour.version and (same_device or bool(ignore_mismatch))


def _setting(name: str, kind: type | None) -> property:
    """Return a property of the configuration. kind: type of its values; None: the type of the default."""

    def read(self: Any) -> Any:
        return self._values[name]

    def write(self: Any, value: Any) -> None:
        if kind is int:
            value = operator.index(value)
        elif kind is not None:
            check_type(value, (kind, type(None)))
        else:
            check_type(value, type(self._values[name]))
        self._values[name] = value

    return property(read, write)


def defaults(trt: Any) -> dict[str, Any]:
    return {
        "DLA_core": -1,
        "avg_timing_iterations": 1,
        "builder_optimization_level": 3,
        "default_device_type": trt.DeviceType.GPU,
        "engine_capability": trt.EngineCapability.STANDARD,
        "hardware_compatibility_level": trt.HardwareCompatibilityLevel.NONE,
        "max_aux_streams": 0,
        "max_num_tactics": -1,
        "profile_stream": 0,
        "profiling_verbosity": trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
        "progress_monitor": None,
    }


class IBuilderConfig(Bound):
    __slots__ = ("_cache", "_flags", "_logger", "_pools", "_profiles", "_values")

    DLA_core = _setting("DLA_core", int)
    avg_timing_iterations = _setting("avg_timing_iterations", int)
    builder_optimization_level = _setting("builder_optimization_level", int)
    default_device_type = _setting("default_device_type", None)
    engine_capability = _setting("engine_capability", None)
    hardware_compatibility_level = _setting("hardware_compatibility_level", None)
    max_aux_streams = _setting("max_aux_streams", int)
    profile_stream = _setting("profile_stream", int)
    profiling_verbosity = _setting("profiling_verbosity", None)
    progress_monitor = _setting("progress_monitor", foundation.IProgressMonitor)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(check_type(flag, self._flavour.trt.BuilderFlag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(check_type(flag, self._flavour.trt.BuilderFlag))

    def get_flag(self, flag: Any) -> bool:
        return check_type(flag, self._flavour.trt.BuilderFlag) in self._flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[check_type(pool, self._flavour.trt.MemoryPoolType)] = operator.index(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(check_type(pool, self._flavour.trt.MemoryPoolType), 0)

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(check_type(profile, IOptimizationProfile))
        return len(self._profiles) - 1

    def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
        return bool(check_type(layer, self._flavour.trt.ILayer)) and self._flavour.dla_cores > 0

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        """Return a timing cache, or None with a logged error for invalid bytes."""
        content = bytes(memoryview(serialized_timing_cache))
        if not content:
            content = _CACHE_MAGIC + b'{"entries": []}'
        if not content.startswith(_CACHE_MAGIC):
            self._logger.log(
                self._flavour.trt.ILogger.ERROR, "The timing cache cannot be read: magic tag does not match"
            )
            return None
        stored = json.loads(content[len(_CACHE_MAGIC) :])
        here = [self._flavour.version, self._flavour.compute_capability]
        entries, builder = set(stored["entries"]), stored.get("made_by", here)
        return new(self._flavour.trt.ITimingCache, _entries=entries, _made_by=builder)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        fits = cache._matches(check_type(cache, ITimingCache), ignore_mismatch)
        self._cache = cache if fits else self._cache
        return fits

    def get_timing_cache(self) -> Any:
        return self._cache


class IBuilderConfigFrom1016:
    """Members that 10.3 does not have."""

    __slots__ = ()
    _columns = (1, 2)

    max_num_tactics = _setting("max_num_tactics", int)
