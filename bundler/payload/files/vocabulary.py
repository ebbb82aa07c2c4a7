"""Whether the tokenizer that was loaded is the one whose files are there, and knows the words it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checks.model_checks import quoted
from ..results.failures import DAMAGED, NOT_THIS_MODEL, REBUILD, CheckFailed, counted, listed
from .json_files import mapping, optional_mapping, text

# In the order in which transformers prefers them; the last ones have a form that only their library counts.
SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "spm.model")
UNCOUNTED = ("tekken.json", "tiktoken.model", "merges.txt")
# These take bytes or code points, and need no file.
_WITHOUT = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")

FEW_ROWS = 0.5  # of the embedding rows that a vocabulary must at least fill
MOST_ROWS = 0.9  # that it nearly always fills: more are left empty by no more than rounding
MOST_LOST = 0.001  # of the promised tokens that may be absent: special ones that a library leaves out
MOST_UNKNOWN = 0.5
LONG_FIELD, VARINT, FIXED64, FIXED32 = 2, 0, 1, 5  # wire types of protocol buffers


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What a file of the model promises; ``ids`` is empty where the file only tells how many tokens there are."""

    source: str
    size: int
    ids: Mapping[str, int]


def promised(folder: Path) -> Vocabulary | None:
    """The vocabulary in the files of `folder`; None for a tokenizer that needs none.

    :raises CheckFailed: there is no vocabulary, so that transformers would invent one of a handful of tokens
    """
    if (folder / "tokenizer.json").is_file():
        return _of_tokenizer_json(mapping(folder / "tokenizer.json"))
    if (folder / "vocab.txt").is_file():
        return _vocabulary("vocab.txt", _of_lines(folder / "vocab.txt"))
    if (folder / "vocab.json").is_file():
        pairs = mapping(folder / "vocab.json").items()
        return _vocabulary("vocab.json", {token: number for token, number in pairs if isinstance(number, int)})
    for name in SENTENCEPIECE:
        if (folder / name).is_file():
            return Vocabulary(source=name, size=pieces((folder / name).read_bytes()), ids={})
    for name in UNCOUNTED:
        if (folder / name).is_file():
            return Vocabulary(source=name, size=0, ids={})
    if text(optional_mapping(folder / "tokenizer_config.json"), "tokenizer_class") in _WITHOUT:
        return None
    raise CheckFailed(
        "The tokenizer's vocabulary is missing: there is no tokenizer.json, vocab.txt, vocab.json or sentencepiece "
        "model. The libraries would make do with a handful of tokens and not know a single word.",
        REBUILD,
    )


def kept(files: Vocabulary, held: Mapping[str, int], rows: int | None) -> list[str]:
    """Checks that the tokenizer in memory holds the promised tokens, and that the model has rows for them.

    `rows` is the number of token embeddings. Returns warnings.
    """
    moved = [token for token, number in files.ids.items() if token in held and held[token] != number]
    lost = [token for token in files.ids if token not in held]
    if moved or len(lost) > MOST_LOST * max(1, files.size) or len(held) < files.size * (1 - MOST_LOST):
        raise CheckFailed(
            f"{files.source} promises {files.size} tokens, and the loaded tokenizer holds {len(held)}: {len(lost)} are "
            f"missing and {len(moved)} have another number.",
            "The tokenizer files disagree, or the installed transformers reads them otherwise. Take all of them from "
            "one revision of the model, and pin a transformers version that is known to load it.",
        )
    warnings = []
    if lost:
        warnings.append(f"The loaded tokenizer leaves out {counted(lost, 'token')} of {files.source}: {listed(lost)}.")
    if rows is None:
        return warnings
    if len(held) < FEW_ROWS * rows:
        raise CheckFailed(
            f"The tokenizer knows {len(held)} tokens and the model has {rows} rows for them: it is not this model's "
            "tokenizer.",
            NOT_THIS_MODEL,
        )
    if len(held) < MOST_ROWS * rows:
        warnings.append(f"The tokenizer knows {len(held)} tokens, and the model has {rows} rows for them.")
    beyond = [token for token, number in held.items() if number >= rows]
    if len(beyond) > MOST_LOST * len(held):
        raise CheckFailed(
            f"The tokenizer has {counted(beyond, 'token')} beyond the {rows} rows that the model has for them.",
            NOT_THIS_MODEL,
        )
    if beyond:
        warnings.append(f"The model has no rows for some special tokens of its tokenizer: {listed(beyond)}.")
    return warnings


def known(
    texts: Sequence[str], tokens: Sequence[Sequence[int]], unknown: int | None, size: int, *, any_language: bool = False
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
            raise CheckFailed(f"The tokenizer finds no token in {quoted(line)}; its vocabulary holds {size}.", hint)
        if all(number == unknown for number in ids):
            warnings.append(f"Every token of {quoted(line)} is unknown to the tokenizer; its vocabulary holds {size}.")
    if warnings and (not any_language or len(warnings) == len(texts)):
        raise CheckFailed(warnings[0], hint)
    flat = [number for ids in tokens for number in ids]
    strange = sum(1 for number in flat if number == unknown)
    if strange > MOST_UNKNOWN * len(flat):
        raise CheckFailed(
            f"{strange} of {len(flat)} tokens of the texts are unknown to the tokenizer; its vocabulary holds {size}.",
            hint,
        )
    return warnings


def pieces(model: bytes) -> int:
    """How many tokens a sentencepiece model holds: its field 1, once for each (sentencepiece_model.proto)."""
    place, count = 0, 0
    try:
        while place < len(model):
            key, place = _varint(model, place)
            field, wire = key >> 3, key & 7
            if wire == LONG_FIELD:
                length, place = _varint(model, place)
                place += length
                count += field == 1
            elif wire == VARINT:
                _, place = _varint(model, place)
            elif wire in (FIXED64, FIXED32):
                place += 8 if wire == FIXED64 else 4
            else:
                raise CheckFailed("The sentencepiece model is damaged.", DAMAGED)
    except IndexError as error:
        raise CheckFailed("The sentencepiece model is cut short.", DAMAGED) from error
    if place != len(model) or not count:
        raise CheckFailed("The sentencepiece model is cut short or empty.", DAMAGED)
    return count


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:  # the top bit says that another byte follows
            return value, place


def _of_lines(path: Path) -> dict[str, int]:
    """One token a line; str.splitlines would also split at tokens that are rare kinds of line ends."""
    with path.open(encoding="utf-8", errors="replace") as file:
        tokens = [line.rstrip("\n") for line in file]
    return {token: number for number, token in enumerate(tokens) if token}


def _of_tokenizer_json(values: dict[str, object]) -> Vocabulary:
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
            ids[text(token, "content")] = token["id"]
    return _vocabulary("tokenizer.json", ids)


def _vocabulary(source: str, ids: dict[str, int]) -> Vocabulary:
    if not ids:
        raise CheckFailed(f"{source} holds no vocabulary.", DAMAGED)
    return Vocabulary(source=source, size=len(ids), ids=ids)
