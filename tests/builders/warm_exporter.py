"""Exports a small network when it is imported, by a fork server, so that its processes need not prepare the exporter each.

The first export of a process takes seconds: it imports and registers torch's decompositions.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from tqdm import tqdm

from training.models.onnx_export import graph_of

# A forked process could wait for threads of this one.
torch.set_num_threads(1)
tqdm.monitor_interval = 0
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    graph_of(
        nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU()).eval(), torch.zeros(2, 1, 8, 8), ["logits"]
    )
