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
from bundler.progress import pluralize

_IGNORED_PATTERNS = (".gitattributes", ".gitignore", "*/.gitattributes", "*/.gitignore", ".cache/*")

_OTHER_FORMATS: Mapping[str, tuple[str, ...]] = {
    "ONNX": ("onnx/*", "*/onnx/*", "*.onnx", "*.onnx_data", "*.onnx_data_*", "*.onnx.data"),
    "OpenVINO": ("openvino/*", "*/openvino/*", "openvino_*", "*/openvino_*"),
    "TensorFlow": ("*.h5", "*.tflite", "*.ckpt.index", "*.ckpt.meta", "*.ckpt.data-*", "*saved_model/*"),
    "Flax": ("*.msgpack", "*.msgpack.index.json"),
    "GGUF": ("*.gguf", "*.ggml", "*.llamafile"),
    "Core ML": ("coreml/*", "*.mlmodel", "*.mlpackage/*"),
    "Rust": ("rust_model.ot", "*/rust_model.ot"),
}
"""Weights in formats that PyTorch's loaders do not read."""

_UNNEEDED_FILES: Mapping[str, tuple[str, ...]] = {
    "images": tuple(f"*.{end}" for end in ("png", "jpg", "jpeg", "gif", "webp", "svg", "bmp", "ico", "mp4", "webm")),
    "state of the training": (
        *("optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state*.pth", "training_args.bin", "runs/*"),
        *("*/optimizer.pt", "*/optimizer.bin", "*/scheduler.pt", "*/rng_state*.pth", "*/training_args.bin"),
    ),
}
_OPTIONAL_FILES = (
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""What transformers reads where it is there, and does without in silence where it is not."""
_DUPLICATE_REASON = "weights that are there as safetensors too"
_INCOMPLETE_REASON = "safetensors of which a part is missing, where .bin is whole"

_WEIGHT_FILE = re.compile(r"(?P<stem>.+?)(?:-(?P<number>\d{5})-of-(?P<count>\d{5}))?\.(?P<format>safetensors|bin)")
_WEIGHT_INDEX = re.compile(r"(?P<stem>.+)\.(?P<format>safetensors|bin)\.index\.json")
_ORIGINAL_CHECKPOINTS = ("consolidated.*.pth", "consolidated.safetensors")
"""What Meta and Mistral publish beside the same weights for transformers."""
_TORCH_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExcludedFile:
    """A file that does not travel, and what it is."""

    path: str
    size: int
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSelection:
    """The files that travel, sorted, and those that a default leaves out."""

    names: tuple[str, ...]
    excluded: tuple[ExcludedFile, ...] = ()

    @property
    def summary(self) -> str:
        """What is left out and what that saves; "" where that is nothing."""
        if not self.excluded:
            return ""
        kinds: dict[str, list[ExcludedFile]] = {}
        for one in self.excluded:
            kinds.setdefault(one.kind, []).append(one)
        listed = "; ".join(f"{what} ({pluralize(len(files), 'file')})" for what, files in kinds.items())
        saved = sum(one.size for one in self.excluded)
        return f"leaves out {listed}; that saves {saved:,} bytes ('include' would name what is wanted)"


def select_files(
    files: Mapping[str, int],
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    where: str,
    keep_all_formats: bool = False,
) -> FileSelection:
    """Which of ``files`` (path to bytes) travel.

    ``include`` is exact: what matches one of its patterns and nothing else. Without it formats that are not needed
    are left out, unless ``all_kinds``. ``exclude`` counts first in either case. Raises ManifestError when nothing
    is left, ResolveError when there are weights and the default would leave out all of them.
    """
    there = sorted(
        name for name in files if not _matches_any(name, exclude) and not _matches_any(name, _IGNORED_PATTERNS)
    )
    if include:
        there = [name for name in there if _matches_any(name, include)]
    if not there:
        raise ManifestError("no files are left: the source is empty, or include and exclude leave nothing", where=where)
    if include or keep_all_formats:
        return FileSelection(names=tuple(there))
    unwanted = {name: what for name in there if (what := _classify_unneeded(name))}
    rest = [name for name in there if name not in unwanted]
    unwanted |= dict.fromkeys(_find_duplicate_weights(rest), _DUPLICATE_REASON) | dict.fromkeys(
        _find_incomplete_safetensors(rest), _INCOMPLETE_REASON
    )
    kept = tuple(name for name in there if name not in unwanted)
    formats = sorted({what for what in unwanted.values() if what in _OTHER_FORMATS})
    if formats and not any(name.endswith(_TORCH_SUFFIXES) for name in kept):
        hint = "name the files that you want with 'include'"
        raise ResolveError(f"its weights are there as {' and '.join(formats)} only", where=where, hint=hint)
    left = (ExcludedFile(path=name, size=files[name], kind=what) for name, what in sorted(unwanted.items()))
    return FileSelection(names=kept, excluded=tuple(left))


def find_missed(files: Iterable[str], selected: Iterable[str]) -> list[str]:
    """Small files that stay behind although libraries use them with what travels: templates, settings, processors."""
    travels = set(selected)
    if "config.json" not in travels and "tokenizer_config.json" not in travels:
        return []
    return sorted(name for name in files if name not in travels and _matches_any(name, _OPTIONAL_FILES))


def find_removed(files: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> frozenset[str]:
    """Those of a source's files that the patterns of a manifest keep from travelling."""
    return frozenset(
        name for name in files if _matches_any(name, exclude) or (include and not _matches_any(name, include))
    )


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _classify_unneeded(name: str) -> str:
    """What a file is that no loader of ours reads; "" for any other."""
    return next(
        (
            what
            for what, patterns in {**_OTHER_FORMATS, **_UNNEEDED_FILES}.items()
            if _matches_any(name.lower(), patterns)
        ),
        "",
    )


def _find_duplicate_weights(names: Sequence[str]) -> set[str]:
    """Weights in another format of which the folder holds a whole set of safetensors."""
    here, by_folder = set(names), _group_by_folder(names)
    whole = {
        (folder, stem)
        for folder, inside in by_folder.items()
        for stem in _list_stems(inside, "safetensors")
        if _is_complete(folder, stem, "safetensors", here)
    }
    found: set[str] = set()
    for folder, inside in by_folder.items():
        for name in inside:
            stem = _get_stem(PurePosixPath(name).name, "bin")
            if stem and (folder, re.sub(r"^pytorch_model\b", "model", stem)) in whole:
                found.add(name)
    if (".", "model") in whole:
        found |= {name for name in names if _matches_any(PurePosixPath(name).name, _ORIGINAL_CHECKPOINTS)}
    return found


def _find_incomplete_safetensors(names: Sequence[str]) -> set[str]:
    """Safetensors of which the folder has a part where the same weights are whole as ``.bin``.

    transformers takes safetensors wherever it sees an index of them, and fails where a shard is missing.
    """
    here = set(names)
    found: set[str] = set()
    for folder, inside in _group_by_folder(names).items():
        half = {
            stem for stem in _list_stems(inside, "safetensors") if not _is_complete(folder, stem, "safetensors", here)
        }
        instead = {
            stem for stem in half if _is_complete(folder, re.sub(r"^model\b", "pytorch_model", stem), "bin", here)
        }
        for stem in instead:
            mine = {name for name in inside if _get_stem(PurePosixPath(name).name, "safetensors") == stem}
            others = [name for name in inside if name.endswith(".safetensors") and name not in mine]
            if not others or any(name.endswith(".safetensors") for name in mine):  # else its index may name the others
                found |= mine
    return found


def _group_by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(str(PurePosixPath(name).parent), []).append(name)
    return found


def _list_stems(names: Iterable[str], format_name: str) -> set[str]:
    return {stem for name in names if (stem := _get_stem(PurePosixPath(name).name, format_name))}


def _get_stem(name: str, format_name: str) -> str:
    """What weights of one format are called without shard numbers and endings: ``model``, ``adapter_model``."""
    found = _WEIGHT_INDEX.fullmatch(name) or _WEIGHT_FILE.fullmatch(name)
    return found["stem"] if found and found["format"] == format_name else ""


def _is_complete(folder: str, stem: str, format_name: str, names: set[str]) -> bool:
    """Whether a folder has all weights of that name and format: one file, or an index and every shard."""
    start = "" if folder == "." else f"{folder}/"
    if f"{start}{stem}.{format_name}" in names:
        return True
    shards = [
        found
        for name in names
        if (found := _WEIGHT_FILE.fullmatch(name.removeprefix(start))) and name.startswith(start)
    ]
    mine = [found for found in shards if found["stem"] == stem and found["count"] and found["format"] == format_name]
    counts = {int(found["count"]) for found in mine}
    return (
        f"{start}{stem}.{format_name}.index.json" in names
        and len(counts) == 1
        and {int(found["number"]) for found in mine} == set(range(1, 1 + counts.pop()))
    )
