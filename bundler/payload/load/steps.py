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
from ..results.failures import REBUILD, CheckFailed
from ..results.load_result import Closeness, Record
from . import measurement
from .request import Request

# For a request that gives no two different texts; nothing is asked of them but to differ.
STOCK_TEXTS = ("Water boils at one hundred degrees.", "The library opens at nine.", "She plays the violin.")
KEPT_POSITIONS = 2  # positions that some kinds of model keep for themselves

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A model in memory as the code that uses it would hold it, and what transformers said as it loaded."""

    model: Any
    loads: tuple[load_report.Load, ...]


def folder(request: Request) -> Path:
    """The model's folder.

    :raises CheckFailed: it is not there
    """
    if not request.path.is_dir():
        raise CheckFailed(f"The folder of {request.alias} is not there: {request.path}.", REBUILD)
    return request.path


def begun(request: Request, record: Record) -> tuple[declared_config.Plain, tuple[str, ...]]:
    """For a model of transformers alone: what its files promise, all being there, and the texts to try it with."""
    promised = declared_config.plain(folder(request))
    record.passed("config.json, the weights and the vocabulary are there and whole")
    found_offline(request, record)
    return promised, texts(request)


def texts(request: Request) -> tuple[str, ...]:
    """The texts of the request, filled up where no two of them differ."""
    return request.texts if len(set(request.texts)) > 1 else (*request.texts, *STOCK_TEXTS)


def found_offline(request: Request, record: Record) -> None:
    """Code that asks for the model by its repository id gets these files."""
    if request.repo_id:
        hub_view.prove(request.repo_id, request.path)
        record.passed(f"{request.repo_id} is found offline, and is these files")


def opened(request: Request, record: Record, make: Callable[[str, str], Any]) -> Opened:
    """Loads with `make`, which takes a folder and a device, and listens to transformers meanwhile."""
    record.device = devices.chosen(request.device)
    record.enter("weights")
    with load_report.heard() as loads:
        model, record.load_seconds = measurement.timed(lambda: make(str(request.path), record.device))
    record.passed("loads from its folder with the network cut")
    return Opened(model=model, loads=tuple(loads))


def in_place(model: Any, record: Record) -> None:
    """Every weight has content and is on the device that was chosen."""
    model_checks.on_a_device([*model.named_parameters(), *model.named_buffers()])
    devices.obeyed(model, record.device)
    record.passed(f"all weights are on the device {record.device}")
    first = next(model.parameters(), None)
    record.dtype = "" if first is None else str(first.dtype).removeprefix("torch.")
    record.parameters = sum(parameter.numel() for parameter in model.parameters())


def tokens(
    tokenizer: Any, lines: Sequence[str], record: Record, *, any_language: bool, lower: bool = False
) -> list[list[int]]:
    """The token numbers of each text, after a check that they mean something."""
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        record.warn("This model has no tokenizer that could be checked.")
        return [[number] for number in range(len(lines))]
    found = [_numbers(tokenizer, line.lower() if lower else line) for line in lines]
    size = len(tokenizer.get_vocab())
    record.warn(*vocabulary.known(lines, found, _unknown(tokenizer), size, any_language=any_language))
    record.passed("the tokenizer knows the words of the texts")
    return found


def longest(tokenizer: Any, config: Any, most: int) -> int:
    """How many tokens of a text to give to a model: no more than it takes, and no more than `most`."""
    positions = getattr(config, "max_position_embeddings", None)
    limits = [most, int(getattr(tokenizer, "model_max_length", most))]
    if isinstance(positions, int) and positions > KEPT_POSITIONS:
        limits.append(positions - KEPT_POSITIONS)
    return min(limits)


def twice(work: Callable[[], Answer], record: Record) -> tuple[Answer, Answer]:
    """What `work` gives, two times; the first time warms up what later requests find warm."""
    record.enter("first inference")
    first, record.first_seconds = measurement.timed(work)
    record.enter("second inference")
    again, record.second_seconds = measurement.timed(work)
    record.enter("checks")
    return first, again


def weights_learned(model: Any, loads: Sequence[load_report.Load], record: Record) -> None:
    """transformers reported no fault, and no weight is void."""
    record.enter("compare weights")
    load_report.sound(loads)
    zero = model_checks.weights(model.named_parameters())
    record.passed("no weight matrix is empty, constant or not a number")
    record.warn(*(f"{name} is all zero, as models made from fairseq have it." for name in zero))


def weights_of_files(
    model: Any, load: load_report.Load | None, place: Path, answers: Callable[[], Sequence[Vector]], record: Record
) -> None:
    """Holds `model` against the files in `place`; `answers` are what it gives for some texts as it is."""
    missing = set(load.missing) if load else set()
    unexpected = load.unexpected if load else ()
    gap = ""
    if model.state_dict() and _comparable(place, record):
        two_towers = bool(declared_config.configuration(place).get("is_encoder_decoder"))  # the loaded one may deny it
        found = weights.compare(weights.entries(place), model, unexpected, two_towers=two_towers)
        missing.update(found.missing)
        gap = found.gap
        record.warn(*weights.all_used(found))
    record.warn(*weights.none_invented(model, sorted(missing), gap, answers))


def weights_proved(
    model: Any,
    loads: Sequence[load_report.Load],
    place: Path,
    answers: Callable[[], Sequence[Vector]],
    record: Record,
) -> None:
    """Both of the above for a model that is one of transformers; `model` may hold it within."""
    weights_learned(model, loads, record)
    load = load_report.within(model, loads)
    weights_of_files(load.model if load else model, load, place, answers, record)
    record.passed("the weights in memory are those of the files: none random, none left out")
    measured(record)


def measured(record: Record) -> None:
    """Libraries map weights into memory and read them when needed: only now have all been touched."""
    record.peak_rss_bytes = measurement.peak_rss_bytes()
    record.enter("checks")


def vocabulary_held(
    files: vocabulary.Vocabulary | None, tokenizer: Any, load: load_report.Load | None, record: Record
) -> None:
    """The tokenizer in memory is that of the files, and the model has rows for its tokens."""
    if files is None or not hasattr(tokenizer, "get_vocab"):
        return
    table: Any = load.model.get_input_embeddings() if load else None
    rows = int(table.weight.shape[0]) if hasattr(table, "weight") else None
    held = {str(token): int(number) for token, number in tokenizer.get_vocab().items()}
    record.warn(*vocabulary.kept(files, held, rows))
    record.passed(f"the tokenizer holds the vocabulary of {files.source}")


def one_tower(config: Any, alias: str) -> None:
    """The model has no decoder beside an encoder, which the probes for models of transformers would not feed."""
    if getattr(config, "is_encoder_decoder", False):
        raise CheckFailed(
            f"{alias} is an encoder with a decoder, and there is no proof for such a model alone.",
            "Give it the loader sentence-transformers if it has a modules.json, or carry it with the loader files.",
        )


def same_twice(
    lines: Sequence[str],
    first: Sequence[Vector],
    again: Sequence[Vector],
    record: Record,
    noun: str = model_checks.VECTOR,
) -> None:
    """What came out is made of numbers and comes out again."""
    model_checks.finite(lines, first, noun)
    record.passed(f"{noun}s are made of finite numbers")
    model_checks.same_again(lines, first, again, noun)
    record.passed(f"the same text gives the same {noun} again")


def telling(
    lines: Sequence[str],
    found: Sequence[Vector],
    numbers: Sequence[Sequence[int]],
    record: Record,
    noun: str = model_checks.VECTOR,
) -> None:
    """What came out says something about the text."""
    model_checks.not_zero(lines, found, noun)
    model_checks.not_constant(lines, found, noun)
    record.passed(f"no {noun} is zero or constant")
    record.warn(*model_checks.different(lines, found, numbers, noun))
    record.passed(f"different texts give different {noun}s")


def golden(
    request: Request,
    record: Record,
    lines: Sequence[str],
    tokens_of: Callable[[str], Sequence[int]],
    vectors: Mapping[str, Sequence[Vector]],
) -> None:
    """Notes what the model gave, of each kind of vector one for each text, and holds it against the rehearsal."""
    record.machine = platform.machine()
    found = goldens.outputs(lines, tokens_of, vectors)
    record.outputs = goldens.plain(found)
    if request.golden is not None:
        goldens.hold(request.golden, found, lines, record, request.tolerance)


def whole(tokenizer: Any) -> Callable[[str], Sequence[int]]:
    """What makes of a text the tokens that the model sees, marks at its ends included; nothing without a tokenizer."""

    def tokens_of(line: str) -> Sequence[int]:
        if callable(tokenizer):
            return list(tokenizer(line)["input_ids"])
        return list(tokenizer.encode(line).ids) if hasattr(tokenizer, "encode") else []

    return tokens_of


def closer(request: Request, embed: Callable[[tuple[str, ...]], Sequence[Vector]], record: Record) -> None:
    """Of each triple, the query is nearer to the text that it should be nearer to."""
    for triple in request.closer:
        vectors = embed(triple)
        model_checks.finite(triple, vectors)
        model_checks.not_zero(triple, vectors)
        near, far = model_checks.closer(triple, *vectors)
        record.closer.append(Closeness(query=triple[0], nearer=round(near, 6), farther=round(far, 6)))
    if request.closer:
        record.passed("what should be closer is closer")


def within_memory(request: Request, record: Record) -> None:
    """The load kept to the memory that the manifest allows."""
    model_checks.memory(record.peak_rss_bytes, request.ram_limit)
    if request.ram_limit:
        record.passed("memory stays within the limit")


def _numbers(tokenizer: Any, line: str) -> list[int]:
    if callable(tokenizer):
        return list(tokenizer(line, add_special_tokens=False)["input_ids"])
    found = tokenizer.encode(line, add_special_tokens=False)  # of the library tokenizers, which may pad even one text
    return [number for number, real in zip(found.ids, found.attention_mask, strict=True) if real]


def _unknown(tokenizer: Any) -> int | None:
    if hasattr(tokenizer, "unk_token_id"):
        return tokenizer.unk_token_id if isinstance(tokenizer.unk_token_id, int) else None
    word = getattr(tokenizer.model, "unk_token", None)
    number = tokenizer.token_to_id(word) if isinstance(word, str) else None
    return number if isinstance(number, int) else None


def _comparable(place: Path, record: Record) -> bool:
    """Whether the files hold the weights as they are in memory."""
    if (place / "adapter_config.json").is_file():
        record.warn("This model is an adapter: its weights were not held against the files.")
        return False
    if "quantization_config" in declared_config.configuration(place):
        record.warn("The weights are quantised: they were not held against the files.")
        return False
    return True
