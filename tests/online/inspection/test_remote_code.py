"""Code that a model brings along: what runs, what it imports and fetches, and that nobody runs it unasked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from bundler.errors import ResolveError, UnsafeError
from bundler.online.inspection import kernels, references, remote_code
from bundler.online.inspection.model_files import UnreadableFileError


def make_reader(files: Mapping[str, str]) -> tuple[list[str], Callable[[str], bytes]]:
    return sorted(files), lambda name: files[name].encode()


CONFIG = json.dumps({"auto_map": {"AutoModel": "modeling.M", "AutoConfig": "org/code--configuration.C"}})
FILES = {"config.json": CONFIG, "modeling.py": "from .layers import L\n", "layers.py": "import torch\n"}


def test_code_is_refused_until_someone_has_said_so() -> None:
    with pytest.raises(UnsafeError) as caught:
        remote_code.require_trust_decision("m", *make_reader(FILES))
    assert str(caught.value).splitlines()[1:] == ["  modeling.py", "  layers.py", "  configuration.py of org/code"]
    assert "config.json: auto_map AutoModel" in str(caught.value)
    assert "'trust_remote_code: true'" in caught.value.hint
    remote_code.require_trust_decision("m", *make_reader({"config.json": "{}", "unused.py": ""}))


def test_modules_of_sentence_transformers_that_are_not_its_own_are_code() -> None:
    listed = [
        {"type": "sentence_transformers.models.Pooling"},
        {"type": "custom_st.Transformer"},
        {"type": "pkg.Class"},
    ]
    names, read = make_reader({"modules.json": json.dumps(listed), "custom_st.py": ""})
    assert [one.module for one in references.find_code(names, read)] == ["custom_st.py"]


def test_the_code_of_routers_and_of_both_tokenizers_is_found() -> None:
    files = {
        "router/router_config.json": json.dumps({"types": {"a": "org/st--own.Module"}}),
        "tokenizer_config.json": json.dumps({"auto_map": {"AutoTokenizer": ["tok.Slow", None]}}),
    }
    found = references.find_code(*make_reader(files))
    assert [(one.file, one.repo, one.module) for one in found] == [
        ("router/router_config.json", "org/st", "own.py"),
        ("tokenizer_config.json", "", "tok.py"),
    ]


def test_a_revision_of_the_code_is_read_where_libraries_read_it() -> None:
    files = {"config.json": CONFIG, "sentence_bert_config.json": json.dumps({"model_args": {"code_revision": "v2"}})}
    assert [(one.repo, one.revision) for one in references.find_code(*make_reader(files))] == [
        ("", ""),
        ("org/code", "v2"),
    ]


@pytest.mark.parametrize("value", ["modeling", "a/b/c--modeling.M", "--modeling"])
def test_a_class_that_is_none_is_named(value: str) -> None:
    with pytest.raises(ResolveError, match="which is not a class"):
        references.find_code(*make_reader({"config.json": json.dumps({"auto_map": {"AutoModel": value}})}))


def test_a_configuration_that_is_no_json_is_named() -> None:
    with pytest.raises(ResolveError, match=r"config\.json is not a JSON file"):
        references.find_code(*make_reader({"config.json": "{"}))


def test_imports_among_the_files_are_followed_and_lost_ones_named() -> None:
    files = {"sub/a.py": "from .b import x\nfrom .gone import y\n", "sub/b.py": "from .a import z\n"}
    assert remote_code.find_running_files(["sub/a.py"], *make_reader(files)) == (
        ["sub/a.py", "sub/b.py"],
        ["sub/gone.py"],
    )


def test_packages_are_those_that_transformers_asks_for() -> None:
    text = """
import os, einops
from flash_attn.layers import x
from . import own
try:
    import apex
except ImportError:
    apex = None
if is_xformers_available():
    import xformers
def late():
    from torchvision import ops
"""
    assert remote_code.find_imported_packages("a.py", make_reader({"a.py": text})[1]) == {
        "os",
        "einops",
        "flash_attn",
        "torchvision",
    }


def test_code_that_is_no_python_is_named() -> None:
    with pytest.raises(UnreadableFileError, match=r"a\.py is not Python"):
        remote_code.find_imported_packages("a.py", make_reader({"a.py": "def ("})[1])


def test_models_that_code_fetches_are_found() -> None:
    text = """
