"""What a project's files say, as a manifest: each way to name a model, each way to say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundler.bundle.target import this_machine
from bundler.errors import BundleError, HostError, ManifestError, UsageError
from bundler.online import manifest, scaffold
from bundler.online.manifest import Manifest, WantedModel
from bundler.online.scaffold import Scaffold


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "project"


def made(project: Path, **files: str) -> Scaffold:
    """The scaffold of a project that holds these files; / in a name is spelled __."""
    for name, text in files.items():
        path = project / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (project / "bundle.yaml").unlink(missing_ok=True)
    return scaffold.write(project, None)


def loaded(scaffolded: Scaffold) -> Manifest:
    return manifest.load(scaffolded.path).manifest


def models(project: Path, code: str, name: str = "app.py") -> tuple[WantedModel, ...]:
    return loaded(made(project, **{name: code, "requirements.txt": "torch\n"})).models


def names(project: Path, code: str, name: str = "app.py") -> list[str]:
    """The sources of the models that a file names."""
    return [one.source for one in models(project, code, name)]


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ('AutoModel.from_pretrained("org/m")', "repo:org/m"),
        ('transformers.AutoTokenizer.from_pretrained("org/m")', "repo:org/m"),
        ('AutoModel.from_pretrained(pretrained_model_name_or_path="org/m")', "repo:org/m"),
        ('AutoModel.from_pretrained("bert-base-uncased")', "repo:bert-base-uncased"),
        ('SentenceTransformer("org/m")', "repo:org/m"),
        ('SentenceTransformer("all-MiniLM-L6-v2")', "repo:sentence-transformers/all-MiniLM-L6-v2"),
        ('SentenceTransformer("bert-base-uncased")', "repo:bert-base-uncased"),
        (
            'SentenceTransformer("bert-base-nli-mean-tokens")',
            "repo:sentence-transformers/bert-base-nli-mean-tokens",
        ),
        (
            'from sentence_transformers import SentenceTransformer as ST\nST("all-MiniLM-L6-v2")',
            "repo:sentence-transformers/all-MiniLM-L6-v2",
        ),
        ('CrossEncoder(model_name="ms-marco-MiniLM-L6-v2")', "repo:cross-encoder/ms-marco-MiniLM-L6-v2"),
        ('BGEM3FlagModel("BAAI/bge-m3", use_fp16=False)', "repo:BAAI/bge-m3"),
        ('FlagReranker("BAAI/bge-reranker-v2-m3")', "repo:BAAI/bge-reranker-v2-m3"),
        ('FlagAutoModel.from_finetuned("BAAI/bge-base-en-v1.5")', "repo:BAAI/bge-base-en-v1.5"),
        ('HuggingFaceEmbeddings(model_name="all-mpnet-base-v2")', "repo:sentence-transformers/all-mpnet-base-v2"),
        ('snapshot_download(repo_id="org/m")', "repo:org/m"),
        ('snapshot_download("org/d", repo_type="dataset")', "dataset:org/d"),
        ('load_dataset("org/d", split="train")', "dataset:org/d"),
        ('pipeline("text-generation", model="org/m")', "repo:org/m"),
        ('pipeline("text-generation", "org/m")', "repo:org/m"),
        ('NAME = "org/m"\nSentenceTransformer(NAME)', "repo:org/m"),
        ('NAME: str = "org/m"\ndef f():\n    return SentenceTransformer(NAME)', "repo:org/m"),
        ('import os\nSentenceTransformer(os.getenv("X", "org/m"))', "repo:org/m"),
        ('import os\nX = os.environ.get("X") or "org/m"\nSentenceTransformer(X)', "repo:org/m"),
        ('class Settings:\n    embedding_model: str = "org/m"', "repo:org/m"),
        ('def load(model_name="org/m"): ...', "repo:org/m"),
        ('def load(*, reranker="org/m"): ...', "repo:org/m"),
    ],
)
def test_a_model_that_code_names(project: Path, code: str, source: str) -> None:
    assert names(project, code) == [source]


@pytest.mark.parametrize(
    "code",
    [
        'load_dataset("csv", data_files="x.csv")',
        'MODEL = "openai/gpt-4o"',
        'MODEL = "anthropic/claude"',
        'model_path = "models/missing"',
        'MODEL_FILE = "weights/model.safetensors"',
        'MODEL_TYPE = "a/b"',
        'OTHER = "org/m"',
        'open("org/m")',
        'pipeline("text-generation")',
        "def load(model_name=None, *, other): ...",
        "SentenceTransformer(modules=[])",
        'AutoModel.from_pretrained("model")',
    ],
)
def test_what_names_no_model(project: Path, code: str) -> None:
    assert names(project, code) == []


def test_a_constant_of_another_file(project: Path) -> None:
    (project / "app").mkdir(parents=True)
    (project / "app" / "config.py").write_text('SHORT = "all-MiniLM-L6-v2"\n')
    code = "from .config import SHORT as NAME\nSentenceTransformer(NAME)\n"
    assert names(project, code, "app__main.py") == ["repo:sentence-transformers/all-MiniLM-L6-v2"]


def test_a_notebook(project: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["SentenceTransformer('org/prose')"]},
        {"cell_type": "code", "source": ["%pip install x\n", "NAME = 'org/m'\n"]},
        {"cell_type": "code", "source": ["!ls\n", "SentenceTransformer(NAME)"]},
    ]
    found = made(project, **{"a.ipynb": json.dumps({"cells": cells})})
    assert [one.source for one in loaded(found).models] == ["repo:org/m"]
    assert found.models[0].places == "a.ipynb, cell 3:2 SentenceTransformer"


def test_revisions_files_and_loaders(project: Path) -> None:
    code = (
        'AutoModel.from_pretrained("org/m", revision="v2")\nFlagReranker("org/r")\n'
        'hf_hub_download("org/g", "a.gguf")\nhf_hub_download(repo_id="org/g", filename="b.json")\n'
        'hf_hub_download("org/m", "config.json")\nMODEL_REPO = "org/g"\n'
        'hf_hub_download("org/d", "rows.csv", repo_type="dataset")\n'
    )
    m, r, g, d = models(project, code)
    assert (d.include, d.loader) == (("rows.csv",), None)
    assert (m.revision, m.include) == ("v2", ())
    assert (r.loader, r.revision) == ("flag-reranker", None)
    assert (g.include, g.loader) == (("a.gguf", "b.json"), "files")


def test_two_revisions_of_one_model_are_for_a_person_to_decide(project: Path) -> None:
    code = 'A.from_pretrained("org/m", revision="v1")\nA.from_pretrained("org/m", revision="v2")\n'
    found = made(project, **{"app.py": code})
    assert [one.revision for one in loaded(found).models] == ["v1"]
    assert found.open == ("org/m: asked for at v1 and v2; a bundle carries one of them (repo)",)


def test_models_whose_last_names_are_one_get_aliases(project: Path) -> None:
    code = 'A.from_pretrained("a/m")\nA.from_pretrained("b/M")\nload_dataset("a/m")\nA.from_pretrained("c/con")'
    found = loaded(made(project, **{"app.py": code}))
    assert [one.name for one in found.models] == ["m", "b-M", "m-data", "model"]


def test_folders_that_are_here(project: Path, tmp_path: Path) -> None:
    for place in (project / "vendor" / "hcx", tmp_path / "elsewhere" / "한 model"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
    code = (
        'AutoModel.from_pretrained("vendor/hcx")\nLLM_PATH = "./vendor/hcx"\n'
        f'AutoModel.from_pretrained({str(tmp_path / "elsewhere" / "한 model")!r})\nAutoModel.from_pretrained("/none")'
    )
    found = made(project, **{"app.py": code, ".env": "HCX_MODEL_PATH=./vendor/hcx\n"})
    first, second = loaded(found).models
    assert (first.path, first.name) == ("vendor/hcx", "hcx")
    assert (second.path, second.name) == ("../elsewhere/한 model", "model")
    assert loaded(found).env == {"HCX_MODEL_PATH": "{model:hcx}"}
    assert found.open == ("app.py:4: from_pretrained names a folder that is not here, or no model of the hub",)


def test_folders_that_hold_no_model_are_never_carried(project: Path) -> None:
    code = 'A.from_pretrained(".")\nA.from_pretrained("src")\nA.from_pretrained("~nobody/x")\nMODEL = "%s"' % (
        "./a" * 400
    )
    found = made(project, **{"app.py": code, "src__a.txt": "x", "requirements.txt": "x\n"})
    assert found.models == ()
    assert len(found.open) == 4


SECRETS = ("sk-abcdefghijklmnopqrst", "hf_abcdefghijklmnopqrstuv", "hunter2", "foo/bar", "org/secret")
ENV = f"""
# EMBEDDING_MODEL=org/commented
export EMBEDDING_MODEL=org/m   # the one
RERANK_MODEL="org/r"
ST_MODEL='all-MiniLM-L6-v2'
OPENAI_API_KEY={SECRETS[0]}
HF_TOKEN={SECRETS[1]}
MODEL_PASSWORD={SECRETS[3]}
LLM_API_KEY={SECRETS[4]}
MODEL_BASE=https://models.example/b
LLM_CONFIG=configs/llm.yaml
MODEL_URL=https://me:{SECRETS[2]}@models.example/a
HF_HOME=org/x
LOG_LEVEL=INFO
OPENAI_MODEL=gpt-4o
"""


def test_variables_that_name_a_model_and_secrets_that_stay(project: Path) -> None:
    found = made(project, **{".env": ENV, ".env.example": "LLM_MODEL=org/l\n", ".env.offline": "LLM_MODEL=org/no\n"})
    asked = loaded(found)
    assert [one.source for one in asked.models] == [
        "repo:org/m",
        "repo:org/r",
        "repo:sentence-transformers/all-MiniLM-L6-v2",
        "repo:org/l",
    ]
    assert asked.env == {
        "EMBEDDING_MODEL": "{model:m}",
        "LLM_MODEL": "{model:l}",
        "RERANK_MODEL": "{model:r}",
        "ST_MODEL": "{model:all-MiniLM-L6-v2}",
    }
    assert found.open == ()
    said = found.path.read_text() + found.words + json.dumps(found.document)
    assert not [secret for secret in SECRETS if secret in said]


def test_a_variable_that_code_reads_with_a_default(project: Path) -> None:
    code = 'import os\nSentenceTransformer(os.environ.get("EMBEDDING_MODEL", "org/m"))\n'
    assert loaded(made(project, **{"app.py": code})).env == {"EMBEDDING_MODEL": "{model:m}"}


def test_settings_in_yaml_and_toml(project: Path) -> None:
    yaml = (
        "rag:\n  embedding:\n    model: org/m # dense\n  type: a/b\nenvironment:\n  - LLM_MODEL=org/l\nuses: org/no\n"
    )
    found = made(project, **{"config.yaml": yaml, "settings.toml": '[x]\nreranker = "org/r"\n'})
    assert [(one.name, one.places) for one in found.models] == [
        ("org/m", "config.yaml:3 model"),
        ("org/l", "config.yaml:6 LLM_MODEL"),
        ("org/r", "settings.toml:2 reranker"),
    ]
    assert loaded(found).env == {}


PYPROJECT = """
[project]
name = "My App_한"
version = "1.2"
requires-python = "{python}"
dependencies = ["torch>=2", "own @ git+https://me:hunter2@git.example/own"]
[project.optional-dependencies]
gpu = ["flash-attn"]
"""


@pytest.mark.parametrize(
    ("says", "python"),
    [("==3.12.*", "3.12"), (">=3.10,<3.11", "3.10"), (">=3.12,<3.14", "3.13"), (">=3.9", this_machine().python)],
)
def test_what_pyproject_says(project: Path, says: str, python: str) -> None:
    found = made(project, **{"pyproject.toml": PYPROJECT.replace("{python}", says)})
    asked = loaded(found)
    assert (asked.name, asked.version, asked.target.python) == ("my-app", "1.2", python)
    assert asked.python.requirements == ("torch>=2",)
    assert found.project.beside == (
        "own: its source is an address, and only wheels travel",
        "optional groups of pyproject.toml: gpu",
    )
    assert "hunter2" not in found.path.read_text() + found.words


def test_the_python_that_a_project_is_pinned_to(project: Path) -> None:
    found = made(project, **{"requirements.txt": "torch\n", ".python-version": "3.12.4\n"})
    assert (loaded(found).target.python, found.project.python_says) == ("3.12", ".python-version")


def test_files_of_requirements(project: Path) -> None:
    files = {"requirements.txt": "torch\n-e .\n", "requirements-gpu.txt": "x\n", "requirements-dev.txt": "pytest\n"}
    found = made(project, **files, **{"pyproject.toml": PYPROJECT.replace("{python}", ">=3.10")})
    assert loaded(found).python.requirements_files == ("requirements-gpu.txt", "requirements.txt")
    assert loaded(found).python.requirements == ()
    assert "requirements-dev.txt: not for running, as its name says" in found.project.beside
    assert found.open == ("requirements.txt:2: names a folder or an address, and only wheels travel",)


def test_every_finding_says_where_in_the_manifest_too(project: Path) -> None:
    text = made(project, **{"a.py": 'MODEL = "org/m"\nSentenceTransformer(MODEL)'}).path.read_text()
    assert "  # a.py:1 MODEL\n  # a.py:2 SentenceTransformer\n  - repo: org/m\n" in text


def test_what_only_a_run_can_tell_is_said(project: Path) -> None:
    found = made(project, **{"a.py": "def f(name):\n    return SentenceTransformer(name)\n", "requirements.txt": "x\n"})
    said = "a.py:2: SentenceTransformer gets a name that only a run of the program can tell"
    assert found.open == (said,)
    assert f"# look at {said}\n" in found.path.read_text()
    assert f"look at: {said}\n" in found.words
    assert found.words.endswith(f"next: bundle lock {found.path}")


def test_files_that_can_not_be_read_as_python(project: Path) -> None:
    broken = {"a.py": "x = 1\ndef f(:\n", "b.ipynb": "[]", "c.py": "'\\d'\nSentenceTransformer('org/m')"}
    found = made(project, **broken)
    assert [line.partition(",")[0] for line in found.open] == [
        "a.py:2: can't be read as Python",
        "b.ipynb: can't be read as Python",
    ]
    assert [one.name for one in found.models] == ["org/m"]


def test_folders_that_are_not_the_project_s_own_code(project: Path) -> None:
    (project / "mine").mkdir(parents=True)
    (project / "mine" / "pyvenv.cfg").write_text("")
    code = "SentenceTransformer('org/m')"
    there = ("tests", ".venv", "node_modules", "mine", "lib__site-packages", ".git")
    files = {f"{place}__a.py": code for place in there}
    assert made(project, **files, **{"requirements.txt": "x\n"}).models == ()


def test_a_file_s_name_can_not_write_into_the_manifest(project: Path) -> None:
    found = made(project, **{"a\nmodels: [].py": "SentenceTransformer('org/m')"})
    assert [one.source for one in loaded(found).models] == ["repo:org/m"]


def test_an_output_elsewhere(project: Path, tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (project / "vendor").mkdir(parents=True)
    (project / "vendor" / "config.json").write_text("{}")
    (project / "requirements.txt").write_text("torch\n")
    (project / ".env").write_text("LLM_PATH=./vendor\n")
    asked = loaded(scaffold.write(project, tmp_path / "manifests" / "mine.yaml"))
    assert (asked.models[0].path, asked.python.requirements_files) == (
        "../project/vendor",
        ("../project/requirements.txt",),
    )


def test_a_file_that_is_there_is_left_alone(project: Path) -> None:
    first = made(project, **{"requirements.txt": "torch\n"})
    first.path.write_text("mine")
    with pytest.raises(UsageError, match="it is there already"):
        scaffold.write(project, None)
    assert first.path.read_text() == "mine"


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ({}, ManifestError, "no packages and no models were found"),
        ({"pyproject.toml": "[project"}, ManifestError, "this is not TOML"),
        ({"pyproject.toml": "[project]\nrequires-python = '>=4'"}, ManifestError, "permits no such Python"),
        ({"pyproject.toml": "[project]\nrequires-python = 'new'"}, ManifestError, "requires-python is not understood"),
    ],
)
def test_nothing_is_written_where_there_is_nothing_to_say(
    project: Path, files: dict[str, str], kind: type[BundleError], message: str
) -> None:
    project.mkdir()
    with pytest.raises(kind, match=message) as caught:
        made(project, **files)
    assert caught.value.hint or caught.value.where
    assert not (project / "bundle.yaml").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="there is no such folder"):
        scaffold.write(tmp_path / "none", None)
