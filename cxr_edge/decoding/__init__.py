"""Image decoding: the bytes of one file in, an upright gray image out, one module per file format.

`decoding.decode` is the public interface, `decoding.formats` the registry of formats. docs/images.md and docs/dicom.md list
what is supported, flagged and rejected.
"""
