"""Combinations that are known not to work: each rule speaks where it should and is silent beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.errors import ManifestError, ResolveError
from bundler.format.hashing import Sha256
from bundler.format.lock import lockfile
from bundler.format.lock.entries import Artifact, Package, PickleFile, PythonEnvironment
from bundler.format.lock.lockfile import Lock
from bundler.online.manifest import lint
from bundler.progress import RecordingReporter
from tests.support.bundles import make_lock


def make_lint_lock(
    packages: Mapping[str, str] | None = None,
    files: Sequence[str] = ("config.json",),
    loader: str = "files",
    assets: Sequence[str] = (),
    tag: str = "py3-none-any",
    pickled: bool = False,
) -> Lock:
    found = tuple(
        Package(name=name, version=version, wheel=f"wheels/{name.replace('-', '_')}-{version}-{tag}.whl")
        for name, version in (packages or {}).items()
    )
    wheels = tuple(
        Artifact(path=one.wheel, kind="wheel", size=0, sha256=Sha256("0" * 64), origin="a test") for one in found
    )
    contents = [*(f"models/m/{name}" for name in files), *(f"assets/{name}" for name in assets)]
    made = make_lock({"bundle.pyz": b"#!", **dict.fromkeys(contents, b"")})
    models = tuple(dataclasses.replace(model, loader=loader) for model in made.models)
    pickles = tuple(PickleFile(path=f"models/m/{name}", scanner="s", verdict="innocuous") for name in files if pickled)
    return lockfile.replace_fields(
        made,
        artifacts=(made.artifacts[0], *wheels, *made.artifacts[1:]),
        python=PythonEnvironment(packages=found),
        models=models,
        pickles=pickles,
    )


@dataclass(frozen=True)
class Case:
    """What a rule must speak of, and what is next to it and fine."""

    bad: Lock
    fine: tuple[Lock, ...]
    words: str
    host_pip: str | None = None


BIN = ("config.json", "2_Dense/pytorch_model.bin")
CASES = {
    "flagembedding-old-transformers-4.52": Case(
        make_lint_lock({"flagembedding": "1.3.4", "transformers": "4.57.6"}),
        (
            make_lint_lock({"flagembedding": "1.3.4", "transformers": "4.51.3"}),
            make_lint_lock({"flagembedding": "1.3.5", "transformers": "4.57.6"}),
            make_lint_lock({"transformers": "4.57.6"}),
        ),
        "GEMMA2_START_DOCSTRING",
    ),
    "flagembedding-1.3.5-transformers-5": Case(
        make_lint_lock({"flagembedding": "1.3.5", "transformers": "5.0.0"}),
        (
            make_lint_lock({"flagembedding": "1.3.5", "transformers": "4.57.6"}),
            make_lint_lock({"flagembedding": "1.4.2", "transformers": "5.23.0"}),
        ),
        "(here: flagembedding 1.3.5, transformers 5.0.0)",
    ),
    "flagembedding-1.4.0-rerankers": Case(
        make_lint_lock({"flagembedding": "1.4.0", "transformers": "5.0.0"}, loader="flag-reranker"),
        (
            make_lint_lock({"flagembedding": "1.4.0", "transformers": "5.0.0"}, loader="flag-embedding-m3"),
            make_lint_lock({"flagembedding": "1.4.1", "transformers": "5.0.0"}, loader="flag-reranker"),
        ),
        "prepare_for_model",
    ),
    "bin-weights-torch-2.6": Case(
        make_lint_lock({"torch": "2.5.1+cpu", "transformers": "4.57.6"}, files=BIN),
        (
            make_lint_lock({"torch": "2.6.0+cpu", "transformers": "4.57.6"}, files=BIN),
            make_lint_lock({"torch": "2.5.1", "transformers": "4.57.6"}, files=("model.safetensors",)),
            make_lint_lock({"torch": "2.5.1", "transformers": "4.57.6"}, files=(*BIN, "model.safetensors")),
        ),
        "CVE-2025-32434",
    ),
    "pickles-torch-2.10": Case(
        make_lint_lock({"torch": "2.9.1"}, files=("colbert_linear.pt",), pickled=True),
        (
            make_lint_lock({"torch": "2.10.0"}, files=("colbert_linear.pt",), pickled=True),
            make_lint_lock({"torch": "2.9.1"}, files=("vocabulary.bin",)),
        ),
        "CVE-2026-24747",
    ),
    "tokenizers-ask-the-hub": Case(
        make_lint_lock({"transformers": "4.57.3"}),
        (make_lint_lock({"transformers": "4.57.1"}), make_lint_lock({"transformers": "4.57.6"})),
        "ask the hub",
    ),
    "nltk-punkt": Case(
        make_lint_lock({"nltk": "3.9.1"}, assets=("nltk_data/tokenizers/punkt.zip",)),
        (
            make_lint_lock({"nltk": "3.9.1"}, assets=("nltk_data/tokenizers/punkt_tab.zip",)),
            make_lint_lock({"nltk": "3.8.1"}, assets=("nltk_data/tokenizers/punkt/english.pickle",)),
            make_lint_lock({"nltk": "3.9.1"}),
        ),
        "write punkt_tab under nltk",
    ),
    "nltk-punkt-tab": Case(
        make_lint_lock({"nltk": "3.8.1"}, assets=("nltk_data/tokenizers/punkt_tab/english/x.txt",)),
        (
            make_lint_lock(
                {"nltk": "3.8.1"}, assets=("nltk_data/tokenizers/punkt.zip", "nltk_data/tokenizers/punkt_tab.zip")
            ),
        ),
        "reads punkt, but the bundle has punkt_tab",
    ),
    "nltk-archives": Case(
        make_lint_lock({"nltk": "3.9.2"}, assets=("nltk_data/tokenizers/punkt_tab.zip",)),
        (
            make_lint_lock({"nltk": "3.9.3"}, assets=("nltk_data/tokenizers/punkt_tab.zip",)),
            make_lint_lock({"nltk": "3.9.2"}, assets=("nltk_data/corpora/stopwords.zip",)),
            make_lint_lock({"nltk": "3.9.2"}, assets=("nltk_data/taggers/averaged_perceptron_tagger_eng/a.json",)),
        ),
        "out of their archives",
    ),
    "meta-tensors-together": Case(
        make_lint_lock({"sentence-transformers": "4.1.0", "transformers": "4.41.0", "torch": "2.2.2"}),
        (make_lint_lock({"sentence-transformers": "4.1.0", "transformers": "4.51.0", "torch": "2.2.2"}),),
        "Cannot copy out of meta tensor",
    ),
    "old-pip-on-the-host": Case(
        make_lint_lock({"numpy": "2.0"}, tag="cp311-cp311-manylinux_2_28_x86_64"),
        (make_lint_lock({"numpy": "2.0"}, tag="cp311-cp311-manylinux2014_x86_64"),),
        "ignores manylinux_2_",
        host_pip="20.2.4",
    ),
}
RULES = {rule.id: rule for rule in lint.load_rules()}


def test_every_rule_has_a_case_and_a_link() -> None:
    assert set(RULES) == set(CASES)
    assert all(rule.link.startswith("https://") for rule in RULES.values())


def run_lint(rule: lint.Rule, found: Lock, host_pip: str | None) -> str:
    report = RecordingReporter()
    try:
        lint.check_lock(found, [rule], host_pip, report)
    except ResolveError as error:
        assert rule.severity == "error"
        assert not report.warnings
        return str(error)
    return "\n".join(report.warnings)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_speaks_where_it_should_and_nowhere_else(name: str) -> None:
    case, rule = CASES[name], RULES[name]
    words = run_lint(rule, case.bad, case.host_pip)
    assert case.words in words
    assert f"{rule.do}; see {rule.link} [{name}]" in words
    for one in case.fine:
        assert run_lint(rule, one, case.host_pip) == ""
    if case.host_pip:
        assert run_lint(rule, case.bad, "26.0") == run_lint(rule, case.bad, None) == ""


def test_all_errors_are_said_at_once() -> None:
    both = make_lint_lock({"flagembedding": "1.3.4", "transformers": "4.57.3"})
    with pytest.raises(ResolveError) as caught:
        lint.check_lock(both, lint.load_rules(), None, RecordingReporter())
    assert [line.rpartition(" ")[2] for line in str(caught.value).splitlines()[1:]] == [
        "[flagembedding-old-transformers-4.52]",
        "[tokenizers-ask-the-hub]",
    ]
    assert "severity: off" in caught.value.hint


OWN = """\
rules:
  - {id: tokenizers-ask-the-hub, severity: "off", what: w, do: d, link: "https://x.example", when: {}}
  - id: ours
    severity: warning
    what: our platform has no such thing
    do: ask us
    link: https://wiki.example
    when: {absent: [einops], no_files: ["*.json"], python: "3.1?", platform: "linux-*", accelerator: cpu}
"""


def test_a_file_of_ones_own_adds_rules_and_takes_the_place_of_others(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    known = lint.load_rules([tmp_path / "own.yaml"])
    report = RecordingReporter()
    lint.check_lock(make_lint_lock({"transformers": "4.57.3"}, files=("a.txt",)), known, None, report)
    assert report.warnings == ["our platform has no such thing (here: m): ask us; see https://wiki.example [ours]"]
    for found in (make_lint_lock(files=("a.json",)), make_lint_lock({"einops": "1"}, files=("a.txt",))):
        lint.check_lock(found, known, None, report)
    assert len(report.warnings) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: {", "this is not YAML"),
        ("rules: [{id: a}]", r"rules\[0\]\.severity: is required"),
        (OWN.replace("absent", "absend"), "did you mean 'absent'"),
        (OWN.replace("absent: [einops]", "packages: {a: 'about 2'}"), "'about 2' is not a range of versions"),
        ("[]", "must be a mapping, not a list"),
    ],
)
def test_rules_that_are_none_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ManifestError, match=words) as caught:
        lint.load_rules([tmp_path / "own.yaml"])
    assert "own.yaml" in caught.value.where
