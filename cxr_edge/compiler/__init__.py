"""Compilation of a bundle's ONNX files to engines of this machine: rewrite, calibrate, compile, compare, time, select.

`build_bundle` and `build_network` are the entry points. `graph` and `calibrate` rewrite networks, `candidates` and `trial`
build and evaluate one engine per precision, `parity` compares it with the fp32 reference, `sensitivity` and
`fp32_fallback` keep the most sensitive layers of a rejected one in fp32, `timing` measures those that passed, `selection`
chooses, `store` writes. Needs the onnx package, which screening does not.
"""
