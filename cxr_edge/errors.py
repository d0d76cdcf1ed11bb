"""The exception tree of cxr-edge.

Every error that a user can cause or meet derives from `CxrEdgeError`, so that one `except` catches them all and
nothing else. A message says what was expected, what came, where, and what to do about it; it never holds pixels or a
patient's identity.

    CxrEdgeError
    ├── InputError      this image cannot be answered; the next one may
    ├── OutputError     the results cannot be written: disk full, reader of the output gone
    ├── BundleError     this model folder is incomplete, altered or malformed
    ├── BackendError    this machine cannot run it (runtime missing, GPU out of memory)
    │   └── EngineError     its engines are not there, outdated, altered or foreign: building them anew helps
    └── ContractError   trained and deployed differently (preprocessing, shapes, labels)
"""

__all__ = ["BackendError", "BundleError", "ContractError", "CxrEdgeError", "EngineError", "InputError", "OutputError"]


class CxrEdgeError(Exception):
    """Base of all errors that cxr-edge raises on purpose."""


class InputError(CxrEdgeError):
    """This image or argument cannot be used; others may."""


class OutputError(CxrEdgeError):
    """The results could not be written."""


class BundleError(CxrEdgeError):
    """The bundle is missing something, was altered, or does not follow the format."""


class BackendError(CxrEdgeError):
    """This machine cannot run the model: a runtime is missing, fails, or has no engines that fit."""


class EngineError(BackendError):
    """The engines are missing, outdated, altered or from another machine; the message ends with the command to run."""


class ContractError(CxrEdgeError):
    """What was trained and what is deployed do not agree: preprocessing digest, tensor shapes or labels differ."""
