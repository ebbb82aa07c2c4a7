"""The steps that probes share; each records in the result what it checked."""

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

# For a request without two different texts; their content does not matter.
DEFAULT_TEXTS = ("Water boils at one hundred degrees.", "The library opens at nine.", "She plays the violin.")
RESERVED_POSITIONS = 2  # that some kinds of model keep for themselves

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model in memory, as code that uses it would have it, and transformers' reports of the load."""

    model: Any
    reports: tuple[load_report.LoadReport, ...]


def require_folder(request: Request) -> Path:
    """Return the model's folder.

    Raises:
        CheckFailedError: It does not exist.
    """
    if not request.path.is_dir():
        raise CheckFailedError(f"The folder of {request.alias} does not exist: {request.path}.", REBUILD_HINT)
    return request.path


def check_files(
    request: Request, result: LoadResult
) -> tuple[declared_config.TransformersModelConfig, tuple[str, ...]]:
    """Check that the files of a transformers model are complete.

    Returns:
        What the files declare, and the texts to try the model with.
    """
    declared = declared_config.read_transformers_model(require_folder(request))
    result.add_check("config.json, the weights and the vocabulary are complete")
    check_hub_view(request, result)
    return declared, choose_texts(request)


def choose_texts(request: Request) -> tuple[str, ...]:
    """Return the texts of the request, with default texts added if no two of them differ."""
    return request.texts if len(set(request.texts)) > 1 else (*request.texts, *DEFAULT_TEXTS)


def check_hub_view(request: Request, result: LoadResult) -> None:
    """Check that code that asks for the model by its repository id gets these files."""
    if request.repo_id:
        hub_view.check_hub_view(request.repo_id, request.path)
        result.add_check(f"{request.repo_id} is found offline and has the same files")


def load_model(request: Request, result: LoadResult, load: Callable[[str, str], Any]) -> LoadedModel:
    """Load the model with `load`, which takes a folder and a device, and record transformers' reports."""
    result.device = devices.choose_device(request.device)
    result.enter("weights")
    with load_report.record_loads() as reports:
        model, result.load_seconds = measurement.measure_time(lambda: load(str(request.path), result.device))
    result.add_check("loads from its folder with the network cut")
    return LoadedModel(model=model, reports=tuple(reports))


def check_placement(model: Any, result: LoadResult) -> None:
    """Check that every weight has values and is on the chosen device."""
    model_checks.check_on_device([*model.named_parameters(), *model.named_buffers()])
    devices.check_device(model, result.device)
    result.add_check(f"all weights are on the device {result.device}")
    parameter = next(model.parameters(), None)
    result.dtype = "" if parameter is None else str(parameter.dtype).removeprefix("torch.")
    result.parameters = sum(parameter.numel() for parameter in model.parameters())


def check_tokens(
    tokenizer: Any, texts: Sequence[str], result: LoadResult, *, any_language: bool, lower: bool = False
) -> list[list[int]]:
    """Return the token numbers of each text, after a check that the tokenizer knows enough of them."""
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        result.warn("This model has no tokenizer that can be checked.")
        return [[number] for number in range(len(texts))]
    tokens = [_tokenize(tokenizer, text.lower() if lower else text) for text in texts]
    size = len(tokenizer.get_vocab())
    result.warn(
        *vocabulary.check_known_tokens(texts, tokens, _find_unknown_token(tokenizer), size, any_language=any_language)
    )
    result.add_check("the tokenizer knows the words of the texts")
    return tokens


def choose_max_tokens(tokenizer: Any, config: Any, max_tokens: int) -> int:
    """Choose how many tokens of a text to give to a model: at most what it takes, and at most `max_tokens`."""
    positions = getattr(config, "max_position_embeddings", None)
    limits = [max_tokens, int(getattr(tokenizer, "model_max_length", max_tokens))]
    if isinstance(positions, int) and positions > RESERVED_POSITIONS:
        limits.append(positions - RESERVED_POSITIONS)
    return min(limits)


def run_twice(work: Callable[[], Answer], result: LoadResult) -> tuple[Answer, Answer]:
    """Run `work` twice and measure both: the first run also warms up caches."""
    result.enter("first inference")
    first, result.first_seconds = measurement.measure_time(work)
    result.enter("second inference")
    second, result.second_seconds = measurement.measure_time(work)
    result.enter("checks")
    return first, second


def check_weight_values(model: Any, reports: Sequence[load_report.LoadReport], result: LoadResult) -> None:
    """Check that transformers reported no error and that every weight has values."""
    result.enter("compare weights")
    load_report.check_reports(reports)
    zero_embeddings = model_checks.check_weights(model.named_parameters())
    result.add_check("no weight matrix is empty, constant or not a number")
    result.warn(*(f"{name} is all zero, as in models converted from fairseq." for name in zero_embeddings))


def check_file_weights(
    model: Any,
    report: load_report.LoadReport | None,
    folder: Path,
    compute_vectors: Callable[[], Sequence[Vector]],
    result: LoadResult,
) -> None:
    """Compare `model` with the files in `folder`; `compute_vectors` runs some texts through the model."""
    missing = set(report.missing) if report else set()
    unexpected = report.unexpected if report else ()
    layer_gap = ""
    if model.state_dict() and _is_comparable(folder, result):
        # The loaded model's own config may say something else.
        has_decoder = bool(declared_config.read_config(folder).get("is_encoder_decoder"))
        comparison = weights.compare_weights(weights.read_tensors(folder), model, unexpected, has_decoder=has_decoder)
        missing.update(comparison.missing)
        layer_gap = comparison.layer_gap
        result.warn(*weights.check_all_used(comparison))
    result.warn(*weights.check_none_random(model, sorted(missing), layer_gap, compute_vectors))


