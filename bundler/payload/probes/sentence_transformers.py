"""Proves a model of sentence-transformers: texts in, vectors out, and nothing of it guessed."""

# ruff: noqa: TID252 - the folder runs under two names, so its files can only name each other relatively
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from .. import checks, devices, hubview, loading, measure, promises, vocabulary, weights
from ..faults import LIBRARIES, REBUILD, CheckFailed
from ..record import Closeness, Record
from ..request import Request

LOADER = "sentence-transformers"

# For a request that gives no two different texts; nothing is asked of them but to differ.
STOCK_TEXTS = ("Water boils at one hundred degrees.", "The library opens at nine.", "She plays the violin.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model in memory, what its files promise, and what transformers said as it loaded."""

    model: Any
    promised: promises.Promises
    loads: tuple[loading.Load, ...]

    def embed(self, texts: tuple[str, ...]) -> list[list[float]]:
        """One vector for each text."""
        return checks.numbers(self.model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False))


def prove(request: Request, record: Record) -> None:
    """Loads the model as code that uses it would, and checks what the libraries do not.

    :raises CheckFailed: a promise is broken; libraries' own errors pass
    """
    if not request.path.is_dir():
        raise CheckFailed(f"The folder of {request.alias} is not there: {request.path}.", REBUILD)
    promised = promises.read(request.path)
    files = _vocabulary(promised)
    record.passed("every file that modules.json promises is there and whole")
    record.warn(*promises.unsaid(request.path))
    if request.repo_id:
        hubview.prove(request.repo_id, request.path)
        record.passed(f"{request.repo_id} is found offline, and is these files")
    texts = request.texts if len(set(request.texts)) > 1 else (*request.texts, *STOCK_TEXTS)
    loaded = _load(request, record, promised)
    tokens = _tokens(loaded, texts, record, any_language=request.any_language)
    vectors = _infer(loaded, texts, record)
    _check_weights(loaded, texts[:2], record)
    # Libraries map weights into memory and read them when needed: only the check has touched all that are used in time.
    record.peak_rss_bytes = measure.peak_rss_bytes()
    _check_tokenizer(loaded, files, record)
    _check_vectors(loaded, texts, tokens, vectors, record)
    _check_closer(request, loaded, record)
    checks.memory(record.peak_rss_bytes, request.ram_limit)
    if request.ram_limit:
        record.passed("memory stays within the limit")


def _vocabulary(promised: promises.Promises) -> vocabulary.Vocabulary | None:
    first = promised.modules[0]
    return vocabulary.promised(first.folder) if first.kind in ("Transformer", "StaticEmbedding") else None


def _load(request: Request, record: Record, promised: promises.Promises) -> Loaded:
    record.device = devices.chosen(request.device)
    with loading.heard() as loads:
        model, record.load_seconds = measure.timed(
            lambda: SentenceTransformer(str(request.path), device=record.device, local_files_only=True)
        )
    record.passed("loads from its folder with the network cut")
    _check_modules(model, promised)
    record.passed("the loaded modules are those of modules.json")
    checks.on_a_device([*model.named_parameters(), *model.named_buffers()])
    devices.obeyed(model, record.device)
    record.passed(f"all weights are on the device {record.device}")
    first = next(model.parameters(), None)
    record.dtype = "" if first is None else str(first.dtype).removeprefix("torch.")
    record.parameters = sum(parameter.numel() for parameter in model.parameters())
    return Loaded(model=model, promised=promised, loads=tuple(loads))


def _check_modules(model: Any, promised: promises.Promises) -> None:
    wanted = [module.kind for module in promised.modules]
    held = [type(module).__name__ for module in model]
    kinds = [{parent.__name__ for parent in type(module).__mro__} for module in model]
    if len(wanted) != len(held) or any(kind not in names for kind, names in zip(wanted, kinds, strict=True)):
        raise CheckFailed(
            f"modules.json promises {', '.join(wanted)}, and the loaded model consists of {', '.join(held)}.", LIBRARIES
        )


def _tokens(loaded: Loaded, texts: tuple[str, ...], record: Record, *, any_language: bool) -> list[list[int]]:
    """The token numbers of each text, after a check that they mean something."""
    tokenizer = getattr(loaded.model, "tokenizer", None)
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        record.warn("This model has no tokenizer that could be checked.")
        return [[number] for number in range(len(texts))]
    lower = bool(getattr(loaded.model[0], "do_lower_case", False))
    tokens = [_numbers(tokenizer, text.lower() if lower else text) for text in texts]
    size = len(tokenizer.get_vocab())
    record.warn(*vocabulary.known(texts, tokens, _unknown(tokenizer), size, any_language=any_language))
    record.passed("the tokenizer knows the words of the texts")
    return tokens


def _numbers(tokenizer: Any, text: str) -> list[int]:
    if callable(tokenizer):
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    found = tokenizer.encode(text, add_special_tokens=False)  # of the library tokenizers, which may pad even one text
    return [number for number, real in zip(found.ids, found.attention_mask, strict=True) if real]


