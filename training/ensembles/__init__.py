"""Fitting of ensemble combinations and of the neural weight module."""
