"""Signatures of an installation: which bundles are accepted, whose engines are loaded, and the counter that is kept.

Folders of trusted keys and of this machine's state come in. A bundle that is not accepted raises BundleError.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxr_edge.bundle import Bundle
from cxr_edge.signing.box import Box as Signer
from cxr_edge.signing.verify import refuse_changeable, verify_bundle

__all__ = ["RequiredSignature"]


@dataclass(frozen=True, kw_only=True)
class RequiredSignature:
    """Requirements of `--require-signature` on a bundle and its engines."""

    trusted_keys: Path | None = None  # folder; None for the default
    state: Path | None = None  # likewise

    @property
    def signer(self) -> Signer:
        """This machine, whose engines alone are loaded, and which signs those that it builds."""
        return Signer.of_state(self.state, self.trusted_keys)

    def accept(self, bundle: Bundle, *, older: bool = False) -> None:
        """Raise BundleError unless a trusted key has signed the bundle, and it is not older than what was in use (or `older`)."""
        refuse_changeable(bundle)
        verify_bundle(bundle, self.trusted_keys, state=self.state, record=False, allow_rollback=older)

    def keep(self, bundle: Bundle, *, older: bool = False) -> None:
        """Keep the counter of a bundle, so that older ones are refused from now on; `older`: counting begins again with it."""
        verify_bundle(bundle, self.trusted_keys, state=self.state, allow_rollback=older)
