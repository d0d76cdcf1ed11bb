"""Exception classes of cxr-edge.

Every error that a user can cause or meet derives from `CxrEdgeError`, so that one `except` catches all of them and
nothing else. A message names the expected and the actual value, the location, and the remedy; it never contains pixels or
a patient's identity.

    CxrEdgeError
    ├── InputError      this image cannot be screened; the next one may be
    ├── OutputError     the results cannot be written: disk full, reader of the output gone
    ├── BundleError     this model folder is incomplete, altered or malformed
    ├── BackendError    this machine cannot run the model (runtime missing, GPU out of memory)
    │   └── EngineError     its engines are missing, outdated, altered or of another machine: rebuild them
    └── ContractError   trained and deployed differently (preprocessing, shapes, labels)
"""

__all__ = ["BackendError", "BundleError", "ContractError", "CxrEdgeError", "EngineError", "InputError", "OutputError"]


class CxrEdgeError(Exception):
    """Base of all errors that cxr-edge raises on purpose."""


class InputError(CxrEdgeError):
    """This image or argument cannot be used; others may."""

    sha256 = ""  # hexadecimal, of a file's bytes that were read and cannot be used


class OutputError(CxrEdgeError):
    """The results could not be written."""


class BundleError(CxrEdgeError):
    """The bundle is incomplete, was altered, or does not follow the format."""


class BackendError(CxrEdgeError):
    """This machine cannot run the model: a runtime is missing, fails, or has no matching engines."""


class EngineError(BackendError):
    """The engines are missing, outdated, altered or from another machine; the message ends with the command to run."""


class ContractError(CxrEdgeError):
    """The trained and the deployed model differ in preprocessing digest, tensor shapes or labels."""
