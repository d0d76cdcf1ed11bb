"""Distributed training: torchrun's environment variables in, this process's rank, world size and device out.

Without torchrun the world is one process. Under torchrun every process iterates over the same batches and computes its
share of each; DistributedDataParallel averages the gradients, so the result is that of one process with the full batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from cxr_edge.errors import InputError

__all__ = ["World", "barrier", "broadcast", "computes_bfloat16", "world", "wrap_ddp"]

# Rank 0 reads collections and writes bundles while the others wait, which takes longer than torch's 10 or 30 minutes.
_TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the processes of a training."""

    rank: int  # from 0 to size - 1
    size: int  # number of processes
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the process that writes files and prints (rank 0)."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's slice of a batch of `count`. Raises InputError if `count` is not divisible by `size`."""
        if count % self.size:
            raise InputError(f"a batch of {count} does not divide among {self.size} processes: choose a multiple")
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


def world() -> World:
    """Return this process's rank, size and device. The first call under torchrun joins the group (NCCL with GPUs, else gloo).

    Raises InputError if torchrun started more processes than the machine has GPUs.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if size > 1 and not distributed.is_initialized():
        _join(device)
    return World(rank=int(os.environ.get("RANK", "0")) if size > 1 else 0, size=size, device=device)


@cache
def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16; without them a CPU takes several times as long as for float32."""
    if device.type == "cuda":
        supported: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported
    flags = Path("/proc/cpuinfo")  # of x86 and of Arm
    return flags.exists() and re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags.read_text()) is not None


def wrap_ddp(model: nn.Module, process: World) -> nn.Module:
    """Wrap the model in DistributedDataParallel; a single process uses the model itself.

    On GPUs batch norm computes its statistics over all processes; on CPUs, where torch cannot, over each process's share.
    """
    if process.size == 1:
        return model
    if process.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch has no types here
    return nn.parallel.DistributedDataParallel(model)


def broadcast(values: Mapping[str, float], process: World) -> dict[str, float]:
    """Return rank 0's values in every process; the others pass the same names, with any values."""
    if process.size == 1:
        return dict(values)
    numbers: Tensor = torch.tensor([values[k] for k in sorted(values)], dtype=torch.float64, device=process.device)
    distributed.broadcast(numbers, src=0)
    return dict(zip(sorted(values), numbers.tolist(), strict=True))


def barrier(process: World) -> None:
    """Wait until all processes have called this."""
    if process.size > 1:
        distributed.barrier()


def _join(device: torch.device) -> None:
    if device.type == "cpu":
        distributed.init_process_group("gloo", timeout=_TIMEOUT)
        return
    if device.index >= torch.cuda.device_count():
        raise InputError(
            f"every process needs its own GPU, and this machine has {torch.cuda.device_count()} GPU(s): "
            f"start as many with --nproc-per-node, or hide them (CUDA_VISIBLE_DEVICES=) to train on the CPU"
        )
    torch.cuda.set_device(device)  # else NCCL's barrier uses the first GPU for all processes
    distributed.init_process_group("nccl", device_id=device, timeout=_TIMEOUT)
