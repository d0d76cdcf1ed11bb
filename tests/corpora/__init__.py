"""Comparison of decoded pixels with independent decoders over any folder of files."""
