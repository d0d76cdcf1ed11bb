"""How near does preprocessing come to the GPU's memory bandwidth? Images on the device, beside copies of as many bytes.

In: a device and sets of preprocessing; out: an `Answer` with gigabytes a second. A round goes through so many images
that they do not fit the device's cache, as one graph, and is timed by events; a copy counts its bytes twice, since it
reads and writes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import cxr_edge._core as _core
from benchmarks.gpu.device import Section, Timed, time_work, upload_frame
from benchmarks.harness.images import speckled_image
from benchmarks.harness.report import Target
from benchmarks.harness.side_by_side import Cell, Table, unavailable_reason
from cxr_edge.bench import percentiles
from cxr_edge.gpu.cuda import CudaDevice
from cxr_edge.gpu.interface import Buffer, Device, Stream
from cxr_edge.ops.preprocess import core_spec
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["MIN_SHARE", "SIDES", "DeviceCopy", "cache_bytes", "device_copy", "measure"]

SIDES = (3000, 4096)
MIN_SHARE = 0.7  # of the copy's gigabytes a second

_UNKNOWN_CACHE = 128 << 20  # the largest that GPUs have had so far, about
_TIMES_THE_CACHE = 2
_MOVED = 173  # rows by which the images of a round differ

COLUMNS = ("image", "work", "images a round", "MB counted", "p50 us", "p90 us", "GB/s", "of the copy", "n", "note")


@dataclass(frozen=True, kw_only=True)
class DeviceCopy:
    """A way to copy on the device: run(to, source, bytes, stream) enqueues. run None: there is none, name says why."""

    name: str
    run: Callable[[int, int, int, Stream], object] | None


def measure(
    device: Device,
    sets: Mapping[str, Sequence[PreprocessSpec]],
    *,
    copy: DeviceCopy,
    cache: int,
    rounds: int,
    warmup: int,
    sides: Sequence[int] = SIDES,
) -> Section:
    """Question 2: gigabytes a second of each set on square 16-bit images, whole frame.

    sets: the specs that one pass serves, by what the table calls them. cache: bytes of the device's last cache.
    """
    rows: list[tuple[Cell, ...]] = []
    targets: list[Target] = []
    with device.current():
        for side in sides:
            found = _side(device, side, sets, copy, cache, rounds, warmup)
            rows += [m.row(found[-1]) for m in found]
            targets += [_target(m, found[-1]) for m in found[:-1]]
    table = Table(title="2. Bandwidth of preprocessing, images on the device", columns=COLUMNS, rows=tuple(rows))
    return Section(tables=(table,), targets=tuple(targets))


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """Rounds of one piece of work on one size of image. n_bytes: counted an image. timed None: not measured."""

    image: str
    work: str
    images: int
    n_bytes: int
    timed: Timed | None
    note: str

    @property
    def gb_per_s(self) -> float | None:
        if self.timed is None:
            return None
        return self.n_bytes * self.images / float(np.median(self.timed.milliseconds)) / 1e6

    def share_of(self, copy: _Moved) -> float | None:
        """Its gigabytes a second over the copy's, if both were measured."""
        ours, theirs = self.gb_per_s, copy.gb_per_s
        return None if ours is None or theirs is None else ours / theirs

    def row(self, copy: _Moved) -> tuple[Cell, ...]:
        times: tuple[Cell, ...] = (None, None)
        if self.timed is not None:
            times = tuple(1e3 * ms / self.images for ms in percentiles(self.timed.milliseconds, (50, 90)))
        n = 0 if self.timed is None else self.timed.milliseconds.size
        rest = (self.gb_per_s, self.share_of(copy), n, self.note)
        return (self.image, self.work, self.images, self.n_bytes / 1e6, *times, *rest)


def _target(moved: _Moved, copy: _Moved) -> Target:
    text = f"preprocessing's GB/s over the copy's, {moved.image}, {moved.work}"
    return Target(text=text, wanted=MIN_SHARE, at_least=True, measured=moved.share_of(copy))


