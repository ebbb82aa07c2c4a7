"""What lock, build and sign print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bundler.format.lock.entries import TRUSTED_INSTALLER, Artifact
from bundler.format.lock.lockfile import Lock
from bundler.output import digest_text, lock_text
from bundler.output.console import VerbResult
from bundler.progress import format_size, pluralize


def describe_lock(path: Path, lock: Lock, missing: Sequence[Artifact]) -> VerbResult:
    """Describe a new lock; `missing` are the artifacts that a build from it still has to fetch."""
    size = sum(artifact.size for artifact in missing)
    result = {
        "lock": str(path),
        "to_fetch": {"files": len(missing), "bytes": size},
        **lock_text.summarize_lock(lock),
    }
    text = f"{path}\n{lock_text.format_lock(lock)}"
    if missing:
        text += f"\n  to fetch   {pluralize(len(missing), 'file')}, {format_size(size)}; bundle build fetches them"
    return result, text


def format_build(path: Path, size: int, sha256: str, lock: Lock, signed_by: Sequence[str]) -> str:
    """Describe a new bundle; `size` is in bytes, `signed_by` are fingerprints."""
    models, wheels = pluralize(len(lock.models), "model"), pluralize(len(lock.python.packages), "wheel")
    lines = [
        f"{path}  ({format_size(size)})",
        *digest_text.format_file_digest(sha256),
        *digest_text.format_digests(lock),
        f"  target     {lock.target}",
        f"  {models}, {wheels}, {pluralize(len(lock.artifacts), 'file')}",
        f"  rehearsed  {lock_text.format_rehearsal(lock)}",
        *(f"  signed by  {fingerprint}" for fingerprint in signed_by),
        *_format_install_command(path, is_signed=bool(signed_by)),
    ]
    return "\n".join(lines)


def _format_install_command(path: Path, *, is_signed: bool) -> list[str]:
    if is_signed:
        return [
            f"On the isolated host, with the {TRUSTED_INSTALLER} and KEY.pub that you carried separately:",
            f"  python3 trusted/{TRUSTED_INSTALLER} install {path.name} --prefix DIR --trust trusted/KEY.pub",
        ]
    command = f"tar xf {path.name} bundle.pyz && python3 bundle.pyz install {path.name} --prefix DIR"
    return ["On the isolated host:", f"  {command}"]


def format_message(path: Path, message: bytes, lock: Lock) -> str:
    """Describe the exported bytes that another machine signs."""
    lines = [
        f"{path}  {len(message)} bytes to sign with Ed25519, without hashing them first",
        digest_text.format_line("of", f"{lock.name} {lock.version}, sequence {lock.sequence}"),
        *digest_text.format_digests(lock),
        digest_text.format_line("such as", f"openssl pkeyutl -sign -rawin -inkey KEY -in {path} -out SIG"),
    ]
    return "\n".join(lines)


def format_signed(path: Path, lock: Lock, signed_by: Sequence[str]) -> str:
    """Describe a bundle after it was signed."""
    lines = [
        f"{path}: {lock.name} {lock.version}, sequence {lock.sequence}",
        *digest_text.format_digests(lock),
        *(digest_text.format_line("signed by", fingerprint) for fingerprint in signed_by),
        "  The SHA-256 of the file has changed; the digests have not.",
    ]
    return "\n".join(lines)
