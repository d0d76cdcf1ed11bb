"""Bandwidth of preprocessing on a GPU, compared with copies of images on the device.

Takes a device and sets of preprocessing specs; returns a `Section` with gigabytes per second. A round processes so many
images that they exceed the device's cache, as one graph, and is timed by events; a copy counts its bytes twice, because
it reads and writes them.
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

_UNKNOWN_CACHE = 128 << 20  # about the largest of any GPU so far
_TIMES_THE_CACHE = 2
_ROLL_ROWS = 173  # rows by which the images of a round are rolled, so that they differ

COLUMNS = ("image", "work", "images per round", "MB counted", "p50 us", "p90 us", "GB/s", "of the copy", "n", "note")


@dataclass(frozen=True, kw_only=True)
class DeviceCopy:
    """Function that copies on the device."""

    name: str  # for the table; the reason if there is no such function
    run: Callable[[int, int, int, Stream], object] | None  # enqueues run(destination, source, bytes, stream)


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
    """Return section 2: gigabytes per second of each set on square 16-bit images, whole frame.

    sets: specs that one pass computes, by name in the table.
    copy: the copy to compare with.
    cache: bytes of the device's last-level cache.
    """
    rows: list[tuple[Cell, ...]] = []
    targets: list[Target] = []
    with device.current():
        for side in sides:
            *transfers, copied = _measure_side(device, side, sets, copy, cache, rounds, warmup)
            rows += [t.row(copied) for t in (*transfers, copied)]
            targets += [_target(t, copied) for t in transfers]
    table = Table(title="2. Bandwidth of preprocessing, images on the device", columns=COLUMNS, rows=tuple(rows))
    return Section(tables=(table,), targets=tuple(targets))


@dataclass(frozen=True, kw_only=True)
class _Transfer:
    """Measurement of one kind of work on images of one size."""

    image: str
    work: str
    images: int  # per round
    n_bytes: int  # counted per image
    timed: Timed | None  # None: not measured
    note: str

    @property
    def gb_per_s(self) -> float | None:
        if self.timed is None:
            return None
        return self.n_bytes * self.images / float(np.median(self.timed.milliseconds)) / 1e6

    def share_of(self, copy: _Transfer) -> float | None:
        """Return the ratio of the gigabytes per second to the copy's; None if either was not measured."""
        own, copied = self.gb_per_s, copy.gb_per_s
        return None if own is None or copied is None else own / copied

    def row(self, copy: _Transfer) -> tuple[Cell, ...]:
        times: tuple[Cell, ...] = (None, None)
        if self.timed is not None:
            times = tuple(1e3 * ms / self.images for ms in percentiles(self.timed.milliseconds, (50, 90)))
        n = 0 if self.timed is None else self.timed.milliseconds.size
        rest = (self.gb_per_s, self.share_of(copy), n, self.note)
        return (self.image, self.work, self.images, self.n_bytes / 1e6, *times, *rest)


def _target(transfer: _Transfer, copy: _Transfer) -> Target:
    text = f"preprocessing's GB/s over the copy's, {transfer.image}, {transfer.work}"
    return Target(text=text, required=MIN_SHARE, at_least=True, measured=transfer.share_of(copy))


def _measure_side(
    device: Device,
    side: int,
    sets: Mapping[str, Sequence[PreprocessSpec]],
    copy: DeviceCopy,
    cache: int,
    rounds: int,
    warmup: int,
) -> list[_Transfer]:
    """Return the transfers of every set, then the copy's."""
    pixels = speckled_image(side, np.uint16, seed=side)
    images = 1 + max(1, -(-_TIMES_THE_CACHE * cache // pixels.nbytes))
    frames = [upload_frame(device, np.roll(pixels, _ROLL_ROWS * i, axis=0)) for i in range(images)]
    name = f"{side}x{side}, 16 bit"
    transfers = []
    for work, specs in sets.items():
        timing = _time_preprocessing(device, frames, specs, rounds, warmup)
        canvases = len({(s.region, s.canvas_px, s.crop_px) for s in specs})
        note = f"canvases: {canvases}; bytes of the image that they need count once. {timing.note}".strip()
        n_bytes = int(pixels.nbytes * max((s.crop_px / s.canvas_px) ** 2 for s in specs))
        transfers.append(_Transfer(image=name, work=work, images=images, n_bytes=n_bytes, timed=timing, note=note))
    copied, note = _time_copies(device, frames, copy, rounds, warmup)
    n_copied = 2 * frames[0].n_bytes  # read and written
    return [*transfers, _Transfer(image=name, work="copy", images=images, n_bytes=n_copied, timed=copied, note=note)]


def _time_preprocessing(
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


def _time_copies(
    device: Device, frames: Sequence[Buffer], copy: DeviceCopy, rounds: int, warmup: int
) -> tuple[Timed | None, str]:
    """Time copies of the same images to separate buffers. Return the timing, None if it failed, and a note."""
    run = copy.run
    if run is None:
        return None, copy.name
    destinations, stream = [device.allocate(f.n_bytes) for f in frames], device.stream()

    def all_images() -> None:
        for to, source in zip(destinations, frames, strict=True):
            run(to.address, source.address, source.n_bytes, stream)

    try:
        timing = time_work(device, stream, all_images, rounds=rounds, warmup=warmup)
    except (
        Exception
    ) as error:  # torch and pycuda raise errors of their own; the other results stay valid without the copy
        return None, f"not measured: {copy.name} failed: {_first_line(error)}"
    return timing, f"{copy.name}; bytes read and bytes written count. {timing.note}".strip()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def device_copy(device: Device) -> DeviceCopy:
    """Return torch's copy if torch sees a GPU, else the driver's through pycuda."""
    if not isinstance(device, CudaDevice):
        return DeviceCopy(
            name=f"not measured: {device.name} is not a CUDA device, no copy function is available for it", run=None
        )
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
    @functools.cache  # created in the run without a graph, so that a capture finds them
    def view(address: int, n_bytes: int) -> Any:
        return torch.as_tensor(_Bytes(address, n_bytes), device="cuda")

    def copy(to: int, source: int, n_bytes: int, stream: Stream) -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
            view(to, n_bytes).copy_(view(source, n_bytes), non_blocking=True)

    return copy


class _Bytes:
    """Device memory with the interface that torch reads without a copy."""

    def __init__(self, address: int, n_bytes: int) -> None:
        self.__cuda_array_interface__ = {"shape": (n_bytes,), "typestr": "|u1", "data": (address, False), "version": 3}


def cache_bytes(device: Device) -> int:
    """Return the bytes of the GPU's last-level cache; an upper limit if the driver does not report it."""
    if not isinstance(device, CudaDevice):
        return _UNKNOWN_CACHE
    import pycuda.driver as driver

    return int(driver.Device(0).get_attribute(driver.device_attribute.L2_CACHE_SIZE)) or _UNKNOWN_CACHE
