"""Builder configuration of the fake, with optimization profiles and timing caches."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from typing import Any

from tests.doubles.tensorrt.foundation import Bound, IProgressMonitor, check_type, host_memory, new, shape

_CACHE_MAGIC = b"fake timing cache"


class IOptimizationProfile(Bound):
    __slots__ = ("_shapes",)

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        shapes = [shape(sides) for sides in (min, opt, max)]
        if len(set(map(len, shapes))) > 1 or any(not a <= b <= c for a, b, c in zip(*shapes, strict=True)):
            raise RuntimeError(f"Shape provided for {input} is inconsistent with other shapes.")
        self._shapes[check_type(input, str)] = shapes

    def _fits(self, tensor: Any) -> bool:
        least, _, largest = self._shapes.get(tensor.name, ([], [], []))
        sides = zip(tensor.shape, least, largest, strict=False)
        return len(least) == len(tensor.shape) and all(s == -1 or s == a == b for s, a, b in sides)


class ITimingCache(Bound):
    __slots__ = ("_entries", "_made_by")

    def serialize(self) -> Any:
        content = json.dumps({"made_by": self._made_by, "entries": sorted(self._entries)})
        return host_memory(_CACHE_MAGIC + content.encode())


def _setting(name: str, kind: type | None) -> property:
    """Return a property of the configuration. kind: type of its values; None: the type of the default."""

    def read(self: Any) -> Any:
        return self._values[name]

    def write(self: Any, value: Any) -> None:
        if kind is int:
            value = operator.index(value)
        else:
            check_type(value, kind or type(self._values[name]))
        self._values[name] = value

    return property(read, write)


def defaults(trt: Any) -> dict[str, Any]:
    return {
        "DLA_core": -1,
        "builder_optimization_level": 3,
        "default_device_type": trt.DeviceType.GPU,
        "hardware_compatibility_level": trt.HardwareCompatibilityLevel.NONE,
        "progress_monitor": None,
    }


class IBuilderConfig(Bound):
    __slots__ = ("_cache", "_flags", "_logger", "_pools", "_profiles", "_values")

    DLA_core = _setting("DLA_core", int)
    builder_optimization_level = _setting("builder_optimization_level", int)
    default_device_type = _setting("default_device_type", None)
    hardware_compatibility_level = _setting("hardware_compatibility_level", None)
    progress_monitor = _setting("progress_monitor", IProgressMonitor)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(check_type(flag, self._flavour.trt.BuilderFlag))

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[check_type(pool, self._flavour.trt.MemoryPoolType)] = operator.index(pool_size)

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(check_type(profile, IOptimizationProfile))
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        """Return a timing cache, or None with a logged error for invalid bytes."""
        content = bytes(memoryview(serialized_timing_cache)) or _CACHE_MAGIC + b'{"entries": []}'
        if not content.startswith(_CACHE_MAGIC):
            error = self._flavour.trt.ILogger.ERROR
            self._logger.log(error, "The timing cache cannot be read: magic tag does not match")
            return None
        stored = json.loads(content[len(_CACHE_MAGIC) :])
        made_by = stored.get("made_by", self._here)
        return new(self._flavour.trt.ITimingCache, _entries=set(stored["entries"]), _made_by=made_by)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        version, device = check_type(cache, ITimingCache)._made_by
        fits = version == self._here[0] and (device == self._here[1] or ignore_mismatch)
        self._cache = cache if fits else self._cache
        return fits

    def get_timing_cache(self) -> Any:
        return self._cache

    @property
    def _here(self) -> list[str]:
        return [self._flavour.version, self._flavour.compute_capability]
