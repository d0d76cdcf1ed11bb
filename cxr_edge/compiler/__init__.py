"""From a bundle's ONNX files to engines of this machine: rewrite, calibrate, compile, compare, time, choose.

`engine` orchestrates; `simplify`, `precision`, `half` and `calibrate` make candidates, `gate` compares them with the fp32
reference, `sensitivity` and `mixed` step back to fp32 what the gate refuses, `autotune` times what passed. Needs the onnx
package, which screening does not.
"""
