"""Objects with native threads in forked processes: an object in; in the children it is never destroyed.

It exists because fork copies an object but not its threads: a runtime's destructor would wait for them for ever, when the child
drops the object or just ends.
"""

from __future__ import annotations

import ctypes
import os
import weakref

__all__ = ["keep_in_children"]

# By id, since frozen dataclasses with a mapping have no hash.
_objects: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()


def keep_in_children(owner: object) -> None:
    """Keep `owner`, and all that it refers to, alive until the end of every process that is forked from this one."""
    _objects[id(owner)] = owner


def _add_references() -> None:
    # A reference that Python does not know: those of a module are dropped while the interpreter ends.
    for owner in list(_objects.values()):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_add_references)
