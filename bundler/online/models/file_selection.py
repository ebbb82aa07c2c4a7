"""Which files of a repository travel when nobody says which.

A repository often holds the same weights in many formats. What the loaders of PyTorch read is kept: safetensors,
or ``.bin`` where that is all that is whole. Everything that is not known to be superfluous stays.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from bundler.errors import ManifestError, ResolveError
from bundler.progress import counted

_LITTER = (".gitattributes", ".gitignore", "*/.gitattributes", "*/.gitignore", ".cache/*")

_OTHERS: Mapping[str, tuple[str, ...]] = {
    "ONNX": ("onnx/*", "*/onnx/*", "*.onnx", "*.onnx_data", "*.onnx_data_*", "*.onnx.data"),
    "OpenVINO": ("openvino/*", "*/openvino/*", "openvino_*", "*/openvino_*"),
    "TensorFlow": ("*.h5", "*.tflite", "*.ckpt.index", "*.ckpt.meta", "*.ckpt.data-*", "*saved_model/*"),
    "Flax": ("*.msgpack", "*.msgpack.index.json"),
    "GGUF": ("*.gguf", "*.ggml", "*.llamafile"),
    "Core ML": ("coreml/*", "*.mlmodel", "*.mlpackage/*"),
    "Rust": ("rust_model.ot", "*/rust_model.ot"),
}
"""Weights in formats that PyTorch's loaders do not read."""