AutoModel.from_pretrained("org/one", revision="v1")
hf_hub_download(repo_id="org/two", filename="x")
CLIP.from_pretrained(self.config.tower)
AutoModel.from_pretrained(path)
AutoModel.from_pretrained("./folder")
"""
    found = list(remote_code.find_hub_calls("a.py", make_reader({"a.py": text})[1], {"tower": "org/three"}))
    said = [(one.reason, one.repo, one.revision) for one in found]
    assert said == [
        ("line 2 calls from_pretrained", "org/one", "v1"),
        ("line 3 calls hf_hub_download", "org/two", ""),
        ("line 4 calls from_pretrained", "org/three", ""),
    ]
    assert {(one.file, one.repo_type, one.is_guess) for one in found} == {("a.py", "model", True)}


def test_what_code_fetches_is_what_the_call_says_it_is() -> None:
    text = """
load_dataset("org/words", revision="v2")
load_dataset(path="org/more")
load_dataset("json", data_files="x.json")
hf_hub_download("org/rows", "x.csv", repo_type="dataset")
snapshot_download("org/flash", repo_type="kernel")
get_kernel("org/flash", version=2)
snapshot_download("org/shown", repo_type="space")
hf_hub_download("org/model", "x", repo_type=None)
"""
    found = remote_code.find_hub_calls("a.py", make_reader({"a.py": text})[1], {})
    assert [(one.repo_type, one.repo, one.revision) for one in found] == [
        ("dataset", "org/words", "v2"),
        ("dataset", "org/more", ""),
        ("dataset", "org/rows", ""),
        ("kernel", "org/flash", ""),
        ("kernel", "org/flash", "v2"),
        ("model", "org/model", ""),
    ], "readers of local files, and a Space, are nothing that a bundle can carry"


def test_models_that_configurations_name_are_found() -> None:
    config = {
        "_name_or_path": "org/harmless",
        "mm_vision_tower": "org/tower",
        "text_config": {"attn_implementation": "kernels-community/flash-attn3@v1:Layer", "_name_or_path": "x/y"},
        "backbone_config": {"backbone": "timm/x", "use_pretrained_backbone": True},
        "backbone": "timm/unused",
        "_attn_implementation": "sdpa",
        "vision_tower": "eva",
    }
    adapter = {"base_model_name_or_path": "org/base", "revision": "v3"}
    local = {"base_model_name_or_path": "/home/someone/base"}
    files = {"config.json": config, "a/adapter_config.json": adapter, "b/adapter_config.json": local}
    found = references.find_models(*make_reader({name: json.dumps(value) for name, value in files.items()}))
    assert [(one.file, one.repo, one.revision) for one in found] == [
        ("a/adapter_config.json", "org/base", "v3"),
        ("config.json", "org/tower", ""),
        ("config.json", "kernels-community/flash-attn3", "v1"),
        ("config.json", "timm/x", ""),
    ]
    assert [one.repo for one in found if one.repo_type == "kernel"] == ["kernels-community/flash-attn3"]


def test_kernels_of_layers_are_found_with_their_versions() -> None:
    layers = {"RMSNorm": "org/a:Norm", "MLP": {"cuda": "org/b:Mlp", "cpu": ["org/c:Mlp", {"version": 4}]}}
    found = references.find_models(*make_reader({"config.json": json.dumps({"kernel_config": layers})}))
    assert {(one.repo, one.revision) for one in found} == {("org/a", ""), ("org/b", ""), ("org/c", "v4")}
    assert {one.repo_type for one in found} == {"kernel"}


@pytest.mark.parametrize(
    ("repo", "torch", "version"),
    [
        ("org/flash", "2.13.0", "v1"),
        ("kernels-community/aiter-flash-attn", "2.13.0", "v2"),
        ("kernels-community/flash-attn2", "2.9.1+cpu", "v3"),
        ("kernels-community/flash-attn2", "2.13.0+cu128", "v4"),
        ("kernels-community/flash-attn2", "", "v4"),
    ],
)
def test_a_kernel_without_a_version_is_asked_for_as_transformers_does(repo: str, torch: str, version: str) -> None:
    assert kernels.get_default_version(repo, torch) == version
