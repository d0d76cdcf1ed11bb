"""This box as the signer of its own engines: the key that checks them, and the options that name it on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxr_edge.errors import BundleError
from cxr_edge.signing.engine_files import check_engine_files
from cxr_edge.signing.keys import PrivateKey, PublicKey
from cxr_edge.signing.state import BoxState, state_folder

__all__ = ["Box"]


@dataclass(frozen=True, kw_only=True)
class Box:
    """The box whose engines are accepted. It can be pickled, for engines that another process loads again."""

    public_key: PublicKey | None  # None: it has signed nothing yet, and no engine is accepted
    state: Path | None = None  # folder that was given; None: the user's
    trusted_keys: Path | None = None  # likewise; for the command that builds again

    @classmethod
    def of_state(cls, state: Path | None = None, trusted_keys: Path | None = None) -> Box:
        """Return the box with this state folder. Raises InputError if its key cannot be read."""
        key = BoxState(state_folder(state)).box_public_key()
        return cls(public_key=key, state=state, trusted_keys=trusted_keys)

    def signing_key(self) -> PrivateKey:
        """Return the key that signs engines, made if there is none. Raises InputError or OutputError."""
        return BoxState(state_folder(self.state)).box_key()

    def check_engines(self, folder: Path, *, backend: str) -> None:
        """Raise BundleError unless this box has signed exactly the files in the folder of a backend's engines."""
        if self.public_key is None:
            raise BundleError("were not signed by this box, which has no key yet")
        check_engine_files(folder, self.public_key, backend=backend)

    def cli_options(self) -> list[str]:
        """Return the command-line options that let a build sign its engines."""
        words = ["--require-signature"]
        words += [] if self.trusted_keys is None else ["--trusted-keys", str(self.trusted_keys)]
        return words + ([] if self.state is None else ["--state", str(self.state)])
