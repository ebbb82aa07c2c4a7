"""Builds the demo bundle and installs it on this machine as an isolated host would.

Every step is a command that a person could type. It is printed before it runs.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "build" / "demo.bundle.tar"
TOOL = Path(sys.executable).with_name("bundle")


def run(*command: str | Path, keep: bool = False) -> str:
    """Print a command and run it; return its standard output if ``keep`` is true."""
    words = [os.fspath(part) for part in command]
    sys.stdout.write(f"\n$ {shlex.join(words)}\n")
    sys.stdout.flush()
    completed = subprocess.run(words, check=False, cwd=ROOT, stdout=subprocess.PIPE if keep else None)
    if completed.returncode:
        sys.exit(f"demo: {words[0]} ended with code {completed.returncode}")
    return completed.stdout.decode() if keep else ""


def main() -> None:
    """Run the builder, then the host, then print what was proven."""
    BUNDLE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bundle-demo-") as folder:
        builder, host = Path(folder, "builder"), Path(folder, "host")
        builder.mkdir()
        host.mkdir()
        passphrase = builder / "passphrase"
        passphrase.write_text(secrets.token_urlsafe())
        unlock: list[str | Path] = ["--passphrase-file", passphrase]
        sys.stdout.write("── builder, with a network ──\n")
        tool = TOOL.relative_to(ROOT) if TOOL.is_relative_to(ROOT) else TOOL  # short, for the reader of the output
        run(tool, "keygen", "-o", builder / "demo", *unlock)
        run(tool, "installer", "-o", builder / "bundle-installer.pyz")
        packed = BUNDLE.relative_to(ROOT)
        run(tool, "build", "manifests/demo.yaml", "-o", packed, "--key", builder / "demo.key", *unlock)
        sys.stdout.write("\n── isolated host ──\n")
        for file in (BUNDLE, builder / "bundle-installer.pyz", builder / "demo.pub"):
            shutil.copy(file, host)
        bundle, prefix = host / BUNDLE.name, host / "opt" / "demo"
        trust: list[str | Path] = ["--trust", host / "demo.pub"]
        python = "python3.11" if shutil.which("python3.11") else sys.executable
        installer: list[str | Path] = [python, "-I", "-S", host / "bundle-installer.pyz"]
        run(*installer, "verify", bundle, *trust)
        installed = json.loads(run(*installer, "install", bundle, "--prefix", prefix, *trust, "--json", keep=True))
        run(*installer, "list", "--prefix", prefix)
        lock = json.loads((prefix / "current" / "bundle.json").read_bytes())
        print_proof(installed["result"]["smoke"][0], lock)


def print_proof(proof: dict[str, Any], lock: dict[str, Any]) -> None:
    """Print what the smoke load proved; end the demo with an error if the proof is not as expected."""
    network, similarities, triples = proof["network"], proof["closer"], lock["smoke"]["closer"]
    goldens = [check for check in proof["checks"] if "of the rehearsal" in check]
    if not lock["rehearsed"] or len(goldens) != 2 or proof["calls"]:
        sys.exit(f"demo: the result differs from the rehearsal: {json.dumps(proof)}")
    if not (
        proof["ok"]
        and proof["width"] == 384
        and abs(proof["norm"] - 1) < 1e-3
        and len(similarities) == len(triples) > 0
    ):
        sys.exit(f"demo: the proof is not as expected: {json.dumps(proof)}")
    lines = [f"embedding   {proof['width']} wide, norm {proof['norm']:.6f}"]
    for (query, nearer, farther), similarity in zip(triples, similarities, strict=True):
        lines += [
            f"similarity  {query!r}",
            f"            {similarity['nearer']:6.3f}  {nearer!r}",
            f"            {similarity['farther']:6.3f}  {farther!r}",
        ]
    lines += [
        f"rehearsal   by the builder; here {'; '.join(goldens)}",
        f"network     {network['statement']}",
        f"            interfaces: {', '.join(network['interfaces'])}; {network['proof']}",
        f"time        import {proof['import_seconds']:.1f} s, load {proof['load_seconds']:.2f} s, first inference {proof['first_seconds']:.3f} s, second {proof['second_seconds']:.3f} s",
        f"memory      {proof['peak_rss_bytes'] / 2**20:.0f} MiB at most",
        "versions    " + ", ".join(f"{name} {version}" for name, version in proof["versions"].items()),
        f"checks      {len(proof['checks'])}: " + "; ".join(proof["checks"]),
    ]
    width = shutil.get_terminal_size().columns
    wrapped = [textwrap.fill(line, width, subsequent_indent=" " * 12, break_on_hyphens=False) for line in lines]
    sys.stdout.write("\n── proven on the isolated host ──\n" + "\n".join(wrapped) + "\n")


if __name__ == "__main__":
    main()
