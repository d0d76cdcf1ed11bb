"""Kernel self-test: run the lung box kernel on a known mask before the device is used.

A device in; None or the reason for a failure out. It detects a core that was built without CUDA, for other GPUs, or for a
newer driver, before an image depends on it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.errors import BackendError
from cxr_edge.gpu.interface import Device, frame_bytes, put_frame
from cxr_edge.ops.lung_box import LungBoxStatus, core_rule
from cxr_edge.screening.gpu_enqueue import RECORD
from cxr_edge.specs.lung_box import LungBoxRule

__all__ = ["kernel_failure"]

_SIDE_PX = 8


def kernel_failure(device: Device) -> str | None:
    """Return None if the kernel's lung box of a small mask is correct, else the reason for the failure."""
    try:
        with device.current():
            record = _lung_record(device)
    except BackendError as error:
        return str(error)
    actual = (record["status"].tolist(), record["crop"].tolist())
    expected = (int(LungBoxStatus.VALID), [0, 0, _SIDE_PX, _SIDE_PX])
    return None if actual == expected else f"a kernel returned the box {actual}, expected {expected}"


def _lung_record(device: Device) -> npt.NDArray[np.void]:
    """Return the kernel's RECORD, an array without dimensions, for a mask that is lung everywhere."""
    pixels, mask = np.zeros((_SIDE_PX, _SIDE_PX), np.uint8), np.ones((_SIDE_PX, _SIDE_PX), np.float32)
    stream, frame, record = device.stream(), np.zeros(frame_bytes(pixels), np.uint8), np.zeros(1, RECORD)
    put_frame(pixels, frame)
    scratch = device.allocate(_core.lung_scratch_bytes(_SIDE_PX, _SIDE_PX))
    buffers = {name: device.allocate(a.nbytes) for name, a in (("frame", frame), ("mask", mask), ("record", record))}
    device.upload(buffers["frame"].address, frame, stream)
    device.upload(buffers["mask"].address, mask, stream)
    device.kernels(stream).lung_box(
        mask=buffers["mask"].address,
        rows=_SIDE_PX,
        columns=_SIDE_PX,
        rule=core_rule(LungBoxRule()),
        frame=buffers["frame"].address,
        scratch=scratch.address,
        record=buffers["record"].address,
    )
    device.download(record.view(np.uint8), buffers["record"].address, stream)
    device.synchronize(stream)
    return record.reshape(())
