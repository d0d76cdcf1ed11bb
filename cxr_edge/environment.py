"""Description of the machine and library versions that a measurement was made with."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from cxr_edge.backends.cpu_info import platform_name, processor_name
from cxr_edge.backends.cpu_quota import available_cores

__all__ = ["Environment", "environment"]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Machine and versions of a measurement."""

    processor: str
    cores: int  # that this process may use, by affinity and CPU quota
    platform: str
    python: str
    load_average: float | None  # over one minute; None on systems without it
    versions: dict[str, str]  # of libraries and runtimes, by name


def environment(versions: Mapping[str, str]) -> Environment:
    """Describe this machine. versions: of the runtimes that are measured."""
    return Environment(
        processor=processor_name(),
        cores=available_cores(),
        platform=platform_name(),
        python=platform.python_version(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        versions={"numpy": np.__version__, "opencv": cv2.__version__, **versions},
    )
