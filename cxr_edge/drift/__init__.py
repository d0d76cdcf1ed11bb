"""Drift without labels: notice that exams stop being like those that the bundle knows.

`statistics` takes numbers from a screening, `reference` holds those of known exams, `betting` measures how far a stream departs
from them, `monitor` puts them together and says what moved, `state` keeps a stream from run to run.
"""

from cxr_edge.drift.monitor import Alarm, DriftMonitor, DriftReport, Moved, StatisticDrift
from cxr_edge.drift.reference import Reference, attach_reference
from cxr_edge.drift.statistics import exam_statistics

__all__ = [
    "Alarm",
    "DriftMonitor",
    "DriftReport",
    "Moved",
    "Reference",
    "StatisticDrift",
    "attach_reference",
    "exam_statistics",
]
