"""Faster training on a CPU: depthwise convolutions in fp32, and memory that is kept for the next step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["DepthwiseInFp32", "keep_freed_memory"]

_GROUPS = 6  # position of `groups` among the arguments of torch.conv2d
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


class DepthwiseInFp32(TorchFunctionMode):
    """Compute grouped convolutions in fp32 within CPU autocast: their backward pass is several times as slow in bf16."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.conv2d and (args[_GROUPS] if len(args) > _GROUPS else named.get("groups", 1)) > 1:
            with torch.autocast("cpu", enabled=False):
                return func(args[0].float(), *args[1:], **named)
        return func(*args, **named)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory: without it every step returns its large tensors to Linux, which clears them page by page.

    Does nothing on another C library.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
