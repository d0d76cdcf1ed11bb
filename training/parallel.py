"""Training on several processes: what torchrun put into the environment in, this process's rank and device out.

Started plainly, the world is one process. Started by torchrun, every process walks through the same batches and computes
its share of each; gradients are averaged, so the result is that of one process with the whole batch.
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

__all__ = ["World", "computes_bfloat16", "everywhere", "shared_model", "wait", "world"]

# The others wait while the first reads a collection or writes a bundle, which takes longer than torch's 10 or 30 minutes.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class World:
    """rank: of this process, below size. device: where it computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of a batch of `count`. Raises InputError if that does not divide by `size`."""
        if count % self.size:
            raise InputError(f"a batch of {count} does not divide among {self.size} processes: choose a multiple")
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


def world() -> World:
    """This process's place. The first call under torchrun joins the others (NCCL with GPUs, else gloo).

    Raises InputError where torchrun started more processes than the machine has GPUs.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if size > 1 and not distributed.is_initialized():
        _join(device)
    return World(rank=int(os.environ.get("RANK", "0")) if size > 1 else 0, size=size, device=device)


@cache
def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them a processor takes several times as long as for float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")  # of x86 and of Arm
    return flags.exists() and re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags.read_text()) is not None


def shared_model(model: nn.Module, here: World) -> nn.Module:
    """What computes the loss: the model itself, or wrapped so that gradients are averaged over the processes.

    On GPUs batch norm takes its statistics over all processes; on CPUs, where torch cannot, over each one's share.
    """
    if here.size == 1:
        return model
    wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(model) if here.device.type == "cuda" else model
    return nn.parallel.DistributedDataParallel(wrapped)


def everywhere(values: Mapping[str, float], here: World) -> dict[str, float]:
    """The first process's values, in every process; the others give the same names, with any values."""
    if here.size == 1:
        return dict(values)
    numbers: Tensor = torch.tensor([values[k] for k in sorted(values)], dtype=torch.float64, device=here.device)
    distributed.broadcast(numbers, src=0)
    return dict(zip(sorted(values), numbers.tolist(), strict=True))


def wait(here: World) -> None:
    """Return when all processes have come here."""
    if here.size > 1:
        distributed.barrier()


def _join(device: torch.device) -> None:
    if device.type == "cpu":
        distributed.init_process_group("gloo", timeout=_PATIENCE)
        return
    if device.index >= torch.cuda.device_count():
        raise InputError(
            f"a process needs a GPU of its own, and this machine has {torch.cuda.device_count()} GPU(s): "
            f"start as many with --nproc-per-node, or hide them (CUDA_VISIBLE_DEVICES=) to train on the CPU"
        )
    torch.cuda.set_device(device)  # else a barrier of NCCL takes the first GPU for everyone's
    distributed.init_process_group("nccl", device_id=device, timeout=_PATIENCE)
