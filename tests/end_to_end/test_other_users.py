"""The demo's release as root installed it, used by those who may only read it; started plainly, by no variable."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import InstalledBundle
from tests.support.programs import grant_read_access, require_tool

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user, and mount a folder")

REPO_ID = "sentence-transformers/all-MiniLM-L6-v2"
USER = 1234
AS_USER = (require_tool("setpriv"), f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
READ_ONLY = (
    'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && ! touch "$1/x" 2>/dev/null && shift && exec "$@"'
)
CODE = f"""
import json, os, sys
from sentence_transformers import SentenceTransformer
models = ["{REPO_ID}", *sys.argv[1:]]
widths = [SentenceTransformer(model).encode(["hello"]).shape[1] for model in models]
print(json.dumps({{"widths": widths, "cache": os.path.dirname(os.environ["HF_HOME"])}}))
"""


def used(demo: InstalledBundle, variables: dict[str, str], *before: str) -> tuple[dict[str, Any], str]:
    """What code says that loads every model by id and by path, from a read-only mount with no network; and standard
    error."""
    grant_read_access(demo.prefix)
    paths = [str(path) for path in sorted((demo.current / "models").iterdir())]
    command = [require_tool("unshare"), "-mn", "sh", "-c", READ_ONLY, "sh", str(demo.prefix), *before]
    done = subprocess.run(
        [*command, str(demo.python), "-c", CODE, *paths],
        check=False, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"], **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout)), done.stderr


def test_another_user_without_a_home_loads_every_model_by_id_and_by_path(demo: InstalledBundle, tmp_path: Path) -> None:
    grant_read_access(tmp_path)
    tmp_path.chmod(0o1777)
    told, said = used(demo, {"TMPDIR": str(tmp_path)}, *AS_USER)
    assert told["widths"] == [384, 384]
    (cache,) = tmp_path.iterdir()
    assert (told["cache"], cache.stat().st_uid, cache.stat().st_mode & 0o777) == (str(cache), USER, 0o700)
    assert "Could not reach the Hub" not in said


def test_another_user_with_a_home_and_root_load_from_a_read_only_mount(demo: InstalledBundle, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for owner, before in ((USER, AS_USER), (0, ())):
        os.chown(home, owner, owner)
        grant_read_access(home)
        told, _ = used(demo, {"HOME": str(home)}, *before)
        assert told == {"widths": [384, 384], "cache": str(home / ".cache" / "airgap-guard")}
        made = home / ".cache"
        assert {path.stat().st_uid for path in [made, *made.rglob("*")]} == {owner}
        made.rename(tmp_path / f"cache of {owner}")


def test_doctor_finds_nothing_that_keeps_other_users_from_it(demo: InstalledBundle) -> None:
    grant_read_access(demo.prefix)
    command = ["-I", "-S", demo.installer, "doctor", "--prefix", demo.prefix, "--json"]
    done = subprocess.run(
        [require_tool("python3.11"), *map(str, command)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    found = json.loads(done.stdout)["result"]["findings"]
    levels = {one["check"]: one["level"] for one in found if one["check"] in ("guard", "permissions", "packages")}
    assert levels == dict.fromkeys(("guard", "permissions", "packages"), "healthy"), done.stdout
