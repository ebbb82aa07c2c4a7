"""The steps that probes share; each notes in the record what it showed."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..checks import devices, goldens, hub_view, model_checks
from ..checks.model_checks import Vector
from ..files import declared_config, load_report, vocabulary, weights
from ..results.failures import REBUILD_HINT, CheckFailedError
from ..results.load_result import LoadResult, TripleResult
from . import measurement
from .request import Request

# For a request that gives no two different texts; nothing is asked of them but to differ.
DEFAULT_TEXTS = ("Water boils at one hundred degrees.", "The library opens at nine.", "She plays the violin.")
RESERVED_POSITIONS = 2  # positions that some kinds of model keep for themselves

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model in memory as the code that uses it would hold it, and what transformers said as it loaded."""

    model: Any
    reports: tuple[load_report.LoadReport, ...]


def require_folder(request: Request) -> Path:
    """The model's folder.

    :raises CheckFailed: it is not there
    """
    if not request.path.is_dir():
        raise CheckFailedError(f"The folder of {request.alias} is not there: {request.path}.", REBUILD_HINT)
    return request.path


def check_files(
    request: Request, result: LoadResult
) -> tuple[declared_config.TransformersModelConfig, tuple[str, ...]]:
    """For a model of transformers alone: what its files promise, all being there, and the texts to try it with."""
    promised = declared_config.read_transformers_model(require_folder(request))
    result.add_check("config.json, the weights and the vocabulary are there and whole")
    check_hub_view(request, result)
    return promised, choose_texts(request)


def choose_texts(request: Request) -> tuple[str, ...]:
    """The texts of the request, filled up where no two of them differ."""
    return request.texts if len(set(request.texts)) > 1 else (*request.texts, *DEFAULT_TEXTS)


def check_hub_view(request: Request, result: LoadResult) -> None:
    """Code that asks for the model by its repository id gets these files."""
    if request.repo_id:
        hub_view.check_hub_view(request.repo_id, request.path)
        result.add_check(f"{request.repo_id} is found offline, and is these files")


def load_model(request: Request, result: LoadResult, load: Callable[[str, str], Any]) -> LoadedModel:
    """Loads with `make`, which takes a folder and a device, and listens to transformers meanwhile."""
    result.device = devices.choose_device(request.device)
    result.enter("weights")
    with load_report.record_loads() as loads:
        model, result.load_seconds = measurement.measure_time(lambda: load(str(request.path), result.device))
    result.add_check("loads from its folder with the network cut")
    return LoadedModel(model=model, reports=tuple(loads))


def check_placement(model: Any, result: LoadResult) -> None:
    """Every weight has content and is on the device that was chosen."""
    model_checks.check_on_device([*model.named_parameters(), *model.named_buffers()])
    devices.check_device(model, result.device)
    result.add_check(f"all weights are on the device {result.device}")
    first = next(model.parameters(), None)
    result.dtype = "" if first is None else str(first.dtype).removeprefix("torch.")
    result.parameters = sum(parameter.numel() for parameter in model.parameters())


def check_tokens(
    tokenizer: Any, texts: Sequence[str], result: LoadResult, *, any_language: bool, lower: bool = False
) -> list[list[int]]:
    """The token numbers of each text, after a check that they mean something."""
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        result.warn("This model has no tokenizer that could be checked.")
        return [[number] for number in range(len(texts))]
    found = [_tokenize(tokenizer, line.lower() if lower else line) for line in texts]
    size = len(tokenizer.get_vocab())
    result.warn(
        *vocabulary.check_known_tokens(texts, found, _find_unknown_token(tokenizer), size, any_language=any_language)
    )
    result.add_check("the tokenizer knows the words of the texts")
    return found


