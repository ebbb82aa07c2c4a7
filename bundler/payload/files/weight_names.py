"""Names of weights: which of a file are which of a model in memory, and what one that is left over means."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]

# Old names of layer norms, which transformers still reads.
_RENAMED_SUFFIXES = ((".gamma", ".weight"), (".beta", ".bias"))
# Buffers that older versions saved and newer ones compute.
_COMPUTED_BUFFER = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|num_batches_tracked)$"
)
# Parts that hang on a model for another task than embedding: masked words, classes, answers.
_HEAD_NAMES = frozenset(
    {
        "classifier",
        "cls",
        "discriminator_predictions",
        "generator_lm_head",
        "generator_predictions",
        "head",
        "lm_head",
        "lm_loss",
        "lm_predictions",
        "mask_predictions",
        "mlm",
        "mlm_head",
        "pooler",
        "pre_classifier",
        "predictions",
        "qa_outputs",
        "score",
        "seq_relationship",
        "sop_classifier",
        "vocab_layer_norm",
        "vocab_projector",
        "vocab_transform",
    }
)
_LAYER_NAME = re.compile(r"^(.*?)\.(\d+)\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightMatch:
    """``pairs`` are (name in the file, name in memory); ``remade`` are names in the file of what a library joined or
    renamed; the others have no counterpart."""

    pairs: tuple[tuple[str, str], ...]
    transformed: tuple[str, ...]
    only_in_file: tuple[str, ...]
    only_in_memory: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedWeights:
    """Weights of a file that the model did not take: those for another task, those of its body, and the rest."""

    heads: tuple[str, ...]
    body: tuple[str, ...]
    other: tuple[str, ...]


def match_weights(stored: Mapping[str, Shape], loaded: Mapping[str, Shape], prefix: str) -> WeightMatch:
    """Finds for each weight of a file the one in memory; `prefix` is what a model with a head puts before its body.

    Weights that a library renames or fuses as it loads have no counterpart by name; where all of what is left in the
    file is as large as all of what is left in memory, they are taken for each other.
    """
    free = dict(loaded)
    pairs = []
    for name, shape in stored.items():
        found = next((each for each in _iter_loaded_names(name, prefix) if free.get(each) == shape), None)
        if found is not None:
            pairs.append((name, found))
            del free[found]
    taken = {name for name, _ in pairs}
    left = [name for name in stored if name not in taken and not is_computed(name)]
    body = [name for name in left if not _is_head(name, prefix, has_decoder=False)]
    remade: list[str] = []
    if body and free and _count_numbers(stored, body) == _count_numbers(loaded, free):
        remade, free = body, {}
        left = [name for name in left if name not in set(body)]
    absent = tuple(name for name in free if not is_computed(name))
    return WeightMatch(pairs=tuple(pairs), transformed=tuple(remade), only_in_file=tuple(left), only_in_memory=absent)


def sort_unused_weights(
    names: Collection[str], prefix: str, parts: Collection[str], *, has_decoder: bool
) -> UnusedWeights:
    """Sorts weights that the model did not take.

    `parts` are the model's own top-level parts; `two_towers` says that it has a decoder, which embedding leaves out.
    """
    heads, body, other = [], [], []
    for name in sorted(names):
        if is_computed(name):
            continue
        if _is_head(name, prefix, has_decoder=has_decoder):
            heads.append(name)
        elif is_in_layer(name) or _strip_prefix(name, prefix).partition(".")[0] in parts:
            body.append(name)
        else:
            other.append(name)
    return UnusedWeights(heads=tuple(heads), body=tuple(body), other=tuple(other))


def is_computed(name: str) -> bool:
    """Whether this is a buffer that is computed and not learned."""
    return bool(_COMPUTED_BUFFER.search(name))


def is_in_layer(name: str) -> bool:
    """Whether this weight is in one of several layers that are alike: the body of any model."""
    return bool(_LAYER_NAME.search(name))


def count_layers(names: Collection[str], prefix: str) -> dict[str, int]:
    """How many layers each stack of layers has."""
    counts: dict[str, set[str]] = {}
    for name in names:
        found = _LAYER_NAME.search(_strip_prefix(name, prefix))
        if found:
            counts.setdefault(found[1], set()).add(found[2])
    return {stack: len(numbers) for stack, numbers in counts.items()}


def describe_layer_gap(stored: Collection[str], loaded: Collection[str], prefix: str) -> str:
    """In words, the first stack of layers that is higher in the file than in memory, or the other way round."""
    here, there = count_layers(loaded, prefix), count_layers(stored, prefix)
    gaps = (
        f"the weights hold {there[stack]} layers of {stack}, and the model was built with {here[stack]}"
        for stack in there
        if stack in here and here[stack] != there[stack]
    )
    return next(gaps, "")


def _is_head(name: str, prefix: str, *, has_decoder: bool) -> bool:
    bare = _strip_prefix(name, prefix)
    first = bare.partition(".")[0]
    return first in _HEAD_NAMES or (first == "decoder" and (has_decoder or not is_in_layer(bare)))


def _strip_prefix(name: str, prefix: str) -> str:
    return name.removeprefix(f"{prefix}.") if prefix else name


def _iter_loaded_names(name: str, prefix: str) -> Iterator[str]:
    """The names that a weight may have in memory."""
    for old, new in (("", ""), *_RENAMED_SUFFIXES):
        if old and not name.endswith(old):
            continue
        same = name.removesuffix(old) + new
        yield same
        if prefix:
            yield _strip_prefix(same, prefix)
            yield f"{prefix}.{same}"


def _count_numbers(shapes: Mapping[str, Shape], names: Collection[str]) -> int:
    return sum(math.prod(shapes[name]) for name in names)
