"""GPU benchmark: correctness of kernels, bandwidth, screening and overhead beside other implementations, in one run."""

from benchmarks.harness.script import Benchmark

__all__ = ["BENCHMARK"]

BENCHMARK = Benchmark(name="gpu", position=100, only_if_named=True)
