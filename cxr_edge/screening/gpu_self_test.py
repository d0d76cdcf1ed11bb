"""Whether the native core's kernels run on a device: believed after one has just given the right answer.

A device comes in, None or a reason goes out. A core built without CUDA, for other GPUs, or for a newer driver than this one
is found here, before any image depends on it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.errors import BackendError
from cxr_edge.gpu.interface import Device, frame_bytes, put_frame
from cxr_edge.ops.lung_box import LungVerdict, core_rule
from cxr_edge.screening.gpu_enqueue import RECORD
from cxr_edge.specs.lung_box import LungBoxRule

__all__ = ["kernel_failure"]

_SIDE = 8


def kernel_failure(device: Device) -> str | None:
    """None if the lung box of a tiny mask is right, else why the kernels cannot be used."""
    try:
        with device.current():
            record = _lung_record(device)
    except BackendError as error:
        return str(error)
    found = (record["verdict"].tolist(), record["seen"].tolist())
    expected = (int(LungVerdict.BELIEVED), [0, 0, _SIDE, _SIDE])
    return None if found == expected else f"a kernel found the box {found} where {expected} is right"


def _lung_record(device: Device) -> npt.NDArray[np.void]:
    """What the kernel leaves for a mask that is lung everywhere: an array of RECORD without dimensions."""
    pixels, mask = np.zeros((_SIDE, _SIDE), np.uint8), np.ones((_SIDE, _SIDE), np.float32)
    stream, frame, record = device.stream(), np.zeros(frame_bytes(pixels), np.uint8), np.zeros(1, RECORD)
    put_frame(pixels, frame)
    scratch = device.allocate(_core.lung_scratch_bytes(_SIDE, _SIDE))
    there = {name: device.allocate(a.nbytes) for name, a in (("frame", frame), ("mask", mask), ("record", record))}
    device.upload(there["frame"].address, frame, stream)
    device.upload(there["mask"].address, mask, stream)
    device.kernels(stream).lung_box(
        mask=there["mask"].address,
        rows=_SIDE,
        columns=_SIDE,
        rule=core_rule(LungBoxRule()),
        frame=there["frame"].address,
        scratch=scratch.address,
        record=there["record"].address,
    )
    device.download(record.view(np.uint8), there["record"].address, stream)
    device.synchronize(stream)
    return record.reshape(())
