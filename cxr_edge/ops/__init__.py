"""The computations of a screening on the host: one module per operation, with its C++ twin in csrc."""
