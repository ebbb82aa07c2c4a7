"""Certificates for a test, from an authority that nobody trusts."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import require_tool


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority, and a certificate with its key in one file for 127.0.0.1 that it signed."""

    authority: Path
    leaf: Path

    def for_a_server(self, *, asks_back: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.leaf)
        if asks_back:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.authority)
        return context


def make_certificates(folder: Path) -> Certificates:
    """Make an authority and a leaf with openssl."""
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions"]
    for arguments in (
        ["req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=a test"],
        ["req", *new_key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=127.0.0.1"],
        ["x509", "-req", "-in", "leaf.csr", *signed, "-out", "leaf.pem"],
    ):
        subprocess.run([require_tool("openssl"), *arguments], cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "leaf.pem").read_text() + (folder / "leaf.key").read_text())
    return Certificates(folder / "ca.pem", both)