def choose_max_tokens(tokenizer: Any, config: Any, max_tokens: int) -> int:
    """How many tokens of a text to give to a model: no more than it takes, and no more than `most`."""
    positions = getattr(config, "max_position_embeddings", None)
    limits = [max_tokens, int(getattr(tokenizer, "model_max_length", max_tokens))]
    if isinstance(positions, int) and positions > RESERVED_POSITIONS:
        limits.append(positions - RESERVED_POSITIONS)
    return min(limits)


def run_twice(work: Callable[[], Answer], result: LoadResult) -> tuple[Answer, Answer]:
    """What `work` gives, two times; the first time warms up what later requests find warm."""
    result.enter("first inference")
    first, result.first_seconds = measurement.measure_time(work)
    result.enter("second inference")
    again, result.second_seconds = measurement.measure_time(work)
    result.enter("checks")
    return first, again


def check_weight_values(model: Any, reports: Sequence[load_report.LoadReport], result: LoadResult) -> None:
    """transformers reported no fault, and no weight is void."""
    result.enter("compare weights")
    load_report.check_reports(reports)
    zero = model_checks.check_weights(model.named_parameters())
    result.add_check("no weight matrix is empty, constant or not a number")
    result.warn(*(f"{name} is all zero, as models made from fairseq have it." for name in zero))


def check_file_weights(
    model: Any,
    report: load_report.LoadReport | None,
    folder: Path,
    compute_vectors: Callable[[], Sequence[Vector]],
    result: LoadResult,
) -> None:
    """Holds `model` against the files in `place`; `answers` are what it gives for some texts as it is."""
    missing = set(report.missing) if report else set()
    unexpected = report.unexpected if report else ()
    gap = ""
    if model.state_dict() and _is_comparable(folder, result):
        two_towers = bool(declared_config.read_config(folder).get("is_encoder_decoder"))  # the loaded one may deny it
        found = weights.compare_weights(weights.read_tensors(folder), model, unexpected, has_decoder=two_towers)
        missing.update(found.missing)
        gap = found.layer_gap
        result.warn(*weights.check_all_used(found))
    result.warn(*weights.check_none_random(model, sorted(missing), gap, compute_vectors))


def check_weights(
    model: Any,
    reports: Sequence[load_report.LoadReport],
    folder: Path,
    compute_vectors: Callable[[], Sequence[Vector]],
    result: LoadResult,
) -> None:
    """Both of the above for a model that is one of transformers; `model` may hold it within."""
    check_weight_values(model, reports, result)
    load = load_report.find_report(model, reports)
    check_file_weights(load.model if load else model, load, folder, compute_vectors, result)
    result.add_check("the weights in memory are those of the files: none random, none left out")
    measure_memory(result)


def measure_memory(result: LoadResult) -> None:
    """Libraries map weights into memory and read them when needed: only now have all been touched."""
    result.peak_rss_bytes = measurement.read_peak_memory()
    result.enter("checks")


def check_vocabulary(
    declared: vocabulary.Vocabulary | None, tokenizer: Any, report: load_report.LoadReport | None, result: LoadResult
) -> None:
    """The tokenizer in memory is that of the files, and the model has rows for its tokens."""
    if declared is None or not hasattr(tokenizer, "get_vocab"):
        return
    table: Any = report.model.get_input_embeddings() if report else None
    rows = int(table.weight.shape[0]) if hasattr(table, "weight") else None
    held = {str(token): int(number) for token, number in tokenizer.get_vocab().items()}
    result.warn(*vocabulary.check_vocabulary(declared, held, rows))
    result.add_check(f"the tokenizer holds the vocabulary of {declared.source}")


def require_encoder_only(config: Any, alias: str) -> None:
    """The model has no decoder beside an encoder, which the probes for models of transformers would not feed."""
    if getattr(config, "is_encoder_decoder", False):
        raise CheckFailedError(
            f"{alias} is an encoder with a decoder, and there is no proof for such a model alone.",
            "Give it the loader sentence-transformers if it has a modules.json, or carry it with the loader files.",
        )


