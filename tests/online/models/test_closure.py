"""What models reach for that nobody named: found in their files, pinned to a commit, and added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from bundler.errors import FetchError, ResolveError, UnsafeError
from bundler.format import documents
from bundler.format.hashing import Sha256, compute_file_sha256
from bundler.format.lock.target import Target
from bundler.online.manifest.loading import LoadedManifest
from bundler.online.manifest.schema import Manifest, ModelSpec
from bundler.online.models import closure, model_resolution
from bundler.online.models.closure import ModelClosure
from bundler.online.models.safetensors_conversion import ConversionContext
from bundler.online.packages.bundled_packages import BundledPackages
from bundler.online.packages.resolution import ResolvedWheel
from bundler.online.transfer.cache import FileCache
from bundler.online.transfer.context import BuildContext
from bundler.online.transfer.pip_config import PipConfig
from bundler.progress import RecordingReporter
from tests.support.servers.hub_server import Hub
from tests.support.wheelmaking import make_wheel

TARGET = Target(python="3.11", platform="linux-x86_64", libc="glibc-2.28", accelerator="cpu")


def configuration(**values: object) -> bytes:
    return json.dumps({"architectures": ["BertModel"], "vocab_size": 9} | values).encode()


def model(**files: bytes) -> dict[str, bytes]:
    """Files of a model that a loader takes; ``_py`` at the end of a name stands for ``.py``."""
    given = {name.replace("_py", ".py"): data for name, data in files.items() if name != "config"}
    config = files.get("config", configuration())
    return {"config.json": config, "tokenizer.json": b"{}", "model.safetensors": b"w" * 100} | given


CODE = "org/code--modeling.M"


@dataclass
class Site:
    """A hub, a shelf, and a way to lock models."""

    hub: Hub
    shop: BuildContext
    folder: Path
    wheels: list[ResolvedWheel] = field(default_factory=list)

    @property
    def report(self) -> RecordingReporter:
        report = self.shop.reporter
        assert isinstance(report, RecordingReporter)
        return report

    def offer(self, name: str, files: Mapping[str, bytes], kind: str = "models") -> str:
        return self.hub.repository(name, files, kind).refs["main"]

    def package(self, name: str, *tops: str) -> None:
        path = make_wheel(self.folder, name, "1.0", files={f"{top}/__init__.py": b"" for top in tops})
        size, sha256 = compute_file_sha256(path)
        self.wheels.append(
            ResolvedWheel(
                name=name,
                version="1.0",
                filename=path.name,
                origin=path.as_uri(),
                size=size,
                sha256=sha256,
                publisher="find-links",
                is_digest_published=False,
            )
        )

    def closed(self, *asked: ModelSpec, mode: str = "add") -> ModelClosure:
        whole = LoadedManifest(
            manifest=Manifest(name="n", version="1", models=asked), folder=self.folder, sha256=Sha256("0" * 64)
        )
        bench = ConversionContext(target=TARGET, packages=self.wheels, context=self.shop)
        return closure.find_closure(
            asked,
            mode,
            lambda wanted: model_resolution.resolve_model(wanted, whole, self.shop, bench),
            BundledPackages(self.wheels, self.shop),
            self.report,
        )

    def refused(self, *asked: ModelSpec, mode: str = "add") -> ResolveError:
        with pytest.raises(ResolveError) as caught:
            self.closed(*asked, mode=mode)
        return caught.value


@pytest.fixture
def site(hub: Hub, tmp_path: Path) -> Site:
    shop = BuildContext(cache=FileCache(tmp_path / "shelf"), config=PipConfig(timeout=10), reporter=RecordingReporter())
    return Site(hub, shop, tmp_path)


def make_spec(repo: str = "org/m", **more: object) -> ModelSpec:
    return ModelSpec(repo=repo, trust_remote_code=True, **more)  # type: ignore[arg-type]


def list_arrows(found: ModelClosure) -> list[tuple[str, str, str]]:
    return [(edge.model, edge.file, edge.to) for edge in found.edges]


def test_code_in_another_repository_is_pinned_and_added_with_what_it_imports(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE, "AutoConfig": CODE})))
    code = {"modeling.py": b"from .layers import L\n", "layers.py": b"import torch\n", "big.safetensors": b"w" * 9}
    commit = site.offer("org/code", code)
    found = site.closed(make_spec())
    added = found.models[1]
    assert (added.model.source, added.model.loader) == (f"repo:org/code@{commit}", "files")
    assert added.file_names == ["layers.py", "modeling.py"], "code alone, not its weights"
    assert list_arrows(found) == [("m", "config.json", "code")] * 2
    assert [edge.reason for edge in found.edges] == ["auto_map AutoModel", "auto_map AutoConfig"]
    assert "adds org/code as code (2 files, 35 bytes): m: config.json (auto_map AutoModel)" in site.report.notes[-1]


def test_what_is_awaited_comes_where_somebody_reads_it(site: Site) -> None:
    site.offer("org/m", model())
    (found,) = site.closed(make_spec()).models
    assert site.hub.storage.seen == []
    assert found.read_file("model.safetensors") == b"w" * 100


def test_a_kept_lock_finds_what_was_added_again(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE})))
    site.offer("org/code", {"modeling.py": b"", "odd [1].py": b"", "rest.txt": b""})
    added = site.closed(make_spec()).models[1]
    site.hub.repositories["org/code"].commit({"modeling.py": b"moved"})
    asked = closure.make_spec_from_lock(added.model, added.make_artifacts())
    whole = LoadedManifest(manifest=Manifest(name="n", version="1"), folder=site.folder, sha256=Sha256("0" * 64))
    found = model_resolution.collect_files(asked, whole, TARGET, site.shop, locked_source=added.model.source)
    assert sorted((file.path, file.sha256) for file in found.files) == [(f.path, f.sha256) for f in added.files]


def test_a_revision_of_the_code_becomes_a_name_in_the_hub_view(site: Site) -> None:
    extra = {"sentence_bert_config.json": json.dumps({"model_args": {"code_revision": "v2"}}).encode()}
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE})) | extra)
    site.offer("org/code", {"modeling.py": b"1"})
    second = site.hub.repositories["org/code"].commit({"modeling.py": b"2"}, ref="v2")
    found = site.closed(make_spec()).models[1].model
    assert (found.commit, found.revisions) == (second, ("v2",))


BASE_AT_V2 = json.dumps({"base_model_name_or_path": "org/base", "revision": "v2"}).encode()


def parse_line(line: str) -> ModelSpec:
    """What a line that an error shows asks for, as the manifest reads it."""
    return documents.decode(ModelSpec, yaml.safe_load(line.strip().removeprefix("- ")))


def test_another_revision_than_the_one_here_is_an_error_with_the_line_that_cures_it(site: Site) -> None:
    site.offer("org/m", {"adapter_config.json": BASE_AT_V2})
    site.offer("org/base", model())
    second = site.hub.repositories["org/base"].commit(model(more=b"2"), ref="v2")
    error = site.refused(make_spec("org/base"), make_spec(loader="files"))
    assert "names org/base at revision v2, and the bundle has another revision" in str(error)
    assert "replace the entry of base in models with this:" in error.hint
    found = site.closed(parse_line(error.hint.splitlines()[-1]), make_spec(loader="files"))
    assert found.models[0].model.commit == second


def test_two_revisions_of_what_was_added_are_cured_by_a_line_of_its_own(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/base")))
    site.offer("org/two", {"adapter_config.json": BASE_AT_V2})
    site.offer("org/base", model())
    second = site.hub.repositories["org/base"].commit(model(more=b"2"), ref="v2")
    asked = [make_spec(), make_spec("org/two", loader="files")]
    error = site.refused(*asked)
    assert error.hint.endswith("add this to models:\n  - {repo: org/base, revision: v2, loader: files}")
    found = site.closed(*asked, parse_line(error.hint.splitlines()[-1]))
    assert found.models[2].model.commit == second


def test_another_revision_is_a_warning_where_nothing_stops(site: Site) -> None:
    site.offer("org/m", {"adapter_config.json": BASE_AT_V2})
    site.offer("org/base", model())
    found = site.closed(make_spec("org/base"), make_spec(loader="files"), mode="warn")
    assert list_arrows(found) == [("m", "adapter_config.json", "base")], "it goes on with the one that is here"
    assert "names org/base at revision v2, and the bundle has another revision" in site.report.warnings[-1]


@pytest.mark.parametrize("mode", ["add", "report"])
def test_another_revision_that_only_code_names_is_a_warning(site: Site, mode: str) -> None:
    text = b"def unused():\n    return A.from_pretrained('org/base', revision='refs/pr/3')\n"
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "modeling.M"}), modeling_py=text))
    site.offer("org/base", model())
    found = site.closed(make_spec("org/base"), make_spec(), mode=mode)
    assert list_arrows(found) == [("m", "modeling.py", "base")]
    assert "names org/base at revision refs/pr/3, and the bundle has another" in site.report.warnings[-1]


@pytest.mark.parametrize("revision", ["1.0", "2024-01-01", "no"])
def test_lines_that_ask_for_it_are_yaml_whatever_the_revision(site: Site, revision: str) -> None:
    adapter = json.dumps({"base_model_name_or_path": "org/base", "revision": revision}).encode()
    site.offer("org/m", {"adapter_config.json": adapter})
    error = site.refused(make_spec(loader="files"), mode="report")
    assert parse_line(error.hint.splitlines()[-1]).revision == revision


def test_lines_that_ask_for_it_have_names_of_their_own(site: Site) -> None:
    config = configuration(vision_tower="Other/M", auto_map={"AutoModel": "third/M--modeling.M"})
    site.offer("org/m", model(config=config))
    lines = [parse_line(line) for line in site.refused(make_spec(), mode="report").hint.splitlines()[1:]]
    assert {line.name for line in lines} == {"Other-M", "third-M"}


def test_the_base_of_an_adapter_comes_along_and_what_that_needs_too(site: Site) -> None:
    site.offer(
        "org/m", {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": b"w"}
    )
    site.offer("org/base", model(config=configuration(auto_map={"AutoModel": CODE})))
    site.offer("org/code", {"modeling.py": b"A.from_pretrained('org/more')\n"})
    site.offer("org/more", model())
    found = site.closed(make_spec(loader="files"))
    assert list_arrows(found) == [
        ("m", "adapter_config.json", "base"),
        ("base", "config.json", "code"),
        ("code", "modeling.py", "more"),
    ]
    assert "model.safetensors" in found.models[1].file_names, "a base is carried whole"
    assert found.edges[-1].reason == "line 1 calls from_pretrained"


def test_a_base_without_an_owner_is_found_and_a_folder_is_named(site: Site) -> None:
    site.offer("org/m", {"adapter_config.json": b'{"base_model_name_or_path": "/home/x/base"}'})
    assert site.closed(make_spec(loader="files")).edges == ()
    assert "'/home/x/base' as its base model, a folder of the machine that trained it" in site.report.warnings[-1]
    site.offer("org/m", {"adapter_config.json": b'{"base_model_name_or_path": "gpt2"}'})
    assert site.closed(make_spec(loader="files")).edges == ()
    assert "names gpt2, which can't be resolved" in site.report.warnings[-1], "the hub here knows no such names"


def test_what_can_not_be_read_is_an_error_unless_nothing_loads_it(site: Site) -> None:
    site.offer("org/m", model() | {"modules.json": b"[{"})
    assert "m: modules.json is not a JSON file" in str(site.refused(make_spec(loader="transformers")))
    site.closed(make_spec(loader="files"))
    assert "m: modules.json is not a JSON file" in site.report.warnings[-1]


def test_code_for_a_newer_python_is_said_and_no_error(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "modeling.M"}), modeling_py=b"match = = 1"))
    assert site.closed(make_spec()).edges == ()
    assert "modeling.py is not Python that this Python can read" in site.report.warnings[-1]


def test_templates_and_settings_that_stay_behind_are_named(site: Site) -> None:
    site.offer("org/m", model() | {"chat_template.jinja": b"{}", "generation_config.json": b"{}", "notes.txt": b""})
    site.closed(make_spec(include=("config.json", "tokenizer.json", "*.safetensors"), loader="files"))
    assert "org/m: chat_template.jinja, generation_config.json do not travel" in site.report.warnings[-1]


def test_circles_end(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/other")))
    site.offer("org/other", model(config=configuration(vision_tower="org/m")))
    assert list_arrows(site.closed(make_spec())) == [("m", "config.json", "other"), ("other", "config.json", "m")]


def test_what_is_there_is_not_added_again(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "org/m--modeling.M"}), modeling_py=b""))
    site.offer("org/two", model(config=configuration(vision_tower="org/m")))
    found = site.closed(make_spec(), make_spec("org/two"))
    assert [one.model.alias for one in found.models] == ["m", "two"]
    assert list_arrows(found) == [("two", "config.json", "m")]


def test_models_of_folders_are_followed_into_the_hub(site: Site) -> None:
    (site.folder / "vendor").mkdir()
    (site.folder / "vendor" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    site.offer("org/base", model())
    found = site.closed(ModelSpec(path="vendor", loader="files"))
    assert list_arrows(found) == [("vendor", "adapter_config.json", "base")]


def test_code_that_was_added_grows_to_a_model_where_one_is_needed(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE}, vision_tower="org/code")))
    site.offer("org/code", model(modeling_py=b""))
    found = site.closed(make_spec())
    assert "model.safetensors" in found.models[1].file_names


def test_two_repositories_of_one_last_name_get_two_aliases(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="Other/M")))
    site.offer("Other/M", model())
    assert [one.model.alias for one in site.closed(make_spec()).models] == ["m", "Other-M"]


def test_reporting_shows_the_lines_that_ask_for_it(site: Site) -> None:
    config = configuration(auto_map={"AutoModel": CODE}, vision_tower="org/tower")
    site.offer("org/m", model(config=config))
    error = site.refused(make_spec(), mode="report")
    assert "m: config.json (auto_map AutoModel) names org/code" in str(error)
    assert error.hint.splitlines()[1:] == [
        '  - {repo: org/code, revision: main, loader: files, include: ["*.py"]}',
        "  - {repo: org/tower, revision: main, loader: files}",
    ]
    site.offer("org/code", {"modeling.py": b""})
    site.offer("org/tower", model())
    listed = [make_spec("org/code", revision="main", loader="files", include=("*.py",)), make_spec("org/tower")]
    assert len(site.closed(make_spec(), *listed, mode="report").edges) == 2, "what it showed is enough"


def test_warning_leaves_it_out_and_says_so(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/tower")))
    assert site.closed(make_spec(), mode="warn").edges == ()
    assert site.report.warnings == [
        "m: config.json (vision_tower, loaded on its own) names org/tower, which is not in the bundle"
    ]


def test_code_that_can_not_be_had_is_an_error_and_a_model_a_warning(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/gone")))
    assert site.closed(make_spec()).edges == ()
    assert (
        "names org/gone, which can't be resolved: org/gone: the hub knows no such repository" in site.report.warnings[0]
    )
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE})))
    assert "m: config.json (auto_map AutoModel) names org/code: org/code: the hub knows" in str(
        site.refused(make_spec())
    )


def test_terms_to_accept_say_who_asks(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/gated")))
    site.offer("org/gated", model())
    site.hub.repositories["org/gated"].gated = True
    with pytest.raises(FetchError, match=r"m: config\.json .* names org/gated: org/gated is gated"):
        site.closed(make_spec())


def test_files_that_the_choice_left_behind_are_named(site: Site) -> None:
    config = configuration(auto_map={"AutoModel": "modeling.M"})
    files = model(config=config, modeling_py=b"from .layers import L\n", layers_py=b"")
    site.offer("org/m", files)
    error = site.refused(make_spec(exclude=("layers.py",)))
    assert "runs layers.py, which is not among the files of m" in str(error)
    assert "include and exclude" in error.hint


def test_packages_that_code_imports_are_named_where_none_brings_them(site: Site) -> None:
    text = b"import os, einops, cv2, own_thing, flash_attn\ntry:\n    import apex\nexcept ImportError:\n    pass\n"
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "modeling.M"}), modeling_py=text))
    assert site.closed(make_spec()).edges == (), "a bundle without packages leaves them to its host"
    site.package("einops")
    site.package("opencv-python-headless")
    site.package("by-another-name", "own_thing")
    error = site.refused(make_spec())
    assert (
        "m: config.json (auto_map AutoModel) runs modeling.py, which imports flash_attn: no package of the bundle has that"
        in str(error)
    )
    assert "python.requirements" in error.hint


@pytest.mark.parametrize(
    ("values", "packages", "words"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, ["accelerate"], "needs the package bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq"}}, ["optimum"], "needs the package gptqmodel or auto-gptq"),
        ({"use_timm_backbone": True}, ["accelerate"], "(a backbone of timm) needs the package timm"),
    ],
)
def test_packages_that_a_configuration_calls_for_are_named(
    site: Site, values: dict[str, object], packages: list[str], words: str
) -> None:
    site.offer("org/m", model(config=configuration(**values)))
    for name in packages:
        site.package(name)
    assert words in str(site.refused(make_spec()))
    site.closed(make_spec(loader="files"))
    assert words in site.report.warnings[-1], "nobody says that what is only carried will be loaded here"


def test_a_kernel_of_the_hub_comes_along_and_needs_its_package(site: Site) -> None:
    site.offer("org/m", model(config=configuration(attn_implementation="org/flash@v1:forward")))
    site.offer("org/flash", {"build/torch-universal/flash/__init__.py": b""}, "kernels")
    commit = site.hub.repositories["org/flash"].commit({"build/x.py": b""}, ref="v1")
    found = site.closed(make_spec()).models[1].model
    assert (found.source, found.revisions) == (f"kernel:org/flash@{commit}", ("v1",))
    assert found.hub_folder == "kernels--org--flash"
    site.package("torch")
    assert "(kernels of the hub) needs the package kernels" in str(site.refused(make_spec()))


def test_a_kernel_without_a_revision_comes_at_the_version_that_transformers_asks_for(site: Site) -> None:
    site.offer("org/m", model(config=configuration(attn_implementation="org/flash")))
    site.offer("org/flash", {"build/x.py": b"newest"}, "kernels")
    first = site.hub.repositories["org/flash"].commit({"build/x.py": b"first"}, ref="v1")
    found = site.closed(make_spec())
    assert (found.models[1].model.commit, found.models[1].model.revisions) == (first, ("v1",))
    hint = site.refused(make_spec(), mode="report").hint
    assert hint.splitlines()[1:] == ["  - {kernel: org/flash, revision: v1}"]
    assert site.closed(make_spec(), parse_line(hint.splitlines()[-1]), mode="report").edges == found.edges
    del site.hub.repositories["org/flash"].refs["v1"]
    assert site.closed(make_spec()).models[1].model.revisions == ("main",)
    assert "which has no v1: transformers 5 asks for that" in site.report.warnings[-1]


def test_the_kernels_that_a_kernel_needs_come_along(site: Site) -> None:
    depends = json.dumps({"kernel-depends": [{"repo-id": "org/dep", "version": 2}]}).encode()
    site.offer("org/m", model(config=configuration(attn_implementation="org/flash@main")))
    site.offer("org/flash", {"build/torch-cpu/metadata.json": depends}, "kernels")
    site.offer("org/dep", {"build/x.py": b""}, "kernels")
    second = site.hub.repositories["org/dep"].commit({"build/x.py": b"2"}, ref="v2")
    found = site.closed(make_spec())
    assert list_arrows(found)[1:] == [("flash", "build/torch-cpu/metadata.json", "dep")]
    assert found.models[2].model.commit == second


def test_datasets_that_code_fetches_come_as_datasets(site: Site) -> None:
    text = b"load_dataset('org/words')\nhf_hub_download('org/rows', 'x', repo_type='dataset', revision='v1')\n"
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "modeling.M"}), modeling_py=text))
    words = site.offer("org/words", {"train.csv": b"a"}, "datasets")
    site.offer("org/rows", {"x": b"b"}, "datasets")
    rows = site.hub.repositories["org/rows"].commit({"x": b"c"}, ref="v1")
    found = site.closed(make_spec())
    assert [one.model.source for one in found.models[1:]] == [f"dataset:org/words@{words}", f"dataset:org/rows@{rows}"]
    assert [one.model.hub_folder for one in found.models[1:]] == ["datasets--org--words", "datasets--org--rows"]
    again = [closure.make_spec_from_lock(one.model, one.make_artifacts()) for one in found.models[1:]]
    assert [one.dataset for one in again] == ["org/words", "org/rows"]
    assert site.refused(make_spec(), mode="report").hint.splitlines()[1:] == [
        "  - {dataset: org/words, revision: main}",
        "  - {dataset: org/rows, revision: v1}",
    ]


def test_a_dataset_of_a_model_s_name_is_another_thing(site: Site) -> None:
    text = b"load_dataset('org/m')\n"
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "modeling.M"}), modeling_py=text))
    assert site.closed(make_spec()).edges == ()
    assert "names org/m, which can't be resolved" in site.report.warnings[-1]


def test_all_code_of_other_repositories_that_would_run_is_named_before_it_may(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE, "AutoConfig": "org/gone--config.C"})))
    site.offer("org/code", {"modeling.py": b"from .layers import L\n", "layers.py": b"", "unused.py": b""})
    with pytest.raises(UnsafeError) as caught:
        site.closed(ModelSpec(repo="org/m"))
    listed = str(caught.value).splitlines()[1:]
    assert {"  modeling.py of org/code", "  layers.py of org/code"} <= set(listed)
    assert not any("unused.py" in line for line in listed)
    assert any(line.startswith("  config.py of org/gone and what it imports, which can't be listed") for line in listed)
    assert "'trust_remote_code: true'" in caught.value.hint


def test_code_that_may_not_run_is_not_followed(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE})))
    assert site.closed(ModelSpec(repo="org/m", trust_remote_code=False)).edges == ()


def test_a_chain_without_an_end_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "_MAX_ADDED_MODELS", 3)
    site.offer("org/m", model(config=configuration(vision_tower="org/t0")))
    for n in range(5):
        site.offer(f"org/t{n}", model(config=configuration(vision_tower=f"org/t{n + 1}")))
    assert "more than 3 models would be added; t2: config.json" in str(site.refused(make_spec()))
