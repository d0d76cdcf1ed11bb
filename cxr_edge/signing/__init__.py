"""Signatures of bundles and engines: keys, statements, who is trusted, and the highest counter seen on this machine."""
