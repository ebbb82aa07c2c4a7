"""Builds the demo bundle, carries it nowhere, and installs it as an isolated host would.

Every step is a command that a person could type; it is printed before it runs.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "build" / "demo.bundle.tar"
TOOL = Path(sys.executable).parent / "bundle"


def run(*command: str | Path, keep: bool = False) -> str:
    """Print a command and run it; its standard output when it is to be kept."""
    words = [os.fspath(part) for part in command]
    sys.stdout.write(f"\n$ {shlex.join(words)}\n")
    sys.stdout.flush()
    done = subprocess.run(words, check=False, cwd=ROOT, stdout=subprocess.PIPE if keep else None)
    if done.returncode:
        sys.exit(f"demo: {words[0]} ended with code {done.returncode}")
    return done.stdout.decode() if keep else ""


def main() -> None:
    """Online side, then the other side, then what was proven."""
    BUNDLE.parent.mkdir(exist_ok=True)
    sys.stdout.write("── the side with a network ──\n")
    run(TOOL, "build", "manifests/demo.yaml", "-o", BUNDLE)
    with tempfile.TemporaryDirectory(prefix="bundle demo ") as far:
        sys.stdout.write("\n── the side without ──\n")
        carried = Path(far, BUNDLE.name)
        shutil.copyfile(BUNDLE, carried)
        run("tar", "xf", carried, "-C", far, "bundle.pyz")
        prefix = Path(far, "opt", "demo")
        installer = [shutil.which("python3.11") or sys.executable, "-I", "-S", Path(far, "bundle.pyz")]
        run(*installer, "verify", carried)
        told = json.loads(run(*installer, "install", carried, "--prefix", prefix, "--json", keep=True))
        run(*installer, "list", "--prefix", prefix)
        say(told["result"]["smoke"][0])


def say(proof: dict[str, object]) -> None:
    """What the smoke load proved, or why the demo failed."""
    network = proof["network"]
    closer = proof["closer"]
    if not (proof["ok"] and proof["width"] == 384 and abs(float(str(proof["norm"])) - 1) < 1e-3 and closer):
        sys.exit(f"demo: the proof is not what it should be: {json.dumps(proof)}")
    sys.stdout.write("\n── proven on the far side ──\n")
    sys.stdout.write(f"embedding       {proof['width']} wide, norm {float(str(proof['norm'])):.6f}\n")
    for one in closer:  # type: ignore[attr-defined]
        sys.stdout.write(f"similarity      {one['query']!r}\n")
        sys.stdout.write(f"                {one['nearer']:.3f}  {one['nearer_text']!r}\n")
        sys.stdout.write(f"                {one['farther']:.3f}  {one['farther_text']!r}\n")
    sys.stdout.write(f"network         {network['statement']}\n")  # type: ignore[index]
    sys.stdout.write(f"                interfaces: {network['interfaces']}; {network['proof']}\n")  # type: ignore[index]
    sys.stdout.write(f"time            load {proof['load_seconds']:.2f} s, first inference {proof['first_seconds']:.3f} s, ")
    sys.stdout.write(f"second {proof['second_seconds']:.3f} s\n")
    sys.stdout.write(f"peak memory     {int(str(proof['peak_rss_bytes'])) / 2**20:.0f} MiB\n")
    sys.stdout.write(f"versions        {proof['versions']}\n")


if __name__ == "__main__":
    main()
