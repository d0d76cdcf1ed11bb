"""Baseline implementations that cxr-edge is compared with."""
