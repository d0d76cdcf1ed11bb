"""Benchmark scripts: one per question, each compared with other implementations on the same images in the same run.

- `preprocess`, `combine`, `end_to_end`, `cold_start`, `throughput`: comparisons with OpenCV, NumPy and other runtimes.
- `latency`, `scenarios`, `idle`, `sustained`: measurements of a single machine.
- `sensors`: prints the readings of clocks, temperatures and power that are available.
- `gpu`: correctness and speed of the GPU path.

Run one by `python -m benchmarks.NAME`: it prints tables and writes JSON to build/bench/. `python -m benchmarks` runs all
except those that take many minutes or need a GPU. `python -m benchmarks.harness.page build/bench
docs/results/benchmarks.md` generates the page of results. The packages compared with are installed by
`pip install '.[bench]'`; missing ones are listed as such. Each script declares itself as `BENCHMARK` (`harness.script`).
"""

import cxr_edge  # noqa: F401  # switches ONNX Runtime's telemetry off before a script here imports it

__all__: list[str] = []