def _unknown(tokenizer: Any) -> int | None:
    if hasattr(tokenizer, "unk_token_id"):
        return tokenizer.unk_token_id if isinstance(tokenizer.unk_token_id, int) else None
    word = getattr(tokenizer.model, "unk_token", None)
    number = tokenizer.token_to_id(word) if isinstance(word, str) else None
    return number if isinstance(number, int) else None


def _infer(loaded: Loaded, texts: tuple[str, ...], record: Record) -> list[list[float]]:
    """The vectors of the texts; the first time warms up what later requests find warm."""
    vectors, record.first_seconds = measure.timed(lambda: loaded.embed(texts))
    again, record.second_seconds = measure.timed(lambda: loaded.embed(texts))
    record.width = len(vectors[0])
    checks.finite(texts, vectors)
    record.passed("vectors are made of finite numbers")
    checks.same_again(texts, vectors, again)
    record.passed("the same text gives the same vector again")
    return vectors


def _check_weights(loaded: Loaded, texts: tuple[str, ...], record: Record) -> None:
    loading.sound(loaded.loads)
    zero = checks.weights(loaded.model.named_parameters())
    record.passed("no weight matrix is empty, constant or not a number")
    record.warn(*(f"{name} is all zero, as models made from fairseq have it." for name in zero))
    for module, kept in zip(loaded.model, loaded.promised.modules, strict=True):
        _compare(loaded, module, kept.folder, texts, record)
    record.passed("the weights in memory are those of the files: none random, none left out")


def _compare(loaded: Loaded, module: Any, folder: Path, texts: tuple[str, ...], record: Record) -> None:
    """Holds one module against its files; the transformers model within it where there is one."""
    load = loading.within(module, loaded.loads)
    model = load.model if load else module
    missing = set(load.missing) if load else set()
    unexpected = load.unexpected if load else ()
    gap = ""
    if model.state_dict() and _comparable(folder, record):
        two_towers = bool(promises.configuration(folder).get("is_encoder_decoder"))  # the loaded one may deny it
        found = weights.compare(weights.entries(folder), model, unexpected, two_towers=two_towers)
        missing.update(found.missing)
        gap = found.gap
        record.warn(*weights.all_used(found))
    record.warn(*weights.none_invented(model, sorted(missing), gap, lambda: loaded.embed(texts)))


def _comparable(folder: Path, record: Record) -> bool:
    """Whether the files hold the weights as they are in memory."""
    if (folder / "adapter_config.json").is_file():
        record.warn("This model is an adapter: its weights were not held against the files.")
        return False
    if "quantization_config" in promises.configuration(folder):
        record.warn("The weights are quantised: they were not held against the files.")
        return False
    return True


def _check_tokenizer(loaded: Loaded, files: vocabulary.Vocabulary | None, record: Record) -> None:
    tokenizer: Any = getattr(loaded.model, "tokenizer", None)
    if files is None or not hasattr(tokenizer, "get_vocab"):
        return
    load = loading.within(loaded.model[0], loaded.loads)
    table: Any = load.model.get_input_embeddings() if load else None
    rows = int(table.weight.shape[0]) if hasattr(table, "weight") else None
    held = {str(token): int(number) for token, number in tokenizer.get_vocab().items()}
    record.warn(*vocabulary.kept(files, held, rows))
    record.passed(f"the tokenizer holds the vocabulary of {files.source}")


def _check_vectors(
    loaded: Loaded,
    texts: tuple[str, ...],
    tokens: list[list[int]],
    vectors: list[list[float]],
    record: Record,
) -> None:
    checks.not_zero(texts, vectors)
    checks.not_constant(texts, vectors)
    record.passed("no vector is zero or constant")
    record.norm = round(checks.norm(vectors[0]), 6)
    record.warn(*checks.different(texts, vectors, tokens))
    record.passed("different texts give different vectors")
    promised = loaded.promised
    if promised.width is not None:
        checks.width(vectors, promised.width, promised.width_source)
        record.passed(f"vectors are {promised.width} wide, as {promised.width_source} promises")
    if promised.normalised:
        half = record.dtype in ("float16", "bfloat16")
        checks.norm_one(texts, vectors, checks.NORM_SLACK_HALF if half else checks.NORM_SLACK)
        record.passed("vectors have length 1, as modules.json promises")


def _check_closer(request: Request, loaded: Loaded, record: Record) -> None:
    for triple in request.closer:
        vectors = loaded.embed(triple)
        checks.finite(triple, vectors)
        checks.not_zero(triple, vectors)
        near, far = checks.closer(triple, *vectors)
        record.closer.append(Closeness(query=triple[0], nearer=round(near, 6), farther=round(far, 6)))
    if request.closer:
        record.passed("what should be closer is closer")
