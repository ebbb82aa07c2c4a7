"""What models reach for that nobody named: found in their files, pinned to a commit, and added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bundler.bundle.hashing import digest_of_file
from bundler.bundle.target import Target
from bundler.errors import FetchError, ResolveError
from bundler.online import closure, models
from bundler.online.closure import Closed
from bundler.online.convert import Bench
from bundler.online.manifest import Asked, Manifest, WantedModel
from bundler.online.pipconfig import PipConfig
from bundler.online.provided import Provided
from bundler.online.store import Store
from bundler.online.wheels import ResolvedWheel
from bundler.online.workshop import Workshop
from bundler.progress import Collected
from tests.hub.hubserver import Hub
from tests.wheelmaking import make_wheel

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
    shop: Workshop
    folder: Path
    wheels: list[ResolvedWheel] = field(default_factory=list)

    @property
    def report(self) -> Collected:
        report = self.shop.report
        assert isinstance(report, Collected)
        return report

    def offer(self, name: str, files: Mapping[str, bytes]) -> str:
        return self.hub.repository(name, files).refs["main"]

    def package(self, name: str, *tops: str) -> None:
        path = make_wheel(self.folder, name, "1.0", files={f"{top}/__init__.py": b"" for top in tops})
        size, sha256 = digest_of_file(path)
        self.wheels.append(
            ResolvedWheel(
                name=name,
                version="1.0",
                filename=path.name,
                origin=path.as_uri(),
                size=size,
                sha256=sha256,
                publisher="find-links",
                published=False,
            )
        )

    def closed(self, *asked: WantedModel, mode: str = "add") -> Closed:
        whole = Asked(manifest=Manifest(name="n", version="1", models=asked), folder=self.folder, sha256="0" * 64)
        bench = Bench(target=TARGET, packages=self.wheels, shop=self.shop)
        return closure.closed(
            asked,
            mode,
            lambda wanted: models.carried(wanted, whole, self.shop, bench),
            Provided(self.wheels, self.shop),
            self.report,
        )

    def refused(self, *asked: WantedModel, mode: str = "add") -> ResolveError:
        with pytest.raises(ResolveError) as caught:
            self.closed(*asked, mode=mode)
        return caught.value


@pytest.fixture
def site(hub: Hub, tmp_path: Path) -> Site:
    shop = Workshop(store=Store(tmp_path / "shelf"), config=PipConfig(timeout=10), report=Collected())
    return Site(hub, shop, tmp_path)


def wanted(repo: str = "org/m", **more: object) -> WantedModel:
    return WantedModel(repo=repo, trust_remote_code=True, **more)  # type: ignore[arg-type]


def arrows(found: Closed) -> list[tuple[str, str, str]]:
    return [(edge.model, edge.file, edge.to) for edge in found.edges]


def test_code_in_another_repository_is_pinned_and_added_with_what_it_imports(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE, "AutoConfig": CODE})))
    code = {"modeling.py": b"from .layers import L\n", "layers.py": b"import torch\n", "big.safetensors": b"w" * 9}
    commit = site.offer("org/code", code)
    found = site.closed(wanted())
    added = found.carried[1]
    assert (added.model.source, added.model.loader) == (f"repo:org/code@{commit}", "files")
    assert added.names == ["layers.py", "modeling.py"], "code alone, not its weights"
    assert arrows(found) == [("m", "config.json", "code")] * 2
    assert [edge.reason for edge in found.edges] == ["auto_map AutoModel", "auto_map AutoConfig"]
    assert "adds org/code as code (2 files, 35 bytes): m: config.json (auto_map AutoModel)" in site.report.notes[-1]


def test_a_kept_lock_finds_what_was_added_again(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE})))
    site.offer("org/code", {"modeling.py": b"", "odd [1].py": b"", "rest.txt": b""})
    added = site.closed(wanted()).carried[1]
    site.hub.repositories["org/code"].commit({"modeling.py": b"moved"})
    asked = closure.again(added.model, added.artifacts())
    whole = Asked(manifest=Manifest(name="n", version="1"), folder=site.folder, sha256="0" * 64)
    found = models.gather(asked, whole, TARGET, site.shop, pinned=added.model.source)
    assert sorted((file.path, file.sha256) for file in found.files) == [(f.path, f.sha256) for f in added.files]


def test_a_revision_of_the_code_becomes_a_name_in_the_hub_view(site: Site) -> None:
    extra = {"sentence_bert_config.json": json.dumps({"model_args": {"code_revision": "v2"}}).encode()}
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE})) | extra)
    site.offer("org/code", {"modeling.py": b"1"})
    second = site.hub.repositories["org/code"].commit({"modeling.py": b"2"}, ref="v2")
    found = site.closed(wanted()).carried[1].model
    assert (found.commit, found.revisions) == (second, ("v2",))


def test_two_revisions_of_one_repository_can_not_both_travel(site: Site) -> None:
    adapter = json.dumps({"base_model_name_or_path": "org/base", "revision": "v2"}).encode()
    site.offer("org/m", {"adapter_config.json": adapter})
    site.offer("org/base", model())
    error = site.refused(wanted("org/base"), wanted(loader="files"))
    assert "names org/base at revision v2, and the bundle has another one of it" in str(error)
    assert error.hint.startswith("give base 'revision: v2'")


def test_the_base_of_an_adapter_comes_along_and_what_that_needs_too(site: Site) -> None:
    site.offer(
        "org/m", {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": b"w"}
    )
    site.offer("org/base", model(config=configuration(auto_map={"AutoModel": CODE})))
    site.offer("org/code", {"modeling.py": b"A.from_pretrained('org/more')\n"})
    site.offer("org/more", model())
    found = site.closed(wanted(loader="files"))
    assert arrows(found) == [
        ("m", "adapter_config.json", "base"),
        ("base", "config.json", "code"),
        ("code", "modeling.py", "more"),
    ]
    assert "model.safetensors" in found.carried[1].names, "a base is carried whole"
    assert found.edges[-1].reason == "line 1 calls from_pretrained"


def test_a_base_without_an_owner_is_found_and_a_folder_is_named(site: Site) -> None:
    site.offer("org/m", {"adapter_config.json": b'{"base_model_name_or_path": "/home/x/base"}'})
    assert site.closed(wanted(loader="files")).edges == ()
    assert "'/home/x/base' as its base model, a folder of the machine that trained it" in site.report.warnings[-1]
    site.offer("org/m", {"adapter_config.json": b'{"base_model_name_or_path": "gpt2"}'})
    assert site.closed(wanted(loader="files")).edges == ()
    assert "names gpt2, which can't be found" in site.report.warnings[-1], "the hub here knows no such names"


def test_what_can_not_be_read_is_an_error_unless_nothing_loads_it(site: Site) -> None:
    site.offer("org/m", model() | {"modules.json": b"[{"})
    assert "m: modules.json is not a JSON file" in str(site.refused(wanted(loader="transformers")))
    site.closed(wanted(loader="files"))
    assert "m: modules.json is not a JSON file" in site.report.warnings[-1]


def test_code_for_a_newer_python_is_said_and_no_error(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "modeling.M"}), modeling_py=b"match = = 1"))
    assert site.closed(wanted()).edges == ()
    assert "modeling.py is no Python that can be read here" in site.report.warnings[-1]


def test_templates_and_settings_that_stay_behind_are_named(site: Site) -> None:
    site.offer("org/m", model() | {"chat_template.jinja": b"{}", "generation_config.json": b"{}", "notes.txt": b""})
    site.closed(wanted(include=("config.json", "tokenizer.json", "*.safetensors"), loader="files"))
    assert "org/m: chat_template.jinja, generation_config.json stay behind" in site.report.warnings[-1]


def test_circles_end(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/other")))
    site.offer("org/other", model(config=configuration(vision_tower="org/m")))
    assert arrows(site.closed(wanted())) == [("m", "config.json", "other"), ("other", "config.json", "m")]


def test_what_is_there_is_not_added_again(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "org/m--modeling.M"}), modeling_py=b""))
    site.offer("org/two", model(config=configuration(vision_tower="org/m")))
    found = site.closed(wanted(), wanted("org/two"))
    assert [one.model.alias for one in found.carried] == ["m", "two"]
    assert arrows(found) == [("two", "config.json", "m")]


def test_models_of_folders_are_followed_into_the_hub(site: Site) -> None:
    (site.folder / "vendor").mkdir()
    (site.folder / "vendor" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    site.offer("org/base", model())
    found = site.closed(WantedModel(path="vendor", loader="files"))
    assert arrows(found) == [("vendor", "adapter_config.json", "base")]


def test_code_that_was_added_grows_to_a_model_where_one_is_needed(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE}, vision_tower="org/code")))
    site.offer("org/code", model(modeling_py=b""))
    found = site.closed(wanted())
    assert "model.safetensors" in found.carried[1].names


def test_two_repositories_of_one_last_name_get_two_aliases(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="Other/M")))
    site.offer("Other/M", model())
    assert [one.model.alias for one in site.closed(wanted()).carried] == ["m", "Other-M"]


def test_reporting_shows_the_lines_that_ask_for_it(site: Site) -> None:
    config = configuration(auto_map={"AutoModel": CODE}, vision_tower="org/tower")
    site.offer("org/m", model(config=config))
    error = site.refused(wanted(), mode="report")
    assert "m: config.json (auto_map AutoModel) names org/code" in str(error)
    assert error.hint.splitlines()[1:] == [
        '  - {repo: org/code, revision: main, loader: files, include: ["*.py"]}',
        "  - {repo: org/tower, revision: main, loader: files}",
    ]
    site.offer("org/code", {"modeling.py": b""})
    site.offer("org/tower", model())
    listed = [wanted("org/code", revision="main", loader="files", include=("*.py",)), wanted("org/tower")]
    assert len(site.closed(wanted(), *listed, mode="report").edges) == 2, "what it showed is enough"


def test_warning_leaves_it_out_and_says_so(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/tower")))
    assert site.closed(wanted(), mode="warn").edges == ()
    assert site.report.warnings == [
        "m: config.json (vision_tower, loaded on its own) names org/tower, which is not in the bundle"
    ]


def test_code_that_can_not_be_had_is_an_error_and_a_model_a_warning(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/gone")))
    assert site.closed(wanted()).edges == ()
    assert "names org/gone, which can't be found: org/gone: the hub knows no such repository" in site.report.warnings[0]
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE})))
    assert "m: config.json (auto_map AutoModel) names org/code: org/code: the hub knows" in str(site.refused(wanted()))


def test_terms_to_accept_say_who_asks(site: Site) -> None:
    site.offer("org/m", model(config=configuration(vision_tower="org/gated")))
    site.offer("org/gated", model())
    site.hub.repositories["org/gated"].gated = True
    with pytest.raises(FetchError, match=r"m: config\.json .* names org/gated: org/gated is gated"):
        site.closed(wanted())


def test_files_that_the_choice_left_behind_are_named(site: Site) -> None:
    config = configuration(auto_map={"AutoModel": "modeling.M"})
    files = model(config=config, modeling_py=b"from .layers import L\n", layers_py=b"")
    site.offer("org/m", files)
    error = site.refused(wanted(exclude=("layers.py",)))
    assert "runs layers.py, which is not among the files of m" in str(error)
    assert "include and exclude" in error.hint


def test_packages_that_code_imports_are_named_where_none_brings_them(site: Site) -> None:
    text = b"import os, einops, cv2, own_thing, flash_attn\ntry:\n    import apex\nexcept ImportError:\n    pass\n"
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": "modeling.M"}), modeling_py=text))
    assert site.closed(wanted()).edges == (), "a bundle without packages leaves them to its host"
    site.package("einops")
    site.package("opencv-python-headless")
    site.package("by-another-name", "own_thing")
    error = site.refused(wanted())
    assert "m: config.json (auto_map AutoModel) runs modeling.py, which imports flash_attn: in no package here" in str(
        error
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
    assert words in str(site.refused(wanted()))
    site.closed(wanted(loader="files"))
    assert words in site.report.warnings[-1], "nobody says that what is only carried will be loaded here"


def test_a_kernel_of_the_hub_comes_along_and_needs_its_package(site: Site) -> None:
    site.offer("org/m", model(config=configuration(attn_implementation="org/flash@v1:forward")))
    site.offer("org/flash", {"build/torch-universal/flash/__init__.py": b""})
    commit = site.hub.repositories["org/flash"].commit({"build/x.py": b""}, ref="v1")
    assert site.closed(wanted()).carried[1].model.commit == commit
    site.package("torch")
    assert "(kernels of the hub) needs the package kernels" in str(site.refused(wanted()))


def test_code_that_may_not_run_is_not_followed(site: Site) -> None:
    site.offer("org/m", model(config=configuration(auto_map={"AutoModel": CODE})))
    assert site.closed(WantedModel(repo="org/m", trust_remote_code=False)).edges == ()


def test_a_chain_without_an_end_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "_MOST", 3)
    site.offer("org/m", model(config=configuration(vision_tower="org/t0")))
    for n in range(5):
        site.offer(f"org/t{n}", model(config=configuration(vision_tower=f"org/t{n + 1}")))
    assert "more than 3 models would be added; t2: config.json" in str(site.refused(wanted()))
