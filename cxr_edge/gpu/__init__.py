"""GPU memory, streams and kernels: the interface of a device and its CUDA implementation."""
