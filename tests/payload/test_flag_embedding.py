"""Models of FlagEmbedding, proved in an environment that a bundle with that library was installed into."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.payload.test_broken_models import check_failure, set_json_keys
from tests.payload.test_goldens import reverse_rows
from tests.support.bundles import InstalledBundle
from tests.support.models.tensors import Weights
from tests.support.smoke_loads import LOADED_AS, TEXTS, Ask, Result, load_in_worker, run_smoke_load

pytestmark = pytest.mark.long

M3, RERANKER = ("m3", "flag-embedding-m3"), ("flag-reranker", "flag-reranker")
EACH = pytest.mark.parametrize(("name", "loader"), [M3, RERANKER])
Prove = Callable[..., Result]
Copy = Callable[[str], Path]


@pytest.fixture
def smoke_load(ask_flagged_worker: Ask, tmp_path: Path) -> Prove:
    return partial(load_in_worker, ask_flagged_worker, tmp_path)


@pytest.fixture
def copied(flag_models: Path, tmp_path: Path) -> Copy:
    return lambda name: Path(shutil.copytree(flag_models / name, tmp_path / f"{name}-copy"))


def test_all_were_proved_as_they_were_installed(flagged: InstalledBundle) -> None:
    proofs = {each["alias"]: each for each in json.loads((flagged.current / "smoke.json").read_bytes())}
    assert {alias: each["loader"] for alias, each in proofs.items()} == LOADED_AS
    assert all(each["ok"] for each in proofs.values())
    assert [each["network"]["attempts"] for each in proofs.values() if each["loader"] != "files"] == [[]] * 7
    assert (proofs["m3"]["width"], proofs["m3"]["norm"]) == (32, pytest.approx(1, abs=1e-3))
    assert proofs["flag-reranker"]["width"] == 1
    widths = {"good": 32, "pickled": 32, "encoder": 32, "llama": 71, "reranker": 1}
    assert {alias: proofs[alias]["width"] for alias in widths} == widths
    checks = proofs["m3"]["checks"]
    assert "the sparse and ColBERT heads in memory are those of the files" in checks
    assert "different texts give different ColBERT vectors" in checks
    assert "org/m3 is found offline and has the same files" in checks


@EACH
def test_long_texts_by_the_command_line(
    flagged: InstalledBundle, offline: dict[str, str], flag_models: Path, tmp_path: Path, name: str, loader: str
) -> None:
    texts = ["The cat sat. " * 400, "The dog sat. " * 400]
    answer = run_smoke_load(str(flagged.python), offline, tmp_path, flag_models / name, loader=loader, texts=texts)
    assert answer.code == 0, answer.result


@EACH
def test_triples_one_way_round_and_the_other(smoke_load: Prove, flag_models: Path, name: str, loader: str) -> None:
    ways = (TEXTS, (TEXTS[0], TEXTS[2], TEXTS[1]))
    good, wrong = sorted(
        (smoke_load(flag_models / name, loader=loader, closer=[way]) for way in ways), key=lambda each: not each["ok"]
    )
    assert good["closer"][0]["nearer"] > good["closer"][0]["farther"]
    check_failure(wrong, "should")


@pytest.mark.parametrize("head", ["colbert_linear.pt", "sparse_linear.pt"])
@pytest.mark.parametrize("way", ["missing", "dangling", "cut short"])
def test_a_head_that_is_not_there(smoke_load: Prove, copied: Copy, head: str, way: str) -> None:
    path = copied("m3") / head
    content = path.read_bytes()
    path.unlink()
    says = f"{head} is missing: FlagEmbedding would initialize"
    if way == "dangling":
        path.symlink_to("nowhere")
        says = f"{head} is a broken link"
    if way == "cut short":
        path.write_bytes(content[:-100])
        says = f"{head} is cut short"
    check_failure(smoke_load(path.parent, loader="flag-embedding-m3"), says)


def test_a_head_of_another_model(smoke_load: Prove, copied: Copy) -> None:
    folder = copied("m3")
    shutil.copy(folder / "sparse_linear.pt", folder / "colbert_linear.pt")
    check_failure(smoke_load(folder, loader="flag-embedding-m3"), "another shape")


def test_a_library_that_draws_a_head_anew(ask_flagged_worker: Ask, flag_models: Path) -> None:
    found = ask_flagged_worker("case", f"redrawn-head {flag_models / 'm3'}")
    assert "colbert_linear does not have the values of colbert_linear.pt: weight, bias" in found


@pytest.fixture
def change_head(ask_flagged_worker: Ask) -> Callable[..., None]:
    """Gives a head other values of the same shape, as another revision would have."""

    def change(path: Path, verb: str, number: float = 0.0) -> None:
        assert ask_flagged_worker("case", f"changed-head {json.dumps([str(path), verb, number])}") == ""

    return change


def read_golden(flagged: InstalledBundle, alias: str) -> dict[str, Any]:
    """What the model gave when it was installed, for the texts of the bundle."""
    (found,) = (each for each in json.loads((flagged.current / "goldens.json").read_bytes()) if each["alias"] == alias)
    return dict(found)


INSTALLED_WITH = ("The cat sat on the mat.", "Green rain on a river!")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("nothing", ""),
        ("sparse_linear.pt", "The sparse of “The cat sat on the mat.” differs"),
        ("colbert_linear.pt", "The colbert of “The cat sat on the mat.” differs"),
        ("encoder.layer.1.output.dense.weight", "The dense of “The cat sat on the mat.” differs"),
    ],
)
def test_the_golden_outputs_see_each_head(
    flagged: InstalledBundle, smoke_load: Prove, copied: Copy, change_head: Callable[..., None], changed: str, says: str
) -> None:
    folder = copied("m3")
    if changed.endswith(".pt"):
        change_head(folder / changed, "turn round")
    if changed.endswith(".weight"):
        weights = Weights(folder / "model.safetensors")
        reverse_rows(weights, changed)
        weights.write()
    golden = read_golden(flagged, "m3")
    found = smoke_load(folder, loader="flag-embedding-m3", texts=INSTALLED_WITH, golden=golden, tolerance="0.001")
    assert found["ok"] is (not says), found["fault"]
    assert found["fault"].startswith(says)
    others = {"The sparse": ("colbert", "dense"), "The colbert": ("sparse", "dense")}.get(says[: says.find(" of")], ())
    assert not [other for other in others if f"{other} (" in found["fault"]], "only the head that was changed"


def test_the_golden_score_of_a_reranker(flagged: InstalledBundle, smoke_load: Prove, copied: Copy) -> None:
    folder = copied("flag-reranker")
    weights = Weights(folder / "model.safetensors")
    reverse_rows(weights, "classifier.out_proj.weight")
    weights.write()
    golden = read_golden(flagged, "flag-reranker")
    found = smoke_load(folder, loader="flag-reranker", texts=INSTALLED_WITH, golden=golden, tolerance="0.001")
    assert found["fault"].startswith("The score of “The cat sat on the mat.")
    assert "these are not the weights of the rehearsal" in found["fault"]


def decode_sparse(found: dict[str, Any]) -> list[float]:
    """The sparse vector of the first text."""
    (kept,) = (each for each in found["outputs"][0]["vectors"] if each["name"] == "sparse")
    return list(struct.unpack(f"<{kept['width']}f", base64.b64decode(kept["values"])))


def test_a_token_at_the_edge_of_having_a_weight_may_come_and_go(
    flagged: InstalledBundle, smoke_load: Prove, copied: Copy, change_head: Callable[..., None]
) -> None:
    """On another processor a weight of nearly none is none, and the library leaves that token out."""
    folder, edge = copied("m3"), 1e-5
    ask = partial(smoke_load, folder, loader="flag-embedding-m3", texts=INSTALLED_WITH)
    least = min(weight for weight in decode_sparse(read_golden(flagged, "m3")) if weight)
    change_head(folder / "sparse_linear.pt", "less", least - edge)
    golden = ask()
    assert edge / 2 < min(weight for weight in decode_sparse(golden) if weight) < 2 * edge
    change_head(folder / "sparse_linear.pt", "less", 2 * edge)
    found = ask(golden=golden, tolerance="0.001")
    assert (found["fault"], found["ok"]) == ("", True)
    assert sum(map(bool, decode_sparse(found))) == sum(map(bool, decode_sparse(golden))) - 1


@EACH
def test_a_missing_vocabulary(smoke_load: Prove, copied: Copy, name: str, loader: str) -> None:
    folder = copied(name)
    (folder / "tokenizer.json").unlink()
    check_failure(smoke_load(folder, loader=loader), "vocabulary is missing")


@EACH
def test_more_layers_than_weights(smoke_load: Prove, copied: Copy, name: str, loader: str) -> None:
    folder = copied(name)
    set_json_keys(folder / "config.json", num_hidden_layers=3)
    for _ in range(5):  # now and then the random layer gives no token a sparse weight, which is checked first
        result = smoke_load(folder, loader=loader)
        if "No text has a sparse vector" not in result["fault"]:
            break
    check_failure(result, "are random", "built with 3")


def test_a_reranker_without_its_head(smoke_load: Prove, copied: Copy) -> None:
    folder = copied("flag-reranker")
    weights = Weights(folder / "model.safetensors")
    weights.drop("classifier.out_proj.weight")
    weights.write()
    check_failure(smoke_load(folder, loader="flag-reranker"), "random", "classifier.out_proj.weight")


def test_without_the_library_the_package_is_named(ask_worker: Ask, flag_models: Path, tmp_path: Path) -> None:
    result = load_in_worker(ask_worker, tmp_path, flag_models / "m3", loader="flag-embedding-m3")
    check_failure(result, "FlagEmbedding")
    assert "python: requirements" in result["hint"]
