"""Who the person is to a registry: the auth files that docker, podman and skopeo keep (containers-auth.json(5))."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.errors import FetchError
from bundler.online.manifest.image_reference import ImageReference


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryLogin:
    """A user and a password, as an HTTP header; shown to nobody but the registry."""

    header: str = field(repr=False)


def find_login(reference: ImageReference) -> RegistryLogin | None:
    """What the first auth file that knows a registry has for it, the nearest entry first; None: nothing.

    Raises FetchError where a file can't be read, or leaves it to a helper that only skopeo can ask.
    """
    for path in _list_auth_files():
        try:
            said = json.loads(path.read_bytes())
            entries, helpers = said.get("auths", {}), said.get("credHelpers", {})
            found = _find_entry(entries, reference)
            helped = _find_entry(helpers, reference) or (said.get("credsStore") if found is not None else "")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as error:
            hint = "log in again, or have REGISTRY_AUTH_FILE name another"
            raise FetchError("this auth file can't be read", where=str(path), hint=hint) from error
        if found and found.get("identitytoken"):
            hint = "install skopeo, which knows such tokens"
            raise FetchError(f"{reference.api_host} gave a token instead of a password", where=str(path), hint=hint)
        if found and "auth" in found:
            return RegistryLogin(header=f"Basic {_check_auth(found['auth'], path)}")
        if helped:
            hint = "install skopeo, which asks such helpers, or log in with REGISTRY_AUTH_FILE naming a plain file"
            raise FetchError(
                f"the credentials for {reference.api_host} are kept by a helper ({helped})", where=str(path), hint=hint
            )
    return None


def _list_auth_files() -> Iterator[Path]:
    """Auth files, the strongest first."""
    if told := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(told)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers", "auth.json")
    elif hasattr(os, "getuid"):  # where no session was begun, as for root in CI
        yield Path(f"/run/containers/{os.getuid()}/auth.json")
    yield Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "containers", "auth.json")
    yield Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json")


def _find_entry(entries: dict[str, Any], reference: ImageReference) -> Any:
    """The entry for the repository, for a folder above it, or for the host; docker writes an address for its own."""
    keys = [f"{reference.registry}/{reference.repository}"]
    while "/" in keys[-1]:
        keys.append(keys[-1].rpartition("/")[0])
    for host in dict.fromkeys([reference.registry, reference.api_host]):
        keys += [f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
    if reference.registry == "docker.io":
        keys += ["https://index.docker.io/v1/", "index.docker.io"]
    return next((entries[key] for key in keys if key in entries), None)


def _check_auth(auth: object, path: Path) -> str:
    try:
        decoded = base64.b64decode(str(auth), validate=True)
        if b":" in decoded:
            return str(auth)
    except binascii.Error:
        pass
    raise FetchError("an entry of this auth file is no user and password", where=str(path), hint="log in again")
