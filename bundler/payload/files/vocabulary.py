"""Whether the tokenizer that was loaded is the one whose files are there, and knows the words it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checks.model_checks import quote
from ..results.failures import DAMAGED_HINT, MISMATCH_HINT, REBUILD_HINT, CheckFailedError, format_list, pluralize
from .json_files import get_text, read_object, read_optional_object

# In the order in which transformers prefers them; the last ones have a form that only their library counts.
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "spm.model")
UNCOUNTED_FILES = ("tekken.json", "tiktoken.model", "merges.txt")
# These take bytes or code points, and need no file.
_FILELESS_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")

MIN_ROW_SHARE = 0.5  # of the embedding rows that a vocabulary must at least fill
USUAL_ROW_SHARE = 0.9  # that it nearly always fills: more are left empty by no more than rounding
MAX_LOST_SHARE = 0.001  # of the promised tokens that may be absent: special ones that a library leaves out
MAX_UNKNOWN_SHARE = 0.5
LONG_FIELD, VARINT, FIXED64, FIXED32 = 2, 0, 1, 5  # wire types of protocol buffers


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What a file of the model promises; ``ids`` is empty where the file only tells how many tokens there are."""

    source: str
    size: int
    ids: Mapping[str, int]


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The vocabulary in the files of `folder`; None for a tokenizer that needs none.

    :raises CheckFailed: there is no vocabulary, so that transformers would invent one of a handful of tokens
    """
    if (folder / "tokenizer.json").is_file():
        return _parse_tokenizer_json(read_object(folder / "tokenizer.json"))
    if (folder / "vocab.txt").is_file():
        return _make_vocabulary("vocab.txt", _read_vocab_txt(folder / "vocab.txt"))
    if (folder / "vocab.json").is_file():
        pairs = read_object(folder / "vocab.json").items()
        return _make_vocabulary("vocab.json", {token: number for token, number in pairs if isinstance(number, int)})
    for name in SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            return Vocabulary(source=name, size=count_pieces((folder / name).read_bytes()), ids={})
    for name in UNCOUNTED_FILES:
        if (folder / name).is_file():
            return Vocabulary(source=name, size=0, ids={})
    if get_text(read_optional_object(folder / "tokenizer_config.json"), "tokenizer_class") in _FILELESS_TOKENIZERS:
        return None
    raise CheckFailedError(
        "The tokenizer's vocabulary is missing: there is no tokenizer.json, vocab.txt, vocab.json or sentencepiece "
        "model. The libraries would make do with a handful of tokens and not know a single word.",
        REBUILD_HINT,
    )


def check_vocabulary(declared: Vocabulary, loaded: Mapping[str, int], rows: int | None) -> list[str]:
    """Checks that the tokenizer in memory holds the promised tokens, and that the model has rows for them.

    `rows` is the number of token embeddings. Returns warnings.
    """
    moved = [token for token, number in declared.ids.items() if token in loaded and loaded[token] != number]
    lost = [token for token in declared.ids if token not in loaded]
    if (
        moved
        or len(lost) > MAX_LOST_SHARE * max(1, declared.size)
        or len(loaded) < declared.size * (1 - MAX_LOST_SHARE)
    ):
        raise CheckFailedError(
            f"{declared.source} promises {declared.size} tokens, and the loaded tokenizer holds {len(loaded)}: {len(lost)} are "
            f"missing and {len(moved)} have another number.",
            "The tokenizer files disagree, or the installed transformers reads them otherwise. Take all of them from "
            "one revision of the model, and pin a transformers version that is known to load it.",
        )
    warnings = []
    if lost:
        warnings.append(
            f"The loaded tokenizer leaves out {pluralize(lost, 'token')} of {declared.source}: {format_list(lost)}."
        )
    if rows is None:
        return warnings
    if len(loaded) < MIN_ROW_SHARE * rows:
        raise CheckFailedError(
            f"The tokenizer knows {len(loaded)} tokens and the model has {rows} rows for them: it is not this model's "
            "tokenizer.",
            MISMATCH_HINT,
        )
    if len(loaded) < USUAL_ROW_SHARE * rows:
        warnings.append(f"The tokenizer knows {len(loaded)} tokens, and the model has {rows} rows for them.")
    beyond = [token for token, number in loaded.items() if number >= rows]
    if len(beyond) > MAX_LOST_SHARE * len(loaded):
        raise CheckFailedError(
            f"The tokenizer has {pluralize(beyond, 'token')} beyond the {rows} rows that the model has for them.",
            MISMATCH_HINT,
        )
    if beyond:
        warnings.append(f"The model has no rows for some special tokens of its tokenizer: {format_list(beyond)}.")
    return warnings


def check_known_tokens(
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    unknown_token: int | None,
    size: int,
    *,
    any_language: bool = False,
) -> list[str]:
    """Checks that the texts are made of tokens that the tokenizer knows; `size` is that of its vocabulary.

    With `any_language`, a text of which no token is known is a warning as long as others are known.
    """
    hint = (
        "Check that tokenizer.json (or vocab.txt, or the sentencepiece model) is in the bundle, and that smoke: texts "
        "are in a language that the model knows."
    )
    warnings = []
    for line, ids in zip(texts, tokens, strict=True):
        if not ids:
            raise CheckFailedError(f"The tokenizer finds no token in {quote(line)}; its vocabulary holds {size}.", hint)
        if all(number == unknown_token for number in ids):
            warnings.append(f"Every token of {quote(line)} is unknown to the tokenizer; its vocabulary holds {size}.")
    if warnings and (not any_language or len(warnings) == len(texts)):
        raise CheckFailedError(warnings[0], hint)
    flat = [number for ids in tokens for number in ids]
    strange = sum(1 for number in flat if number == unknown_token)
    if strange > MAX_UNKNOWN_SHARE * len(flat):
        raise CheckFailedError(
            f"{strange} of {len(flat)} tokens of the texts are unknown to the tokenizer; its vocabulary holds {size}.",
            hint,
        )
    return warnings


def count_pieces(model: bytes) -> int:
    """How many tokens a sentencepiece model holds: its field 1, once for each (sentencepiece_model.proto)."""
    place, count = 0, 0
    try:
        while place < len(model):
            key, place = _read_varint(model, place)
            field, wire = key >> 3, key & 7
            if wire == LONG_FIELD:
                length, place = _read_varint(model, place)
                place += length
                count += field == 1
            elif wire == VARINT:
                _, place = _read_varint(model, place)
            elif wire in (FIXED64, FIXED32):
                place += 8 if wire == FIXED64 else 4
            else:
                raise CheckFailedError("The sentencepiece model is damaged.", DAMAGED_HINT)
    except IndexError as error:
        raise CheckFailedError("The sentencepiece model is cut short.", DAMAGED_HINT) from error
    if place != len(model) or not count:
        raise CheckFailedError("The sentencepiece model is cut short or empty.", DAMAGED_HINT)
    return count


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:  # the top bit says that another byte follows
            return value, offset


def _read_vocab_txt(path: Path) -> dict[str, int]:
    """One token a line; str.splitlines would also split at tokens that are rare kinds of line ends."""
    with path.open(encoding="utf-8", errors="replace") as file:
        tokens = [line.rstrip("\n") for line in file]
    return {token: number for number, token in enumerate(tokens) if token}


def _parse_tokenizer_json(values: dict[str, object]) -> Vocabulary:
    model = values.get("model")
    entries = model.get("vocab") if isinstance(model, dict) else None
    ids: dict[str, int] = {}
    if isinstance(entries, dict):
        ids = {str(token): number for token, number in entries.items() if isinstance(number, int)}
    elif isinstance(entries, list):  # of a Unigram model: [piece, score]
        ids = {str(entry[0]): number for number, entry in enumerate(entries) if isinstance(entry, list) and entry}
    added = values.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            ids[get_text(token, "content")] = token["id"]
    return _make_vocabulary("tokenizer.json", ids)


def _make_vocabulary(source: str, ids: dict[str, int]) -> Vocabulary:
    if not ids:
        raise CheckFailedError(f"{source} holds no vocabulary.", DAMAGED_HINT)
    return Vocabulary(source=source, size=len(ids), ids=ids)
