"""Benchmarks: one script a question, each with its peers on the same images in the same run.

`python -m benchmarks.preprocess | combine | end_to_end | cold_start | throughput` compare with peers; `latency |
scenarios | idle | sustained` tell an embedded engineer what one box does; `sensors` shows what can be read of it; `gpu` asks
all that a GPU has to prove. Each prints tables and writes JSON to build/bench/; `python -m benchmarks` runs all but those
that take many minutes or a GPU; `python -m benchmarks.harness.page build/bench docs/results/benchmarks.md` makes the page of
results from the JSON. Peers come with `pip install '.[bench]'`; those that are missing are shown so.
"""

import cxr_edge  # noqa: F401  # switches ONNX Runtime's telemetry off before a script here imports it

__all__: list[str] = []
