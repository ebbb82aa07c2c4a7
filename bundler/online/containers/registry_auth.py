"""Logins to registries, from the auth files of docker, podman and skopeo (containers-auth.json(5))."""

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
    """User and password as the value of an Authorization header; its repr hides them."""

    header: str = field(repr=False)


def find_login(reference: ImageReference) -> RegistryLogin | None:
    """Return the login of the first auth file that has one for the registry; None where no file has.

    Raises FetchError where a file can't be read, or where only skopeo can use its token or credential helper.
    """
    for path in _list_auth_files():
        try:
            document = json.loads(path.read_bytes())
            entry = _find_entry(document.get("auths", {}), reference)
            helper = _find_entry(document.get("credHelpers", {}), reference)
            helper = helper or (document.get("credsStore") if entry is not None else "")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as error:
            hint = "log in again, or name another file in REGISTRY_AUTH_FILE"
            raise FetchError("this auth file can't be read", where=str(path), hint=hint) from error
        if entry and entry.get("identitytoken"):
            hint = "install skopeo, which can use such tokens"
            raise FetchError(
                f"the login to {reference.api_host} is an identity token, not a password", where=str(path), hint=hint
            )
        if entry and "auth" in entry:
            return RegistryLogin(header=f"Basic {_check_auth(entry['auth'], path)}")
        if helper:
            hint = "install skopeo, which can use such helpers, or log in with REGISTRY_AUTH_FILE set to a plain file"
            raise FetchError(
                f"a credential helper ({helper}) keeps the login to {reference.api_host}", where=str(path), hint=hint
            )
    return None


def _list_auth_files() -> Iterator[Path]:
    """Yield the auth files by precedence, the strongest first."""
    if configured := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(configured)
    if runtime_dir := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime_dir, "containers", "auth.json")
    elif hasattr(os, "getuid"):  # without a login session, as for root in CI
        yield Path(f"/run/containers/{os.getuid()}/auth.json")
    yield Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "containers", "auth.json")
    yield Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json")


def _find_entry(entries: dict[str, Any], reference: ImageReference) -> Any:
    """Return the entry for the repository, for a prefix of it, or for the host; docker writes some hosts as URLs."""
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
    raise FetchError("an entry of this auth file is not a user and password", where=str(path), hint="log in again")
