"""Names of weights: which name in a file is which name in memory, and what unused weights are for."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]

# Old names in layer norms, which transformers still reads.
_RENAMED_SUFFIXES = ((".gamma", ".weight"), (".beta", ".bias"))
# Buffers that older versions saved and newer versions compute.
_COMPUTED_BUFFER = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|num_batches_tracked)$"
)
# Parts of a model for another task than embedding: masked words, classes, answers.
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
    """Names of a file and of a model in memory, matched.

    ``pairs`` are (name in the file, name in memory); ``transformed`` are names in the file that a library joined or
    renamed; the others have no counterpart.
    """

    pairs: tuple[tuple[str, str], ...]
    transformed: tuple[str, ...]
    only_in_file: tuple[str, ...]
    only_in_memory: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedWeights:
    """Weights of a file that the model does not use: those for another task, those of its body, and the rest."""

    heads: tuple[str, ...]
    body: tuple[str, ...]
    other: tuple[str, ...]


def match_weights(stored: Mapping[str, Shape], loaded: Mapping[str, Shape], prefix: str) -> WeightMatch:
    """Find for each weight of a file the one in memory.

    Weights that a library renames or fuses as it loads have no counterpart by name. If all of the remaining weights
    in the file have as many numbers as the remaining weights in memory, they are taken for each other.

    Args:
        stored: Shapes in the file, by name.
        loaded: Shapes in memory, by name.
        prefix: What a model with a head puts before the names of its body.
    """
    unmatched = dict(loaded)
    pairs = []
    for name, shape in stored.items():
        candidates = _iter_loaded_names(name, prefix)
        loaded_name = next((candidate for candidate in candidates if unmatched.get(candidate) == shape), None)
        if loaded_name is not None:
            pairs.append((name, loaded_name))
            del unmatched[loaded_name]
    matched = {name for name, _ in pairs}
    only_in_file = [name for name in stored if name not in matched and not is_computed(name)]
    body = [name for name in only_in_file if not _is_head(name, prefix, has_decoder=False)]
    transformed: list[str] = []
    if body and unmatched and _count_numbers(stored, body) == _count_numbers(loaded, unmatched):
        transformed, unmatched = body, {}
        only_in_file = [name for name in only_in_file if name not in set(body)]
    return WeightMatch(
        pairs=tuple(pairs),
        transformed=tuple(transformed),
        only_in_file=tuple(only_in_file),
        only_in_memory=tuple(name for name in unmatched if not is_computed(name)),
    )


def sort_unused_weights(
    names: Collection[str], prefix: str, parts: Collection[str], *, has_decoder: bool
) -> UnusedWeights:
    """Sort the weights that the model does not use.

    Args:
        names: Their names in the file.
        prefix: What a model with a head puts before the names of its body.
        parts: The model's top-level parts.
        has_decoder: Whether the file has a decoder, which embedding does not use.
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
    """Whether this is a buffer that is computed, not trained."""
    return bool(_COMPUTED_BUFFER.search(name))


def is_in_layer(name: str) -> bool:
    """Whether this weight is in one of several equal layers, the body of a model."""
    return bool(_LAYER_NAME.search(name))


def count_layers(names: Collection[str], prefix: str) -> dict[str, int]:
    """Count the layers of each stack of layers."""
    counts: dict[str, set[str]] = {}
    for name in names:
        match = _LAYER_NAME.search(_strip_prefix(name, prefix))
        if match:
            counts.setdefault(match[1], set()).add(match[2])
    return {stack: len(numbers) for stack, numbers in counts.items()}


def describe_layer_gap(stored: Collection[str], loaded: Collection[str], prefix: str) -> str:
    """Describe the first stack of layers that has another height in the file than in memory; "" if there is none."""
    built, present = count_layers(loaded, prefix), count_layers(stored, prefix)
    gaps = (
        f"the weights hold {present[stack]} layers of {stack}, but the model was built with {built[stack]}"
        for stack in present
        if stack in built and built[stack] != present[stack]
    )
    return next(gaps, "")


def _is_head(name: str, prefix: str, *, has_decoder: bool) -> bool:
    bare_name = _strip_prefix(name, prefix)
    part = bare_name.partition(".")[0]
    return part in _HEAD_NAMES or (part == "decoder" and (has_decoder or not is_in_layer(bare_name)))


def _strip_prefix(name: str, prefix: str) -> str:
    return name.removeprefix(f"{prefix}.") if prefix else name


def _iter_loaded_names(name: str, prefix: str) -> Iterator[str]:
    """Yield the names that a weight of the file may have in memory."""
    for old, new in (("", ""), *_RENAMED_SUFFIXES):
        if old and not name.endswith(old):
            continue
        candidate = name.removesuffix(old) + new
        yield candidate
        if prefix:
            yield _strip_prefix(candidate, prefix)
            yield f"{prefix}.{candidate}"


def _count_numbers(shapes: Mapping[str, Shape], names: Collection[str]) -> int:
    return sum(math.prod(shapes[name]) for name in names)
