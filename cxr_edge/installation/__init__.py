"""Installed versions of a bundle on one machine: staged, checked, switched to in one step, and rolled back.

`box` is the folder, `install` the steps, `journal` what happened when, `durable` writes that a power cut does not halve.
"""

__all__ = ["DEFAULT_KEPT"]

DEFAULT_KEPT = 2  # versions: the one in use and the one before
