"""What a project's files say, as a manifest: each way to name a model, each way to say nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.errors import BundleError, HostError, ManifestError, UsageError
from bundler.format.lock.target import detect_target
from bundler.online.assets import tiktoken
from bundler.online.manifest import loading
from bundler.online.manifest.schema import Manifest, ModelSpec
from bundler.online.scaffold import manifest_writer
from bundler.online.scaffold.manifest_draft import Scaffold


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "project"


def draft_manifest(project: Path, **files: str) -> Scaffold:
    """The scaffold of a project that holds these files; / in a name is spelled __."""
    for name, text in files.items():
        path = project / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (project / "bundle.yaml").unlink(missing_ok=True)
    return manifest_writer.write_manifest(project, None)


def load_draft(scaffolded: Scaffold) -> Manifest:
    return loading.load_manifest(scaffolded.path).manifest


def models(project: Path, code: str, name: str = "app.py") -> tuple[ModelSpec, ...]:
    return load_draft(draft_manifest(project, **{name: code, "requirements.txt": "torch\n"})).models


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
        ('def load(name="org/m"):\n    return SentenceTransformer(name)', "repo:org/m"),
        ('def load(*, name="org/m"):\n    return SentenceTransformer(name)', "repo:org/m"),
        ('load = lambda name="org/m": SentenceTransformer(name)', "repo:org/m"),
        (
            (
                'class A:\n    def __init__(self, name="org/m"):\n        self.name = name\n'
                "    def load(self):\n        return SentenceTransformer(self.name)"
            ),
            "repo:org/m",
        ),
        ('class A:\n    NAME = "org/m"\n    def f(self):\n        A.from_pretrained(A.NAME)', "repo:org/m"),
        ('class S:\n    name: str = Field(default="org/m")\ns = S()\nSentenceTransformer(s.name)', "repo:org/m"),
        ('ORG = "org"\nSentenceTransformer(f"{ORG}/m")', "repo:org/m"),
        ('ORG = "org/"\nSentenceTransformer(ORG + "m")', "repo:org/m"),
        ('import os\nX = os.environ["X"] if x else "org/m"\nSentenceTransformer(X)', "repo:org/m"),
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
        'def ask(prompt, model="org/m"): ...',
        'def load(model_name="org/m"): ...',
        'NAME = "org/m"\ndef f(NAME):\n    return SentenceTransformer(NAME)',
        'MODEL = "org/m"\nclient.chat.completions.create(model=MODEL, messages=[])',
        'def ask(model="org/m"):\n    return ChatOpenAI(model=model, base_url="http://vllm:8000/v1")',
        'class Settings:\n    llm_model: str = "org/m"\n    llm_base_url: str = "http://vllm:8000/v1"',
        'import os\nLLM_MODEL = os.getenv("LLM_MODEL", "org/m")\nURL = os.getenv("LLM_BASE_URL")',
        'AutoModel.from_pretrained("model")',
    ],
)
def test_what_names_no_model(project: Path, code: str) -> None:
    assert names(project, code) == []


def test_all_that_a_name_may_be(project: Path) -> None:
    code = 'for name in ["org/a", "org/b"]:\n    SentenceTransformer(name)\nCrossEncoder("org/c" if x else "org/d")\n'
    assert names(project, code) == ["repo:org/a", "repo:org/b", "repo:org/c", "repo:org/d"]


def test_a_default_that_nothing_loads_is_for_a_person(project: Path) -> None:
    code = 'def ask(prompt, model="org/m"): ...\ndef load(name="org/n"):\n    return SentenceTransformer(name)\n'
    found = draft_manifest(project, **{"app.py": code})
    assert [one.source for one in load_draft(found).models] == ["repo:org/n"]
    assert found.open_points == ("app.py:1: model is org/m by default, and no code that loads it was found",)


def data(project: Path, code: str) -> list[tuple[str, ...]]:
    """The assets that a file asks for."""
    return [
        one.tiktoken or one.nltk
        for one in load_draft(draft_manifest(project, **{"app.py": code, "requirements.txt": "x\n"})).assets
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('import tiktoken\ntiktoken.get_encoding("cl100k_base")', [("cl100k_base",)]),
        ('import tiktoken as tk\ntk.get_encoding(encoding_name="o200k_base")', [("o200k_base",)]),
        ('from tiktoken import get_encoding as ge\nge("gpt2")', [("gpt2",)]),
        ('import tiktoken\ntiktoken.encoding_for_model("gpt-4o-2024-08-06")', [("o200k_base",)]),
        ('from tiktoken import encoding_for_model\nencoding_for_model(model_name="gpt-4")', [("cl100k_base",)]),
        ('import tiktoken\nNAME = "p50k_base"\nclass A:\n    e = tiktoken.get_encoding(NAME)', [("p50k_base",)]),
        (
            'import os, tiktoken\ntiktoken.get_encoding(os.getenv("ENCODING", "cl100k_base"))\ntiktoken.get_encoding("gpt2")',
            [("cl100k_base", "gpt2")],
        ),
        ('import tiktoken\ndef f(text, name="cl100k_base"):\n    tiktoken.get_encoding(name)', [("cl100k_base",)]),
        ('CharacterTextSplitter.from_tiktoken_encoder(encoding_name="cl100k_base")', [("cl100k_base",)]),
        ('import nltk\nnltk.download("punkt_tab")', [("punkt_tab",)]),
        ('import nltk as n\nn.download("punkt_tab", quiet=True)', [("punkt_tab",)]),
        ('from nltk import download\ndownload(info_or_id="punkt_tab")', [("punkt_tab",)]),
        ('import nltk\nnltk.download(["punkt_tab", "stopwords"])', [("punkt_tab", "stopwords")]),
        ('import nltk\nfor p in ("punkt_tab", "stopwords"):\n    nltk.download(p)', [("punkt_tab", "stopwords")]),
        ('import nltk\nPKGS = ["punkt_tab"]\n[nltk.download(p) for p in PKGS]', [("punkt_tab",)]),
        (
            'import nltk\ntry:\n    nltk.data.find("tokenizers/punkt_tab/english/")\nexcept LookupError:\n    nltk.download("punkt_tab")',
            [("punkt_tab",)],
        ),
        (
            'import nltk, tiktoken\nnltk.download("punkt_tab")\ntiktoken.get_encoding("gpt2")',
            [("punkt_tab",), ("gpt2",)],
        ),
        ('download("punkt_tab")\nget_encoding("gpt2")\nmodel.find("a/b")', []),
    ],
)
def test_data_that_libraries_fetch(project: Path, code: str, expected: list[tuple[str, ...]]) -> None:
    assert data(project, code) == expected


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('import tiktoken\ntiktoken.get_encoding(f"{kind}_base")', "tiktoken.get_encoding gets a name that only a run"),
        ("import tiktoken\ntiktoken.encoding_for_model(name)", "tiktoken.encoding_for_model gets a name that only"),
        (
            'import tiktoken\ntiktoken.get_encoding("mine")',
            "asks for 'mine', no encoding known here (assets: tiktoken)",
        ),
        ("import nltk\nnltk.download()", "nltk.download gets a name that only a run of the program can tell"),
        ('import nltk\nnltk.download("popular")', "asks for 'popular', a collection: list the packages that are used"),
    ],
)
def test_data_that_can_not_be_told(project: Path, code: str, said: str) -> None:
    found = draft_manifest(project, **{"app.py": code, "requirements.txt": "x\n"})
    (line,) = found.open_points
    assert line.startswith("app.py:2: ")
    assert said in line
    assert f"# look at {line}\n" in found.path.read_text()
    assert load_draft(found).assets == ()


def test_data_in_the_manifest_says_where(project: Path) -> None:
    found = draft_manifest(project, **{"a.py": 'import nltk\nnltk.download("punkt_tab")\n'})
    assert "assets:\n  # a.py:2 nltk.download\n  - nltk: [punkt_tab]\n" in found.path.read_text()
    assert "assets: nltk punkt_tab: a.py:2 nltk.download\n" in found.text
    assert found.document["assets"] == [{"nltk": ["punkt_tab"], "found": ["a.py:2 nltk.download"]}]


def test_the_encodings_of_models_are_the_library_s_own(libraries: Path) -> None:
    script = (
        "import json, tiktoken.model as m; "
        "print(json.dumps([m.MODEL_TO_ENCODING, {k + 'x': v for k, v in m.MODEL_PREFIX_TO_ENCODING.items()}]))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, env={"PYTHONPATH": str(libraries)})
    for known in json.loads(done.stdout):
        assert known
        assert {name: tiktoken.find_model_encoding(name) for name in known} == known
    assert tiktoken.find_model_encoding("claude") == ""


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
    found = draft_manifest(project, **{"a.ipynb": json.dumps({"cells": cells})})
    assert [one.source for one in load_draft(found).models] == ["repo:org/m"]
    assert found.models[0].locations == "a.ipynb, cell 3:2 SentenceTransformer"


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
    found = draft_manifest(project, **{"app.py": code})
    assert [one.revision for one in load_draft(found).models] == ["v1"]
    assert found.open_points == ("org/m: code asks for revisions v1 and v2; a bundle takes one of them (repo)",)


def test_models_whose_last_names_are_one_get_aliases(project: Path) -> None:
    code = 'A.from_pretrained("a/m")\nA.from_pretrained("b/M")\nload_dataset("a/m")\nA.from_pretrained("c/con")'
    found = load_draft(draft_manifest(project, **{"app.py": code}))
    assert [one.name for one in found.models] == ["m", "b-M", "m-data", "model"]


def test_folders_that_are_here(project: Path, tmp_path: Path) -> None:
    for place in (project / "vendor" / "hcx", tmp_path / "elsewhere" / "한 model"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
    code = (
        'AutoModel.from_pretrained("vendor/hcx")\nLLM_PATH = "./vendor/hcx"\n'
        f'AutoModel.from_pretrained({str(tmp_path / "elsewhere" / "한 model")!r})\nAutoModel.from_pretrained("/none")'
    )
    found = draft_manifest(project, **{"app.py": code, ".env": "HCX_MODEL_PATH=./vendor/hcx\n"})
    first, second = load_draft(found).models
    assert (first.path, first.name) == ("vendor/hcx", "hcx")
    assert (second.path, second.name) == ("../elsewhere/한 model", "model")
    assert load_draft(found).env == {"HCX_MODEL_PATH": "{model:hcx}"}
    assert found.open_points == (
        "app.py:4: from_pretrained names a folder that does not exist here, or no model of the hub",
    )


def test_folders_that_hold_no_model_are_never_carried(project: Path) -> None:
    code = 'A.from_pretrained(".")\nA.from_pretrained("src")\nA.from_pretrained("~nobody/x")\nMODEL = "%s"' % (
        "./a" * 400
    )
    found = draft_manifest(project, **{"app.py": code, "src__a.txt": "x", "requirements.txt": "x\n"})
    assert found.models == ()
    assert len(found.open_points) == 4


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
    found = draft_manifest(
        project, **{".env": ENV, ".env.example": "LLM_MODEL=org/l\n", ".env.offline": "LLM_MODEL=org/no\n"}
    )
    asked = load_draft(found)
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
    assert found.open_points == ()
    said = found.path.read_text() + found.text + json.dumps(found.document)
    assert not [secret for secret in SECRETS if secret in said]


@pytest.mark.parametrize(
    ("text", "carried"),
    [
        ("LLM_MODEL=org/l\nLLM_BASE_URL=http://vllm:8000/v1\n", False),
        ("LLM_MODEL_NAME=org/l\nLLM_API_BASE=http://me:hunter2@vllm:8000/v1\n", False),
        ("LLM_MODEL=./vendor/l\nLLM_ENDPOINT=vllm:8000\n", False),
        ("LLM_MODEL=org/l\nOPENAI_BASE_URL=${GATEWAY}\n", False),
        ("MODEL=org/l\nBASE_URL=https://models.example/v1\n", False),
        ("EMBEDDING_MODEL=org/l\nTEI_URL=http://tei:80\n", False),
        ("LLM_MODEL=org/l\nLLM_BASE_URL=\n", True),
        ("LLM_MODEL=org/l\n# LLM_BASE_URL=http://vllm:8000/v1\n", True),
        ("EMBEDDING_MODEL=org/l\nLLM_BASE_URL=http://vllm:8000/v1\n", True),
        ("LLM_MODEL=org/l\nDATABASE_URL=postgres://db/x\nAPI_URL=http://api:80\nHOST=0.0.0.0\n", True),
        ("LLM_MODEL=org/l\nLLM_MODEL_URL=https://huggingface.co/org/l\n", True),
    ],
)
def test_the_name_of_a_server_s_model_stays_a_name(project: Path, text: str, carried: bool) -> None:
    (project / "vendor" / "l").mkdir(parents=True)
    (project / "vendor" / "l" / "config.json").write_text("{}")
    found = draft_manifest(project, **{".env": text, "requirements.txt": "x\n"})
    asked = load_draft(found)
    assert (len(asked.models), len(asked.env), len(found.open_points)) == ((1, 1, 0) if carried else (0, 0, 1))
    said = found.path.read_text() + found.text
    assert "hunter2" not in said
    assert carried or "names a model of a server (.env:2 " in said


def test_what_a_program_loads_itself_is_carried_whatever_servers_there_are(project: Path) -> None:
    env = "LLM_MODEL=org/l\nLLM_BASE_URL=http://vllm:8000/v1\n"
    code = 'import os\nAutoModel.from_pretrained(os.environ["LLM_MODEL"])\n'
    found = draft_manifest(project, **{".env": env, "app.py": code})
    assert [one.source for one in load_draft(found).models] == ["repo:org/l"]
    assert (load_draft(found).env, found.open_points) == ({"LLM_MODEL": "{model:l}"}, ())


def test_servers_in_yaml_and_toml(project: Path) -> None:
    yaml = "llm:\n  model: org/l\n  base_url: http://vllm:8000\nembedding:\n  model: org/m\n"
    toml = '[llm]\nmodel = "org/k"\nbase_url = "http://vllm"\n[rerank]\nmodel = "org/r"\n'
    found = draft_manifest(project, **{"config.yaml": yaml, "settings.toml": toml})
    assert [one.source for one in load_draft(found).models] == ["repo:org/m", "repo:org/r"]
    assert [line.partition(": ")[0] for line in found.open_points] == ["config.yaml:2", "settings.toml:2"]


def test_a_setting_goes_before_a_default_in_code(project: Path) -> None:
    code = 'import os\nSentenceTransformer(os.getenv("EMBEDDING_MODEL", "org/m"))\n'
    found = draft_manifest(project, **{".env": "EMBEDDING_MODEL=org/other\n", "app.py": code})
    assert load_draft(found).env == {"EMBEDDING_MODEL": "{model:other}"}


def test_a_variable_that_code_reads_with_a_default(project: Path) -> None:
    code = 'import os\nSentenceTransformer(os.environ.get("EMBEDDING_MODEL", "org/m"))\n'
    assert load_draft(draft_manifest(project, **{"app.py": code})).env == {"EMBEDDING_MODEL": "{model:m}"}


def test_settings_in_yaml_and_toml(project: Path) -> None:
    yaml = (
        "rag:\n  embedding:\n    model: org/m # dense\n  type: a/b\nenvironment:\n  - LLM_MODEL=org/l\nuses: org/no\n"
    )
    found = draft_manifest(project, **{"config.yaml": yaml, "settings.toml": '[x]\nreranker = "org/r"\n'})
    assert [(one.name, one.locations) for one in found.models] == [
        ("org/m", "config.yaml:3 model"),
        ("org/l", "config.yaml:6 LLM_MODEL"),
        ("org/r", "settings.toml:2 reranker"),
    ]
    assert load_draft(found).env == {}


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
    [("==3.12.*", "3.12"), (">=3.10,<3.11", "3.10"), (">=3.12,<3.14", "3.13"), (">=3.9", detect_target().python)],
)
def test_what_pyproject_says(project: Path, says: str, python: str) -> None:
    found = draft_manifest(project, **{"pyproject.toml": PYPROJECT.replace("{python}", says)})
    asked = load_draft(found)
    assert (asked.name, asked.version, asked.target.python) == ("my-app", "1.2", python)
    assert asked.python.requirements == ("torch>=2",)
    assert found.project.excluded == (
        "own: it comes from a URL, but a bundle takes wheels only",
        "optional groups of pyproject.toml: gpu",
    )
    assert "hunter2" not in found.path.read_text() + found.text


def test_the_python_that_a_project_is_pinned_to(project: Path) -> None:
    found = draft_manifest(project, **{"requirements.txt": "torch\n", ".python-version": "3.12.4\n"})
    assert (load_draft(found).target.python, found.project.python_source) == ("3.12", ".python-version")


@pytest.mark.parametrize(
    ("text", "python", "says"),
    [
        ("FROM python:3.12-slim\n", "3.12", "Dockerfile:1 FROM python:3.12-slim"),
        ("# syntax\nfrom docker.io/library/python:3.12.4 as base\n", "3.12", "Dockerfile:2 FROM docker.io"),
        ("ARG V=3.12\nFROM --platform=linux/amd64 python:${V}-slim AS x\nFROM x\n", "3.12", "Dockerfile:2 FROM python"),
        ("FROM python:3.13 AS build\nFROM python:3.12-slim\nCOPY --from=build /a /a\n", "3.12", "Dockerfile:2"),
        ("FROM python:3.12 AS base\nFROM python:3.13 AS other\nFROM base\n", "3.12", "Dockerfile:1"),
        ("FROM python:3.12 AS build\nFROM gcr.io/distroless/base\n", "3.12", "Dockerfile:1"),
        ("FROM ghcr.io/astral-sh/uv:python3.12-bookworm-slim\n", "3.12", "Dockerfile:1"),
        ("FROM registry.example:5000/ubi9/python-312:1\n", "3.12", "Dockerfile:1"),
        ("FROM \\\n  python:3.12\n", "3.12", "Dockerfile:1"),
    ],
)
def test_the_python_of_a_dockerfile(project: Path, text: str, python: str, says: str) -> None:
    found = draft_manifest(
        project, **{"Dockerfile": text, "requirements.txt": "torch\n", ".python-version": f"{python}.1\n"}
    )
    assert load_draft(found).target.python == python
    assert found.project.python_source.startswith(says)
    assert f'  python: "{python}" # {says}' in found.path.read_text()
    assert found.open_points == ()


@pytest.mark.parametrize(
    ("files", "python", "says", "look"),
    [
        ({"runtime.txt": "python-3.12.4\n"}, "3.12", "runtime.txt", ()),
        ({".tool-versions": "nodejs 20\npython 3.12.1\n"}, "3.12", ".tool-versions", ()),
        ({".python-version": "# ours\n3.12\n"}, "3.12", ".python-version", ()),
        (
            {"Dockerfile": "FROM python:3.12\n", "runtime.txt": "python-3.11.1", ".python-version": "3.10\n"},
            "3.12",
            "Dockerfile:1 FROM python:3.12",
            ("runtime.txt: Python 3.11, not 3.12", ".python-version: Python 3.10, not 3.12"),
        ),
        (
            {"Dockerfile": "FROM python:3.8\n", ".python-version": "3.12\n"},
            "3.12",
            ".python-version",
            ("Dockerfile:1 FROM python:3.8: Python 3.8, but this tool supports CPython 3.10 to 3.14",),
        ),
        (
            {"Dockerfile": "FROM python:slim\n", "pyproject.toml": "[project]\nrequires-python = '==3.12.*'\n"},
            "3.12",
            "requires-python ==3.12.*",
            ("Dockerfile:1 FROM python:slim: does not say which Python",),
        ),
        (
            {"Dockerfile": "FROM python:3.12\n", "pyproject.toml": "[project]\nrequires-python = '>=3.13'\n"},
            "3.12",
            "Dockerfile:1 FROM python:3.12",
            ("Dockerfile:1 FROM python:3.12: Python 3.12, which requires-python >=3.13 does not permit",),
        ),
        ({"Dockerfile.offline": "FROM python:3.12\n"}, detect_target().python, "as on this machine", ()),
    ],
)
def test_which_python_goes_before_which(
    project: Path, files: dict[str, str], python: str, says: str, look: tuple[str, ...]
) -> None:
    found = draft_manifest(project, **files, **{"requirements.txt": "torch\n"})
    assert (load_draft(found).target.python, found.project.python_source, found.open_points) == (python, says, look)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM python:3.12-alpine\n", "has musl, but target.libc below is glibc"),
        ("FROM --platform=linux/arm64 python:3.12\n", "is for linux/arm64; compare target.platform below"),
        ("FROM nvidia/cuda:12.6.0-runtime-ubuntu22.04\n", "is for a GPU, but target.accelerator below is cpu"),
    ],
)
def test_what_an_image_says_of_the_host_is_said(project: Path, text: str, said: str) -> None:
    (line,) = draft_manifest(project, **{"Dockerfile": text, "requirements.txt": "torch\n"}).open_points
    assert line.startswith("Dockerfile:1 FROM ")
    assert line.endswith(said)


def test_the_target_is_written_and_not_this_machine_s_c_library(project: Path) -> None:
    found = draft_manifest(project, **{"requirements.txt": "torch\n"})
    target = load_draft(found).target
    assert (target.libc, target.accelerator, target.omitted_fields) == ("glibc-2.28", "cpu", ())
    assert target.platform == detect_target().platform
    lines = found.path.read_text().splitlines()
    start = lines.index("target: # the isolated host")
    assert all(" # " in line for line in lines[start + 1 : start + 5])


@pytest.mark.parametrize(
    ("text", "accelerator", "says"),
    [
        ("torch==2.13.0+cu126\n", "cu126", ": requirements.txt:1 names it"),
        (
            "# /whl/cu118\n--extra-index-url https://download.example/whl/rocm6.4\ntorch\n",
            "rocm6.4",
            ": requirements.txt:2",
        ),
        ("torch\nncu126\n", "cpu", "; others: cu126"),
    ],
)
def test_the_build_of_pytorch_that_requirements_name(project: Path, text: str, accelerator: str, says: str) -> None:
    found = draft_manifest(project, **{"requirements.txt": text})
    assert load_draft(found).target.accelerator == accelerator
    assert f"  accelerator: {accelerator} # build of PyTorch{says}" in found.path.read_text()


def test_files_of_requirements(project: Path) -> None:
    files = {"requirements.txt": "torch\n-e .\n", "requirements-gpu.txt": "x\n", "requirements-dev.txt": "pytest\n"}
    found = draft_manifest(project, **files, **{"pyproject.toml": PYPROJECT.replace("{python}", ">=3.10")})
    assert load_draft(found).python.requirements_files == ("requirements-gpu.txt", "requirements.txt")
    assert load_draft(found).python.requirements == ()
    assert "requirements-dev.txt: for development, as its name says" in found.project.excluded
    assert found.open_points == ("requirements.txt:2: names a folder or a URL, but a bundle takes wheels only",)


def test_every_finding_says_where_in_the_manifest_too(project: Path) -> None:
    text = draft_manifest(project, **{"a.py": 'MODEL = "org/m"\nSentenceTransformer(MODEL)'}).path.read_text()
    assert "  # a.py:1 MODEL\n  # a.py:2 SentenceTransformer\n  - repo: org/m\n" in text


def test_what_only_a_run_can_tell_is_said(project: Path) -> None:
    found = draft_manifest(
        project, **{"a.py": "def f(name):\n    return SentenceTransformer(name)\n", "requirements.txt": "x\n"}
    )
    said = "a.py:2: SentenceTransformer gets a name that only a run of the program can tell"
    assert found.open_points == (said,)
    assert f"# look at {said}\n" in found.path.read_text()
    assert f"look at: {said}\n" in found.text
    assert found.text.endswith(f"next: bundle lock {found.path}")


def test_files_that_can_not_be_read_as_python(project: Path) -> None:
    broken = {"a.py": "x = 1\ndef f(:\n", "b.ipynb": "[]", "c.py": "'\\d'\nSentenceTransformer('org/m')"}
    found = draft_manifest(project, **broken)
    assert [line.partition(",")[0] for line in found.open_points] == [
        "a.py:2: can't be parsed as Python",
        "b.ipynb: can't be parsed as Python",
    ]
    assert [one.name for one in found.models] == ["org/m"]


def test_an_expression_of_very_many_parts_ends_nothing(project: Path) -> None:
    code = "x = " + " + ".join(["'a'"] * 5000) + "\n"
    found = draft_manifest(project, **{"a.py": code, "b.py": "SentenceTransformer('org/m')"})
    assert [one.name for one in found.models] == ["org/m"]
    assert found.open_points == ("a.py: can't be parsed as Python, so its models are missing here",)


def test_a_constant_that_is_made_of_one_from_another_file(project: Path) -> None:
    code = "import app.config as c\nfrom app.config import ORG\nNAME = f'{ORG}/m'\nA.from_pretrained(NAME)\n"
    files = {"app__config.py": "ORG = 'org'\nMINE = 'org/n'\n", "main.py": code + "A.from_pretrained(c.MINE)\n"}
    assert [one.name for one in draft_manifest(project, **files).models] == ["org/m", "org/n"]


def test_folders_that_are_not_the_project_s_own_code(project: Path) -> None:
    (project / "mine").mkdir(parents=True)
    (project / "mine" / "pyvenv.cfg").write_text("")
    code = "SentenceTransformer('org/m')"
    there = ("tests", ".venv", "node_modules", "mine", "lib__site-packages", ".git")
    files = {f"{place}__a.py": code for place in there}
    assert draft_manifest(project, **files, **{"requirements.txt": "x\n"}).models == ()


def test_a_file_s_name_can_not_write_into_the_manifest(project: Path) -> None:
    found = draft_manifest(project, **{"a\nmodels: [].py": "SentenceTransformer('org/m')"})
    assert [one.source for one in load_draft(found).models] == ["repo:org/m"]


def test_an_output_elsewhere(project: Path, tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (project / "vendor").mkdir(parents=True)
    (project / "vendor" / "config.json").write_text("{}")
    (project / "requirements.txt").write_text("torch\n")
    (project / ".env").write_text("LLM_PATH=./vendor\n")
    asked = load_draft(manifest_writer.write_manifest(project, tmp_path / "manifests" / "mine.yaml"))
    assert (asked.models[0].path, asked.python.requirements_files) == (
        "../project/vendor",
        ("../project/requirements.txt",),
    )


def test_a_file_that_is_there_is_left_alone(project: Path) -> None:
    first = draft_manifest(project, **{"requirements.txt": "torch\n"})
    first.path.write_text("mine")
    with pytest.raises(UsageError, match="this file exists already"):
        manifest_writer.write_manifest(project, None)
    assert first.path.read_text() == "mine"


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ({}, ManifestError, "no packages and no models were found"),
        ({"pyproject.toml": "[project"}, ManifestError, "this is not TOML"),
        ({"pyproject.toml": "[project]\nrequires-python = '>=4'"}, ManifestError, "permits no supported Python"),
        (
            {"pyproject.toml": "[project]\nrequires-python = 'new'"},
            ManifestError,
            "requires-python is not a range of versions",
        ),
    ],
)
def test_nothing_is_written_where_there_is_nothing_to_say(
    project: Path, files: dict[str, str], kind: type[BundleError], message: str
) -> None:
    project.mkdir()
    with pytest.raises(kind, match=message) as caught:
        draft_manifest(project, **files)
    assert caught.value.hint or caught.value.where
    assert not (project / "bundle.yaml").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="there is no such folder"):
        manifest_writer.write_manifest(tmp_path / "none", None)
