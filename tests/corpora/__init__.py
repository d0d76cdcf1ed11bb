"""Comparison of decoded pixels with independent decoders for any folder of files."""
