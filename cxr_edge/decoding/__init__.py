"""The bytes of one file in, a decoded picture out: one module per format, each checks its header before it decodes.

`cxr_edge.decoding.decode` is the public face. What is read, flagged and refused stands in docs/images.md and docs/dicom.md.
"""