def check_repeatable(
    texts: Sequence[str],
    first: Sequence[Vector],
    second: Sequence[Vector],
    result: LoadResult,
    noun: str = model_checks.VECTOR,
) -> None:
    """What came out is made of numbers and comes out again."""
    model_checks.check_finite(texts, first, noun)
    result.add_check(f"{noun}s are made of finite numbers")
    model_checks.check_repeatable(texts, first, second, noun)
    result.add_check(f"the same text gives the same {noun} again")


def check_distinct(
    texts: Sequence[str],
    vectors: Sequence[Vector],
    tokens: Sequence[Sequence[int]],
    result: LoadResult,
    noun: str = model_checks.VECTOR,
) -> None:
    """What came out says something about the text."""
    model_checks.check_not_zero(texts, vectors, noun)
    model_checks.check_not_constant(texts, vectors, noun)
    result.add_check(f"no {noun} is zero or constant")
    result.warn(*model_checks.check_different(texts, vectors, tokens, noun))
    result.add_check(f"different texts give different {noun}s")


def check_golden(
    request: Request,
    result: LoadResult,
    texts: Sequence[str],
    tokenize: Callable[[str], Sequence[int]],
    vectors: Mapping[str, Sequence[Vector]],
) -> None:
    """Notes what the model gave, of each kind of vector one for each text, and holds it against the rehearsal."""
    result.machine = platform.machine()
    found = goldens.make_outputs(texts, tokenize, vectors)
    result.outputs = goldens.encode_outputs(found)
    if request.golden is not None:
        goldens.check_outputs(request.golden, found, texts, result, request.tolerance)


def make_tokenize(tokenizer: Any) -> Callable[[str], Sequence[int]]:
    """What makes of a text the tokens that the model sees, marks at its ends included; nothing without a tokenizer."""

    def tokens_of(line: str) -> Sequence[int]:
        if callable(tokenizer):
            return list(tokenizer(line)["input_ids"])
        return list(tokenizer.encode(line).ids) if hasattr(tokenizer, "encode") else []

    return tokens_of


def check_triples(request: Request, embed: Callable[[tuple[str, ...]], Sequence[Vector]], result: LoadResult) -> None:
    """Of each triple, the query is nearer to the text that it should be nearer to."""
    for triple in request.closer:
        vectors = embed(triple)
        model_checks.check_finite(triple, vectors)
        model_checks.check_not_zero(triple, vectors)
        near, far = model_checks.check_triple(triple, *vectors)
        result.closer.append(TripleResult(query=triple[0], nearer=round(near, 6), farther=round(far, 6)))
    if request.closer:
        result.add_check("what should be closer is closer")


def check_memory(request: Request, result: LoadResult) -> None:
    """The load kept to the memory that the manifest allows."""
    model_checks.check_memory(result.peak_rss_bytes, request.ram_limit)
    if request.ram_limit:
        result.add_check("memory stays within the limit")


def _tokenize(tokenizer: Any, line: str) -> list[int]:
    if callable(tokenizer):
        return list(tokenizer(line, add_special_tokens=False)["input_ids"])
    found = tokenizer.encode(line, add_special_tokens=False)  # of the library tokenizers, which may pad even one text
    return [number for number, real in zip(found.ids, found.attention_mask, strict=True) if real]


def _find_unknown_token(tokenizer: Any) -> int | None:
    if hasattr(tokenizer, "unk_token_id"):
        return tokenizer.unk_token_id if isinstance(tokenizer.unk_token_id, int) else None
    word = getattr(tokenizer.model, "unk_token", None)
    number = tokenizer.token_to_id(word) if isinstance(word, str) else None
    return number if isinstance(number, int) else None


def _is_comparable(folder: Path, result: LoadResult) -> bool:
    """Whether the files hold the weights as they are in memory."""
    if (folder / "adapter_config.json").is_file():
        result.warn("This model is an adapter: its weights were not held against the files.")
        return False
    if "quantization_config" in declared_config.read_config(folder):
        result.warn("The weights are quantised: they were not held against the files.")
        return False
    return True
