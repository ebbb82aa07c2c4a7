"""A route without pickles: refused where they are built and where they arrive, also where the lock does not list them."""

from __future__ import annotations

import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.bundles import PackedBundle
from tests.support.programs import run_bundle
from tests.support.small_bundles import MANIFEST, SmallBundle

REBUILD = b"\x80\x02ctorch._utils\n_rebuild_parameter\n."


def test_pickles_are_listed_and_refused_on_both_sides(
    build: Callable[..., SmallBundle], run_installer: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    files = {"config.json": b"{}", "heads/w.pt": REBUILD, "vocabulary.bin": b"no pickle, but named like one"}
    small = build(files=files)
    told = json.loads(run_installer("inspect", small.path, "--json").stdout)["result"]["models"][0]["pickles"]
    assert [(one["path"], one["globals"]) for one in told] == [
        ("models/m/heads/w.pt", ["torch._utils._rebuild_parameter"])
    ]
    assert (
        "heads/w.pt  suspicious: imports torch._utils._rebuild_parameter" in run_installer("inspect", small.path).stdout
    )

    done = run_installer("install", small.path, "--prefix", tmp_path / "opt", "--no-pickles")
    assert (done.returncode, done.stdout) == (8, "")
    assert "  models/m/heads/w.pt\n  models/m/vocabulary.bin" in done.stderr
    assert not (tmp_path / "opt").exists()

    out = tmp_path / "out.bundle.tar"
    done = run_bundle(
        "build", "--no-rehearse", small.manifest, "-o", out, "--no-pickles", "--quiet", env=small.environment
    )
    assert (done.returncode, out.exists()) == (8, False)
    assert "  models/m/heads/w.pt\n  models/m/vocabulary.bin" in done.stderr
    assert run_installer("install", small.path, "--prefix", tmp_path / "opt").returncode == 0


def test_a_pickle_that_no_lock_lists_is_refused_where_it_arrives(
    pack: Callable[..., PackedBundle], run_installer: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    contents = {"bundle.pyz": b"#!", "models/m/config.json": b"{}", "models/m/weights.dat": pickle.dumps({"a": 1})}
    packed = pack(contents)
    for source, options in ((packed.path, {}), ("-", {"input": packed.path.read_bytes(), "text": False})):
        prefix = tmp_path / "opt"
        done = run_installer("install", source, "--prefix", prefix, "--no-pickles", "--json", **options)
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["code"]) == (8, 8)
        assert "models/m/weights.dat" in error["message"]
        assert list(prefix.glob("models/*")) == []


def test_a_dangerous_pickle_is_never_packed(build: Callable[..., SmallBundle], tmp_path: Path) -> None:
    small = build(files={"config.json": b"{}"})
    (small.manifest.parent / "vendor" / "w.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    out = tmp_path / "out.bundle.tar"
    done = run_bundle("build", "--no-rehearse", small.manifest, "-o", out, env=small.environment)
    assert (done.returncode, out.exists()) == (8, False)
    assert "w.bin imports os.system" in done.stderr


def test_code_of_a_model_is_asked_about_and_listed(
    build: Callable[..., SmallBundle], run_installer: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    text = MANIFEST.replace("loader: files", "loader: transformers{more}")
    config = json.dumps({"auto_map": {"AutoModel": "modeling.M"}}).encode()
    files = {"config.json": config, "modeling.py": b"x = 1\n", "tokenizer.json": b"{}", "model.safetensors": b"w"}
    small = build(files=files, text=text.replace("{more}", ", trust_remote_code: true"))
    said = run_installer("inspect", small.path).stdout
    assert "code that runs if trust_remote_code is on; a smoke load runs it:" in said
    assert "modeling.py" in said
    small.manifest.write_text(small.manifest.read_text().replace(", trust_remote_code: true", ""))
    done = run_bundle("lock", small.manifest, env=small.environment)
    assert done.returncode == 8
    assert "m has code of its own, which would run on the host (config.json: auto_map AutoModel):\n  modeling.py" in (
        done.stderr
    )


def test_what_is_known_not_to_work_stops_a_lock_until_silenced(build: Callable[..., SmallBundle]) -> None:
    small = build(files={"config.json": b"{}"})
    rule = "{id: ours, severity: error, what: alpha 1 breaks, do: take 2, link: 'https://wiki.example', when: WHEN}"
    rules = small.manifest.parent / "rules.yaml"
    rules.write_text(f"rules: [{rule}]".replace("WHEN", "{packages: {Alpha: '<2'}}"))
    small.manifest.write_text(small.manifest.read_text() + "lint: [rules.yaml]\n")
    done = run_bundle("lock", small.manifest, env=small.environment)
    assert done.returncode == 4
    assert "  alpha 1 breaks (here: alpha 1.0): take 2; see https://wiki.example [ours]" in done.stderr
    rules.write_text(rules.read_text().replace("error", "warning"))
    done = run_bundle("lock", small.manifest, env=small.environment)
    assert (done.returncode, "warning" in done.stderr, "alpha 1 breaks" in done.stderr) == (0, True, True)