_BESIDES: Mapping[str, tuple[str, ...]] = {
    "images": tuple(f"*.{end}" for end in ("png", "jpg", "jpeg", "gif", "webp", "svg", "bmp", "ico", "mp4", "webm")),
    "state of the training": (
        *("optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state*.pth", "training_args.bin", "runs/*"),
        *("*/optimizer.pt", "*/optimizer.bin", "*/scheduler.pt", "*/rng_state*.pth", "*/training_args.bin"),
    ),
}
_USED = (
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""What transformers reads where it is there, and does without in silence where it is not."""
_TWICE = "weights that are there as safetensors too"
_HALF = "safetensors of which a part is missing, where .bin is whole"

_WEIGHTS = re.compile(r"(?P<stem>.+?)(?:-(?P<number>\d{5})-of-(?P<count>\d{5}))?\.(?P<format>safetensors|bin)")
_INDEX = re.compile(r"(?P<stem>.+)\.(?P<format>safetensors|bin)\.index\.json")
_ORIGINAL = ("consolidated.*.pth", "consolidated.safetensors")
"""What Meta and Mistral publish beside the same weights for transformers."""
_OF_TORCH = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A file that does not travel, and what it is."""

    path: str
    size: int
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The files that travel, sorted, and those that a default leaves out."""

    kept: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def words(self) -> str:
        """What is left out and what that saves; "" where that is nothing."""
        if not self.left_out:
            return ""
        kinds: dict[str, list[LeftOut]] = {}
        for one in self.left_out:
            kinds.setdefault(one.what, []).append(one)
        listed = "; ".join(f"{what} ({counted(len(files), 'file')})" for what, files in kinds.items())
        saved = sum(one.size for one in self.left_out)
        return f"leaves out {listed}; that saves {saved:,} bytes ('include' would name what is wanted)"


def choose(
    files: Mapping[str, int], include: Sequence[str], exclude: Sequence[str], *, where: str, all_kinds: bool = False
) -> Chosen:
    """Which of ``files`` (path to bytes) travel.

    ``include`` is exact: what matches one of its patterns and nothing else. Without it formats that are not needed
    are left out, unless ``all_kinds``. ``exclude`` counts first in either case. Raises ManifestError when nothing
    is left, ResolveError when there are weights and the default would leave out all of them.
    """
    there = sorted(name for name in files if not _matches(name, exclude) and not _matches(name, _LITTER))
    if include:
        there = [name for name in there if _matches(name, include)]
    if not there:
        raise ManifestError("no files are left: the source is empty, or include and exclude leave nothing", where=where)
    if include or all_kinds:
        return Chosen(kept=tuple(there))
    unwanted = {name: what for name in there if (what := _unwanted(name))}
    rest = [name for name in there if name not in unwanted]
    unwanted |= dict.fromkeys(_twice(rest), _TWICE) | dict.fromkeys(_half(rest), _HALF)
    kept = tuple(name for name in there if name not in unwanted)
    formats = sorted({what for what in unwanted.values() if what in _OTHERS})
    if formats and not any(name.endswith(_OF_TORCH) for name in kept):
        hint = "name the files that you want with 'include'"
        raise ResolveError(f"its weights are there as {' and '.join(formats)} only", where=where, hint=hint)
    left = (LeftOut(path=name, size=files[name], what=what) for name, what in sorted(unwanted.items()))
    return Chosen(kept=kept, left_out=tuple(left))


def missed(files: Iterable[str], kept: Iterable[str]) -> list[str]:
    """Small files that stay behind although libraries use them with what travels: templates, settings, processors."""
    travels = set(kept)
    if "config.json" not in travels and "tokenizer_config.json" not in travels:
        return []
    return sorted(name for name in files if name not in travels and _matches(name, _USED))


def removed(files: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> frozenset[str]:
    """Those of a source's files that the patterns of a manifest keep from travelling."""
    return frozenset(name for name in files if _matches(name, exclude) or (include and not _matches(name, include)))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _unwanted(name: str) -> str:
    """What a file is that no loader of ours reads; "" for any other."""
    return next((what for what, patterns in {**_OTHERS, **_BESIDES}.items() if _matches(name.lower(), patterns)), "")


def _twice(names: Sequence[str]) -> set[str]:
    """Weights in another format of which the folder holds a whole set of safetensors."""
    here, by_folder = set(names), _by_folder(names)
    whole = {
        (folder, stem)
        for folder, inside in by_folder.items()
        for stem in _stems(inside, "safetensors")
        if _is_whole(folder, stem, "safetensors", here)
    }
    found: set[str] = set()
    for folder, inside in by_folder.items():
        for name in inside:
            stem = _stem(PurePosixPath(name).name, "bin")
            if stem and (folder, re.sub(r"^pytorch_model\b", "model", stem)) in whole:
                found.add(name)
    if (".", "model") in whole:
        found |= {name for name in names if _matches(PurePosixPath(name).name, _ORIGINAL)}
    return found


def _half(names: Sequence[str]) -> set[str]:
    """Safetensors of which the folder has a part where the same weights are whole as ``.bin``.

    transformers takes safetensors wherever it sees an index of them, and fails where a shard is missing.
    """
    here = set(names)
    found: set[str] = set()
    for folder, inside in _by_folder(names).items():
        half = {stem for stem in _stems(inside, "safetensors") if not _is_whole(folder, stem, "safetensors", here)}
        instead = {stem for stem in half if _is_whole(folder, re.sub(r"^model\b", "pytorch_model", stem), "bin", here)}
        for stem in instead:
            mine = {name for name in inside if _stem(PurePosixPath(name).name, "safetensors") == stem}
            others = [name for name in inside if name.endswith(".safetensors") and name not in mine]
            if not others or any(name.endswith(".safetensors") for name in mine):  # else its index may name the others
                found |= mine
    return found


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(str(PurePosixPath(name).parent), []).append(name)
    return found


def _stems(names: Iterable[str], form: str) -> set[str]:
    return {stem for name in names if (stem := _stem(PurePosixPath(name).name, form))}


def _stem(name: str, form: str) -> str:
    """What weights of one format are called without shard numbers and endings: ``model``, ``adapter_model``."""
    found = _INDEX.fullmatch(name) or _WEIGHTS.fullmatch(name)
    return found["stem"] if found and found["format"] == form else ""


def _is_whole(folder: str, stem: str, form: str, here: set[str]) -> bool:
    """Whether a folder has all weights of that name and format: one file, or an index and every shard."""
    start = "" if folder == "." else f"{folder}/"
    if f"{start}{stem}.{form}" in here:
        return True
    shards = [
        found for name in here if (found := _WEIGHTS.fullmatch(name.removeprefix(start))) and name.startswith(start)
    ]
    mine = [found for found in shards if found["stem"] == stem and found["count"] and found["format"] == form]
    counts = {int(found["count"]) for found in mine}
    return (
        f"{start}{stem}.{form}.index.json" in here
        and len(counts) == 1
        and {int(found["number"]) for found in mine} == set(range(1, 1 + counts.pop()))
    )
