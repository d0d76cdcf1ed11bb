"""Damage that power cuts, full disks and failed copies do to a file: its bytes in, what is left of them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["DAMAGES"]


def _cut(tenths: int) -> Callable[[bytes], bytes]:
    return lambda data: data[: len(data) * tenths // 10]


def _zero_tail(tenths: int) -> Callable[[bytes], bytes]:
    """As ext4 after a power cut: the length is there, the blocks are not."""
    return lambda data: data[: len(data) * tenths // 10].ljust(len(data), b"\0")


DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    **{f"cut at {k} tenths": _cut(k) for k in range(10)},  # at 0: empty
    **{f"zeros from {k} tenths on": _zero_tail(k) for k in range(10)},
    "text": lambda _: b"<!DOCTYPE html><title>404</title>",
    "an empty list": lambda _: b"[]",
}
