"""Screening on a GPU's own memory: what a device offers, the CUDA device, and the pipeline that runs as one graph.

`memory` says what a device must offer, `cuda` offers it through pycuda, `pipeline` screens with it. Importing any of them
needs no GPU and no pycuda; making a `CudaDevice` does.
"""
