"""Which files of a repository travel by default.

A repository often has the same weights in many formats. The format that PyTorch's loaders read travels: safetensors,
or ``.bin`` where no safetensors are complete. Files of unknown purpose travel too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from bundler.errors import ManifestError, ResolveError
from bundler.online.inspection.model_files import matches_any
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
"""Files that transformers reads where they exist, and whose absence it does not report."""
_DUPLICATE_REASON = "weights that exist as safetensors too"
_INCOMPLETE_REASON = "incomplete safetensors where .bin is complete"

_WEIGHT_FILE = re.compile(r"(?P<stem>.+?)(?:-(?P<number>\d{5})-of-(?P<count>\d{5}))?\.(?P<format>safetensors|bin)")
_WEIGHT_INDEX = re.compile(r"(?P<stem>.+)\.(?P<format>safetensors|bin)\.index\.json")
_ORIGINAL_CHECKPOINTS = ("consolidated.*.pth", "consolidated.safetensors")
"""Files that Meta and Mistral publish next to the same weights for transformers."""
_TORCH_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExcludedFile:
    """A file that does not travel, and its kind, as text for a person."""

    path: str
    size: int
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSelection:
    """The files that travel, sorted, and those that are left out by default."""

    names: tuple[str, ...]
    excluded: tuple[ExcludedFile, ...] = ()

    @property
    def summary(self) -> str:
        """What is left out and how much that saves; "" where nothing is left out."""
        if not self.excluded:
            return ""
        kinds: dict[str, list[ExcludedFile]] = {}
        for file in self.excluded:
            kinds.setdefault(file.kind, []).append(file)
        listed = "; ".join(f"{kind} ({pluralize(len(files), 'file')})" for kind, files in kinds.items())
        saved = sum(file.size for file in self.excluded)
        return f"leaves out {listed}; that saves {saved:,} bytes (name what you want with 'include')"


def select_files(
    files: Mapping[str, int],
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    where: str,
    keep_all_formats: bool = False,
) -> FileSelection:
    """Select which files of a source travel.

    Args:
        files: the size in bytes of each file of the source, by its path.
        include: patterns; where there are any, exactly the files that match one travel.
        exclude: patterns of files that never travel.
        where: the source, for messages.
        keep_all_formats: without ``include``, keep the formats that PyTorch does not need.

    Raises:
        ManifestError: no files are left.
        ResolveError: the source has weights, and no file of them would travel by default.
    """
    names = sorted(
        name for name in files if not matches_any(name, exclude) and not matches_any(name, _IGNORED_PATTERNS)
    )
    if include:
        names = [name for name in names if matches_any(name, include)]
    if not names:
        message = "no files are left: the source is empty, or include and exclude leave nothing"
        raise ManifestError(message, where=where, hint="check the patterns against the files of the source")
    if include or keep_all_formats:
        return FileSelection(names=tuple(names))
    unneeded = {name: kind for name in names if (kind := _classify_unneeded(name))}
    rest = [name for name in names if name not in unneeded]
    unneeded |= dict.fromkeys(_find_duplicate_weights(rest), _DUPLICATE_REASON)
    unneeded |= dict.fromkeys(_find_incomplete_safetensors(rest), _INCOMPLETE_REASON)
    selected = tuple(name for name in names if name not in unneeded)
    formats = sorted({kind for kind in unneeded.values() if kind in _OTHER_FORMATS})
    if formats and not any(name.endswith(_TORCH_SUFFIXES) for name in selected):
        hint = "name the files that you want with 'include'"
        raise ResolveError(f"the source has weights as {' and '.join(formats)} only", where=where, hint=hint)
    excluded = (ExcludedFile(path=name, size=files[name], kind=kind) for name, kind in sorted(unneeded.items()))
    return FileSelection(names=selected, excluded=tuple(excluded))


def find_missed(files: Iterable[str], selected: Iterable[str]) -> list[str]:
    """Find small files that do not travel although libraries use them with the rest: templates, settings, processors."""
    names = set(selected)
    if "config.json" not in names and "tokenizer_config.json" not in names:
        return []
    return sorted(name for name in files if name not in names and matches_any(name, _OPTIONAL_FILES))


def find_removed(files: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> frozenset[str]:
    """Find the files of a source that patterns of the manifest remove."""
    return frozenset(
        name for name in files if matches_any(name, exclude) or (include and not matches_any(name, include))
    )


def _classify_unneeded(name: str) -> str:
    """Return the kind of a file that no loader of ours reads; "" for any other file."""
    kinds = {**_OTHER_FORMATS, **_UNNEEDED_FILES}
    return next((kind for kind, patterns in kinds.items() if matches_any(name.lower(), patterns)), "")


def _find_duplicate_weights(names: Sequence[str]) -> set[str]:
    """Find weights in other formats that the folder has as complete safetensors too."""
    by_folder = _group_by_folder(names)
    complete = {
        (folder, stem)
        for folder, members in by_folder.items()
        for stem in _list_stems(members, "safetensors")
        if _is_complete(folder, stem, "safetensors", set(names))
    }
    duplicates: set[str] = set()
    for folder, members in by_folder.items():
        for name in members:
            stem = _get_stem(PurePosixPath(name).name, "bin")
            if stem and (folder, re.sub(r"^pytorch_model\b", "model", stem)) in complete:
                duplicates.add(name)
    if (".", "model") in complete:
        duplicates |= {name for name in names if matches_any(PurePosixPath(name).name, _ORIGINAL_CHECKPOINTS)}
    return duplicates


def _find_incomplete_safetensors(names: Sequence[str]) -> set[str]:
    """Find incomplete safetensors in folders that have the same weights complete as ``.bin``.

    transformers takes safetensors wherever it sees an index of them, and fails where a shard is missing.
    """
    all_names = set(names)
    unusable: set[str] = set()
    for folder, members in _group_by_folder(names).items():
        for stem in _list_stems(members, "safetensors"):
            bin_stem = re.sub(r"^model\b", "pytorch_model", stem)
            if _is_complete(folder, stem, "safetensors", all_names) or not _is_complete(
                folder, bin_stem, "bin", all_names
            ):
                continue
            files = {name for name in members if _get_stem(PurePosixPath(name).name, "safetensors") == stem}
            others = [name for name in members if name.endswith(".safetensors") and name not in files]
            # An index without shards of its own name may name the other safetensors.
            if not others or any(name.endswith(".safetensors") for name in files):
                unusable |= files
    return unusable


def _group_by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(str(PurePosixPath(name).parent), []).append(name)
    return groups


def _list_stems(names: Iterable[str], format_name: str) -> set[str]:
    return {stem for name in names if (stem := _get_stem(PurePosixPath(name).name, format_name))}


def _get_stem(name: str, format_name: str) -> str:
    """Return the name of weights without shard numbers and suffix: ``model``, ``adapter_model``.

    "" where the file holds no weights of that format.
    """
    match = _WEIGHT_INDEX.fullmatch(name) or _WEIGHT_FILE.fullmatch(name)
    return match["stem"] if match and match["format"] == format_name else ""


def _is_complete(folder: str, stem: str, format_name: str, names: set[str]) -> bool:
    """Return whether a folder has all weights of that name and format: one file, or an index and every shard."""
    prefix = "" if folder == "." else f"{folder}/"
    if f"{prefix}{stem}.{format_name}" in names:
        return True
    weights = [
        match
        for name in names
        if (match := _WEIGHT_FILE.fullmatch(name.removeprefix(prefix))) and name.startswith(prefix)
    ]
    shards = [match for match in weights if match["stem"] == stem and match["count"] and match["format"] == format_name]
    counts = {int(match["count"]) for match in shards}
    return (
        f"{prefix}{stem}.{format_name}.index.json" in names
        and len(counts) == 1
        and {int(match["number"]) for match in shards} == set(range(1, 1 + counts.pop()))
    )
