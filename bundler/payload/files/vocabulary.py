"""Checks that the loaded tokenizer is the one in the files, and knows the words of the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checks.model_checks import quote
from ..results.failures import DAMAGED_HINT, MISMATCH_HINT, REBUILD_HINT, CheckFailedError, format_list, pluralize
from .json_files import get_text, read_object, read_optional_object

# In the order in which transformers prefers them. Only their libraries can count the tokens of the last ones.
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "spm.model")
UNCOUNTED_FILES = ("tekken.json", "tiktoken.model", "merges.txt")
# They work on bytes or code points, and need no file.
_FILELESS_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")

MIN_ROW_SHARE = 0.5  # of the embedding rows; a smaller vocabulary is an error
USUAL_ROW_SHARE = (
    0.9  # of the embedding rows; a smaller vocabulary is a warning, since rounding leaves fewer rows empty
)
MAX_LOST_SHARE = 0.001  # of the declared tokens that may be missing: special tokens that a library leaves out
MAX_UNKNOWN_SHARE = 0.5
LONG_FIELD, VARINT, FIXED64, FIXED32 = 2, 0, 1, 5  # wire types of protocol buffers


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The vocabulary that a file declares; ``ids`` is empty if only the number of tokens is known."""

    source: str
    size: int
    ids: Mapping[str, int]


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Read the vocabulary in the files of `folder`; None for a tokenizer that needs none.

    Raises:
        CheckFailedError: There is no vocabulary: transformers would make one of a few special tokens.
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
        "model. The libraries would use a few special tokens and know no word.",
        REBUILD_HINT,
    )


def check_vocabulary(declared: Vocabulary, loaded: Mapping[str, int], rows: int | None) -> list[str]:
    """Check that the tokenizer in memory has the declared tokens, and that the model has rows for them.

    Args:
        declared: The vocabulary of the files.
        loaded: Token numbers of the loaded tokenizer.
        rows: The number of token embeddings; None if it is not known.

    Returns:
        Warnings.
    """
    moved = [token for token, number in declared.ids.items() if token in loaded and loaded[token] != number]
    lost = [token for token in declared.ids if token not in loaded]
    if (
        moved
        or len(lost) > MAX_LOST_SHARE * max(1, declared.size)
        or len(loaded) < declared.size * (1 - MAX_LOST_SHARE)
    ):
        raise CheckFailedError(
            f"{declared.source} declares {declared.size} tokens, but the loaded tokenizer has {len(loaded)}: {len(lost)} are "
            f"missing and {len(moved)} have another number.",
            "The tokenizer files disagree, or the installed transformers reads them differently. Take all of them from one "
            "revision of the model, and pin a transformers version that is known to load it.",
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
            f"The tokenizer knows {len(loaded)} tokens, but the model has {rows} rows for them: it is not this model's "
            "tokenizer.",
            MISMATCH_HINT,
        )
    if len(loaded) < USUAL_ROW_SHARE * rows:
        warnings.append(f"The tokenizer knows {len(loaded)} tokens, but the model has {rows} rows for them.")
    beyond = [token for token, number in loaded.items() if number >= rows]
    if len(beyond) > MAX_LOST_SHARE * len(loaded):
        raise CheckFailedError(
            f"The model has {rows} rows for tokens, and {pluralize(beyond, 'token')} of the tokenizer have a larger number.",
            MISMATCH_HINT,
        )
    if beyond:
        warnings.append(f"The model has no rows for some tokens of its tokenizer: {format_list(beyond)}.")
    return warnings


def check_known_tokens(
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    unknown_token: int | None,
    size: int,
    *,
    any_language: bool = False,
) -> list[str]:
    """Check that the tokenizer knows the tokens of the texts.

    Args:
        texts: The texts.
        tokens: The token numbers of each text.
        unknown_token: The number of the token for unknown words, if there is one.
        size: Of the tokenizer's vocabulary.
        any_language: Accept a text without a known token, with a warning, if the tokenizer knows another text.

    Returns:
        Warnings.
    """
    hint = (
        "Check that tokenizer.json (or vocab.txt, or the sentencepiece model) is in the bundle, and that smoke: texts "
        "are in a language that the model knows."
    )
    warnings = []
    for text, ids in zip(texts, tokens, strict=True):
        if not ids:
            raise CheckFailedError(f"The tokenizer finds no token in {quote(text)}; its vocabulary holds {size}.", hint)
        if all(number == unknown_token for number in ids):
            warnings.append(f"Every token of {quote(text)} is unknown to the tokenizer; its vocabulary holds {size}.")
    if warnings and (not any_language or len(warnings) == len(texts)):
        raise CheckFailedError(warnings[0], hint)
    flat = [number for ids in tokens for number in ids]
    unknown_count = sum(1 for number in flat if number == unknown_token)
    if unknown_count > MAX_UNKNOWN_SHARE * len(flat):
        raise CheckFailedError(
            f"{unknown_count} of {len(flat)} tokens of the texts are unknown to the tokenizer; its vocabulary holds {size}.",
            hint,
        )
    return warnings


def count_pieces(model: bytes) -> int:
    """Count the tokens of a sentencepiece model: its field 1 occurs once for each (sentencepiece_model.proto)."""
    offset, count = 0, 0
    try:
        while offset < len(model):
            key, offset = _read_varint(model, offset)
            field, wire = key >> 3, key & 7
            if wire == LONG_FIELD:
                length, offset = _read_varint(model, offset)
                offset += length
                count += field == 1
            elif wire == VARINT:
                _, offset = _read_varint(model, offset)
            elif wire in (FIXED64, FIXED32):
                offset += 8 if wire == FIXED64 else 4
            else:
                raise CheckFailedError("The sentencepiece model is damaged.", DAMAGED_HINT)
    except IndexError as error:
        raise CheckFailedError("The sentencepiece model is cut short.", DAMAGED_HINT) from error
    if offset != len(model) or not count:
        raise CheckFailedError("The sentencepiece model is cut short or empty.", DAMAGED_HINT)
    return count


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:  # a set top bit means that another byte follows
            return value, offset


def _read_vocab_txt(path: Path) -> dict[str, int]:
    """Read one token per line. str.splitlines would also split at tokens that are rare line separators."""
    with path.open(encoding="utf-8", errors="replace") as file:
        tokens = [line.rstrip("\n") for line in file]
    return {token: number for number, token in enumerate(tokens) if token}


def _parse_tokenizer_json(values: dict[str, object]) -> Vocabulary:
    model = values.get("model")
    entries = model.get("vocab") if isinstance(model, dict) else None
    ids: dict[str, int] = {}
    if isinstance(entries, dict):
        ids = {str(token): number for token, number in entries.items() if isinstance(number, int)}
    elif isinstance(entries, list):  # a Unigram model: [piece, score]
        ids = {str(entry[0]): number for number, entry in enumerate(entries) if isinstance(entry, list) and entry}
    added = values.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            ids[get_text(token, "content")] = token["id"]
    return _make_vocabulary("tokenizer.json", ids)


def _make_vocabulary(source: str, ids: dict[str, int]) -> Vocabulary:
    if not ids:
        raise CheckFailedError(f"{source} has no vocabulary.", DAMAGED_HINT)
    return Vocabulary(source=source, size=len(ids), ids=ids)
