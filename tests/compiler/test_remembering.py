"""An engine that remembers: each input runs once, and what it gives is the engine's."""

from __future__ import annotations

import numpy as np

from cxr_edge.backends.base import TensorInfo
from cxr_edge.compiler.remembering import RememberingEngine


class Counting:
    inputs = (TensorInfo(name="image", dtype="float32", shape=(None, 2)),)
    outputs = (TensorInfo(name="logits", dtype="float32", shape=(None, 2)),)
    runs = 0

    def run(self, inputs):
        self.runs += 1
        return {"logits": 2 * inputs["image"], "cam": np.zeros((1, 9), np.float32)}


def test_each_input_runs_once():
    engine = Counting()
    found = RememberingEngine(engine)
    assert (found.inputs, found.outputs) == (engine.inputs, engine.outputs)
    for value in (1.0, 2.0, 1.0, 2.0):
        outputs = found.run({"image": np.full((1, 2), value, np.float32)})
        assert outputs["logits"].tolist() == [[2 * value] * 2]
        assert set(outputs) == {"logits"}
    assert engine.runs == 2
