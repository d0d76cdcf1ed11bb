"""Benchmarks: one script a question, each with its peers on the same images in the same run.

`python -m benchmarks.preprocess | combine | end_to_end | cold_start | throughput` prints tables and writes JSON to
build/bench/; `python -m benchmarks` runs all of them; `python -m benchmarks.tables build/bench docs/results/benchmarks.md`
makes the page of results from the JSON. Peers come with `pip install '.[bench]'`; those that are missing are shown so.
"""

__all__: list[str] = []