def _side(
    device: Device,
    side: int,
    sets: Mapping[str, Sequence[PreprocessSpec]],
    copy: DeviceCopy,
    cache: int,
    rounds: int,
    warmup: int,
) -> list[_Moved]:
    """Every set's rounds, then the copy's."""
    pixels = speckled_image(side, np.uint16, seed=side)
    images = 1 + max(1, -(-_TIMES_THE_CACHE * cache // pixels.nbytes))
    frames = [upload_frame(device, np.roll(pixels, _MOVED * i, axis=0)) for i in range(images)]
    name = f"{side}x{side}, 16 bit"
    found = []
    for work, specs in sets.items():
        t = _preprocessing(device, frames, specs, rounds, warmup)
        canvases = len({(s.region, s.canvas_px, s.crop_px) for s in specs})
        note = f"canvases: {canvases}; what they need of the image counts once. {t.note}".strip()
        n_bytes = int(pixels.nbytes * max((s.crop_px / s.canvas_px) ** 2 for s in specs))
        found.append(_Moved(image=name, work=work, images=images, n_bytes=n_bytes, timed=t, note=note))
    copied, note = _copying(device, frames, copy, rounds, warmup)
    counted = 2 * frames[0].n_bytes  # read and written
    return [*found, _Moved(image=name, work="copy", images=images, n_bytes=counted, timed=copied, note=note)]


def _preprocessing(
    device: Device, frames: Sequence[Buffer], specs: Sequence[PreprocessSpec], rounds: int, warmup: int
) -> Timed:
    planned = _core.DevicePreprocessor([core_spec(s) for s in specs])
    scratch, stream = device.allocate(planned.scratch_bytes), device.stream()
    outputs = [device.allocate(int(np.prod(s.tensor_shape)) * np.dtype(s.dtype).itemsize) for s in specs]
    addresses, kernels = [o.address for o in outputs], device.kernels(stream)

    def all_images() -> None:
        for frame in frames:
            kernels.preprocess(planned, frame=frame.address, lungs=0, scratch=scratch.address, outputs=addresses)

    return time_work(device, stream, all_images, rounds=rounds, warmup=warmup)


def _copying(
    device: Device, frames: Sequence[Buffer], copy: DeviceCopy, rounds: int, warmup: int
) -> tuple[Timed | None, str]:
    """Copies of the same images to as many other places; and by what, or why not."""
    run = copy.run
    if run is None:
        return None, copy.name
    places, stream = [device.allocate(f.n_bytes) for f in frames], device.stream()

    def all_images() -> None:
        for to, source in zip(places, frames, strict=True):
            run(to.address, source.address, source.n_bytes, stream)

    try:
        t = time_work(device, stream, all_images, rounds=rounds, warmup=warmup)
    except Exception as error:  # torch, pycuda: each raises its own, and without the copy the rest still stands
        return None, f"not measured: {copy.name} failed: {_first_line(error)}"
    return t, f"{copy.name}; bytes read and bytes written count. {t.note}".strip()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def device_copy(device: Device) -> DeviceCopy:
    """torch's copy if torch sees a GPU, else the driver's through pycuda."""
    if not isinstance(device, CudaDevice):
        return DeviceCopy(name=f"not measured: {device.name} is no CUDA device, nothing here can copy on it", run=None)
    if unavailable_reason("torch") is None:
        import torch

        if torch.cuda.is_available():
            return DeviceCopy(name="torch.Tensor.copy_", run=_torch_copy(torch))
    if unavailable_reason("pycuda") is None:
        import pycuda.driver

        copy = pycuda.driver.memcpy_dtod_async
        return DeviceCopy(name="pycuda's memcpy_dtod_async", run=lambda to, source, n, s: copy(to, source, n, s.pycuda))
    return DeviceCopy(name="not measured: pip install torch or pycuda, built for this GPU's CUDA", run=None)


def _torch_copy(torch: Any) -> Callable[[int, int, int, Stream], object]:
    @functools.cache  # made in the plain run, so that a capture finds them
    def view(address: int, n_bytes: int) -> Any:
        return torch.as_tensor(_Bytes(address, n_bytes), device="cuda")

    def copy(to: int, source: int, n_bytes: int, stream: Stream) -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
            view(to, n_bytes).copy_(view(source, n_bytes), non_blocking=True)

    return copy


class _Bytes:
    """Device memory as torch takes it in without a copy."""

    def __init__(self, address: int, n_bytes: int) -> None:
        self.__cuda_array_interface__ = {"shape": (n_bytes,), "typestr": "|u1", "data": (address, False), "version": 3}


def cache_bytes(device: Device) -> int:
    """Bytes of the GPU's last cache; more than any has if the driver does not tell."""
    if not isinstance(device, CudaDevice):
        return _UNKNOWN_CACHE
    import pycuda.driver as driver

    return int(driver.Device(0).get_attribute(driver.device_attribute.L2_CACHE_SIZE)) or _UNKNOWN_CACHE
