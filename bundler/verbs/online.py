"""The verbs of the side with a network."""

from __future__ import annotations

from pathlib import Path

import click

from bundler import describe
from bundler.bundle.hashing import digest_of
from bundler.console import Console
from bundler.errors import HostError
from bundler.verbs.verb import FILE, MANIFEST, Answer, verb


@verb("bundle lock manifests/demo.yaml -o demo.lock.json")
@MANIFEST
@click.option("-o", "--output", type=FILE, help="The lock's file; default: beside the manifest, .lock.json.")
def lock(*, manifest: Path, output: Path | None, report: Console) -> Answer:
    """Find out what exactly a manifest asks for, and write it down."""
    from bundler.online import build as building  # noqa: PLC0415 (the far side has no online rooms)

    locked = building.make_lock(manifest, building.workshop(report))
    path = output or manifest.with_suffix(".lock.json")
    building.write_lock(path, locked)
    return {"lock": str(path), **describe.summary(locked)}, f"{path}\n{describe.words(locked)}"


@verb("bundle build manifests/demo.yaml -o /media/usb/")
@MANIFEST
@click.option("-o", "--output", type=click.Path(), help="The bundle's file, or a folder for it.")
@click.option("--lock", "kept", type=FILE, help="Build exactly what this lock says.")
@click.option("--no-pickles", is_flag=True, help="Refuse models that hold pickles, which can run code when loaded.")
def build(*, manifest: Path, output: str | None, kept: Path | None, no_pickles: bool, report: Console) -> Answer:
    """Bring everything home that a manifest asks for and pack it as one file."""
    from bundler.online import build as building  # noqa: PLC0415 (the far side has no online rooms)

    if output and output.endswith("/") and not Path(output).is_dir():  # such as a stick that is not mounted
        raise HostError("there is no such folder", where=output, hint="create or mount it, or give another with -o")
    shop = building.workshop(report)
    built = building.build(manifest, Path(output) if output else None, kept, shop, no_pickles=no_pickles)
    result = {"bundle": str(built.path), "bytes": built.size, "digest": built.lock.digest}
    return result | describe.summary(built.lock), describe.built(built.path, built.size, built.lock)


@verb("bundle installer -o bundle.pyz")
@click.option("-o", "--output", type=FILE, default=Path("bundle.pyz"), show_default=True, help="Where to write it.")
def installer(*, output: Path, report: Console) -> Answer:  # noqa: ARG001 (every verb gets one)
    """Write the installer as one file, to be carried and checked apart from any bundle."""
    from bundler.online import installer as making  # noqa: PLC0415 (the far side has no online rooms)

    data = making.build()
    making.write(output, data)
    result = {"installer": str(output), "sha256": digest_of(data), "bytes": len(data)}
    return result, f"{digest_of(data)}  {output}"


VERBS = (lock, build, installer)
