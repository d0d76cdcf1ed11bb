"""GPU benchmarks: kernels, bandwidth, screening, overhead and peers in one run."""
