"""DSSE envelopes, version 1: a payload with signatures over its type and its bytes, as a JSON file.

Specification: github.com/secure-systems-lab/dsse, protocol.md and envelope.md. What is signed is `pae(type, payload)`, so that no
canonical form of JSON is needed, and a payload of one type never passes for one of another.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from cxr_edge.signing.keys import PrivateKey, PublicKey
from cxr_edge.specs.json_fields import (
    FieldError,
    parse,
    read_field,
    read_list,
    require,
    require_keys,
    require_object,
)

__all__ = ["IN_TOTO", "Envelope", "Signature", "pae"]

IN_TOTO = "application/vnd.in-toto+json"  # payload type of in-toto's statements

_MOST_SIGNATURES = 16
_LONGEST_KEY_ID = 256
_URL_SAFE = str.maketrans("-_", "+/")


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One signature of an envelope."""

    key_id: str  # not signed: it only says which key to try; empty if it is not given
    sig: bytes

    @classmethod
    def from_json(cls, value: object) -> Signature:
        found = require_keys({"keyid": "", **require_object(value, "")}, ("keyid", "sig"))
        key_id = found["keyid"]
        require(isinstance(key_id, str) and len(key_id) <= _LONGEST_KEY_ID, "keyid", "a short text", key_id)
        return cls(key_id=key_id, sig=read_field(found, "sig", _decoded))


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A payload with its signatures, which nobody has verified yet."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @classmethod
    def sign(cls, payload: bytes, *keys: PrivateKey, payload_type: str = IN_TOTO) -> Envelope:
        """Return the payload signed with each of the keys."""
        data = pae(payload_type, payload)
        signatures = tuple(Signature(key_id=key.key_id, sig=key.sign(data)) for key in keys)
        return cls(payload_type=payload_type, payload=payload, signatures=signatures)

    def signed_by(self, key: PublicKey) -> bool:
        """Return whether a signature is this key's over payload and type."""
        data = pae(self.payload_type, self.payload)
        mine = (s for s in self.signatures if s.key_id in ("", key.key_id))
        return any(key.verify(data, s.sig) for s in mine)

    def as_bytes(self) -> bytes:
        """Return the content of its file."""
        signatures = [{"keyid": s.key_id, "sig": _encoded(s.sig)} for s in self.signatures]
        text = {"payloadType": self.payload_type, "payload": _encoded(self.payload), "signatures": signatures}
        return json.dumps(text, indent=1).encode() + b"\n"

    @classmethod
    def read(cls, data: bytes) -> Envelope:
        """Read the content of a file. Raises FieldError."""
        found = require_keys(parse(data), ("payloadType", "payload", "signatures"))
        kind = found["payloadType"]
        require(isinstance(kind, str) and 0 < len(kind) <= _LONGEST_KEY_ID, "payloadType", "a short text", kind)
        require(kind.isprintable(), "payloadType", "printable", kind)
        signatures = read_list(found, "signatures", Signature.from_json)
        least = 1 <= len(signatures) <= _MOST_SIGNATURES
        require(least, "signatures", f"a list of 1 to {_MOST_SIGNATURES}", len(signatures))
        return cls(payload_type=kind, payload=read_field(found, "payload", _decoded), signatures=signatures)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(value: object) -> bytes:
    """Return the bytes of base64, standard or URL-safe: the specification allows both."""
    require(isinstance(value, str), "", "base64", value)
    try:
        return base64.b64decode(str(value).translate(_URL_SAFE), validate=True)
    except (binascii.Error, ValueError):
        raise FieldError("", "must be base64") from None
