"""Rewriting of ONNX graphs: simplification, int8 by Q/DQ nodes, half precision by casts."""