def check_weights(
    model: Any,
    reports: Sequence[load_report.LoadReport],
    folder: Path,
    compute_vectors: Callable[[], Sequence[Vector]],
    result: LoadResult,
) -> None:
    """Check the weights of a transformers model, or of one inside `model`: their values, and against the files."""
    check_weight_values(model, reports, result)
    report = load_report.find_report(model, reports)
    check_file_weights(report.model if report else model, report, folder, compute_vectors, result)
    result.add_check("the weights in memory are those of the files: none random, none left out")
    measure_memory(result)


def measure_memory(result: LoadResult) -> None:
    """Measure the peak memory now: libraries map weights into memory and read them late, and the checks read all."""
    result.peak_rss_bytes = measurement.read_peak_memory()
    result.enter("checks")


def check_vocabulary(
    declared: vocabulary.Vocabulary | None, tokenizer: Any, report: load_report.LoadReport | None, result: LoadResult
) -> None:
    """Check that the tokenizer in memory is that of the files, and that the model has rows for its tokens."""
    if declared is None or not hasattr(tokenizer, "get_vocab"):
        return
    table: Any = report.model.get_input_embeddings() if report else None
    rows = int(table.weight.shape[0]) if hasattr(table, "weight") else None
    loaded = {str(token): int(number) for token, number in tokenizer.get_vocab().items()}
    result.warn(*vocabulary.check_vocabulary(declared, loaded, rows))
    result.add_check(f"the tokenizer has the vocabulary of {declared.source}")


def require_encoder_only(config: Any, alias: str) -> None:
    """Check that the model has no decoder beside its encoder: the probes for transformers would not run it."""
    if getattr(config, "is_encoder_decoder", False):
        raise CheckFailedError(
            f"{alias} is an encoder with a decoder, and this loader can not check such a model.",
            "Choose the loader sentence-transformers if the model has a modules.json, or the loader files, which installs it "
            "without a smoke load.",
        )


def check_repeatable(
    texts: Sequence[str],
    first: Sequence[Vector],
    second: Sequence[Vector],
    result: LoadResult,
    noun: str = model_checks.VECTOR,
) -> None:
    """Check that the outputs are finite and repeatable."""
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
    """Check that the outputs depend on the text."""
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
    """Record the model's outputs, one vector of each kind for each text, and compare them with the rehearsal's."""
    result.machine = platform.machine()
    outputs = goldens.make_outputs(texts, tokenize, vectors)
    result.outputs = goldens.encode_outputs(outputs)
    if request.golden is not None:
        goldens.check_outputs(request.golden, outputs, texts, result, request.tolerance)


def make_tokenize(tokenizer: Any) -> Callable[[str], Sequence[int]]:
    """Make a function that returns a text's tokens as the model sees them, special tokens included.

    Without a tokenizer it returns no tokens.
    """

    def tokenize(text: str) -> Sequence[int]:
        if callable(tokenizer):
            return list(tokenizer(text)["input_ids"])
        return list(tokenizer.encode(text).ids) if hasattr(tokenizer, "encode") else []

    return tokenize


def check_triples(request: Request, embed: Callable[[tuple[str, ...]], Sequence[Vector]], result: LoadResult) -> None:
    """Check that each query is nearer to the text that it should be nearer to."""
    for triple in request.closer:
        vectors = embed(triple)
        model_checks.check_finite(triple, vectors)
        model_checks.check_not_zero(triple, vectors)
        near, far = model_checks.check_triple(triple, *vectors)
        result.closer.append(TripleResult(query=triple[0], nearer=round(near, 6), farther=round(far, 6)))
    if request.closer:
        result.add_check("every triple has the expected order")


def check_memory(request: Request, result: LoadResult) -> None:
    """Check that the load stayed within the manifest's memory limit."""
    model_checks.check_memory(result.peak_rss_bytes, request.ram_limit)
    if request.ram_limit:
        result.add_check("memory stays within the limit")


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    if callable(tokenizer):
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    encoding = tokenizer.encode(text, add_special_tokens=False)  # the library tokenizers may pad even a single text
    return [number for number, mask in zip(encoding.ids, encoding.attention_mask, strict=True) if mask]


def _find_unknown_token(tokenizer: Any) -> int | None:
    if hasattr(tokenizer, "unk_token_id"):
        return tokenizer.unk_token_id if isinstance(tokenizer.unk_token_id, int) else None
    token = getattr(tokenizer.model, "unk_token", None)
    number = tokenizer.token_to_id(token) if isinstance(token, str) else None
    return number if isinstance(number, int) else None


def _is_comparable(folder: Path, result: LoadResult) -> bool:
    """Whether the files have the weights in the form that they have in memory."""
    if (folder / "adapter_config.json").is_file():
        result.warn("This model is an adapter: its weights were not compared with the files.")
        return False
    if "quantization_config" in declared_config.read_config(folder):
        result.warn("The weights are quantized: they were not compared with the files.")
        return False
    return True
