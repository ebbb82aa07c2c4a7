"""References in a model's files to what is loaded with it: other models, code, packages, kernels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bundler.errors import ResolveError
from bundler.format.lock.entries import RepoType
from bundler.online.inspection import model_files
from bundler.online.inspection.model_files import ReadFile

_CONFIG_FILES = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "image_processor_config.json",
    "generation_config.json",
)
"""Files of transformers whose ``auto_map`` names classes that are in no library."""

_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REPO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The oldest models of the hub have no owner in their name: ``gpt2``."""
_KERNEL_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:|]+))?([:|].*)?")
_LIBRARY_PREFIX = "sentence_transformers."
_MODULE_LISTS = ("router_config.json", "config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What one file names: a model, or one Python module of a model.

    ``repo`` is a hub id, "" for the model itself. ``module`` is the path of a Python file, "" where the file means all
    of the model. ``revision`` is "" where the file names none. ``is_guess``: it comes from code, which may never run.
    """

    file: str
    reason: str
    repo: str = ""
    revision: str = ""
    module: str = ""
    repo_type: RepoType = "model"
    is_guess: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RequiredPackage:
    """A package that a model needs to load; any one of ``packages`` is enough."""

    file: str
    reason: str
    packages: tuple[str, ...]

    @property
    def text(self) -> str:
        """The packages, as text for a person."""
        return " or ".join(self.packages)


def is_repo_id(text: object, *, allow_bare: bool = False) -> bool:
    """Return whether a text is ORG/NAME, as on the hub, and not a folder of some machine.

    ``allow_bare``: NAME alone is an id too.
    """
    return isinstance(text, str) and bool(_REPO_ID.fullmatch(text) or (allow_bare and _REPO_NAME.fullmatch(text)))


def find_code(names: Sequence[str], read_file: ReadFile) -> list[Reference]:
    """Find classes that are in no library: ``auto_map`` of transformers, modules of sentence-transformers."""
    references: list[Reference] = []
    for name in names:
        filename = PurePosixPath(name).name
        if filename in _CONFIG_FILES:
            config = read_config(name, read_file)
            for key, value in _list_auto_map_classes(config):
                revision = _find_code_revision(name, names, read_file, config)
                references += _parse_class(name, f"auto_map {key}", value, revision)
        if name == "modules.json" or (filename in _MODULE_LISTS and "types" in read_config(name, read_file)):
            references += _find_module_classes(name, names, read_file)
    return list(dict.fromkeys(references))


def find_models(names: Sequence[str], read_file: ReadFile) -> list[Reference]:
    """Find the other models that a configuration names: base models of adapters, towers, backbones, kernels."""
    references: list[Reference] = []
    for name in names:
        filename = PurePosixPath(name).name
        if filename == "adapter_config.json":
            references += _find_adapter_base(name, read_config(name, read_file))
        if filename == "config.json":
            references += _find_in_config(name, read_config(name, read_file))
    return list(dict.fromkeys(references))


_QUANTIZER_PACKAGES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "aqlm": (("aqlm",), ("accelerate",)),
    "auto-round": (("auto-round",),),
    "awq": (("gptqmodel", "autoawq"), ("accelerate",)),
    "bitsandbytes": (("bitsandbytes",), ("accelerate",)),
    "compressed-tensors": (("compressed-tensors",),),
    "eetq": (("kernels", "eetq"), ("accelerate",)),
    "fbgemm_fp8": (("fbgemm-gpu", "kernels"), ("accelerate",)),
    "fp8": (("accelerate",),),
    "fp_quant": (("fp-quant",),),
    "gptq": (("gptqmodel", "auto-gptq"), ("optimum",)),
    "higgs": (("flute-kernel",), ("accelerate",)),
    "hqq": (("hqq",), ("accelerate",)),
    "mxfp4": (("kernels",), ("accelerate",)),
    "quanto": (("optimum-quanto",), ("accelerate",)),
    "quark": (("amd-quark",),),
    "spqr": (("spqr-quant",), ("accelerate",)),
    "torchao": (("torchao",),),
    "vptq": (("vptq",), ("accelerate",)),
}
"""What transformers requires before it loads weights of a ``quant_method``: one package of each group."""


def find_required_packages(names: Sequence[str], read_file: ReadFile) -> list[RequiredPackage]:
    """Find the packages that a model's configuration requires; no resolver knows of them."""
    packages: list[RequiredPackage] = []
    for name in names:
        if PurePosixPath(name).name != "config.json":
            continue
        config = read_config(name, read_file)
        quantization = config.get("quantization_config")
        method = str(quantization.get("quant_method", "")) if isinstance(quantization, dict) else ""
        packages += [
            RequiredPackage(file=name, reason=f"quantised by {method}", packages=group)
            for group in _QUANTIZER_PACKAGES.get(method, ())
        ]
        if any(reference.repo_type == "kernel" for reference in _find_in_config(name, config)):
            packages.append(RequiredPackage(file=name, reason="kernels of the hub", packages=("kernels",)))
        if config.get("use_timm_backbone") or config.get("model_type") in ("timm_wrapper", "timm_backbone"):
            packages.append(RequiredPackage(file=name, reason="a backbone of timm", packages=("timm",)))
    return packages


def read_config(name: str, read_file: ReadFile) -> dict[str, Any]:
    """Read the settings of a JSON file: none where it holds a list. Raises UnreadableFileError."""
    value = model_files.read_json(name, read_file)
    return value if isinstance(value, dict) else {}


def _list_auto_map_classes(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """List the classes that an ``auto_map`` names; a tokenizer has a slow and a fast one, and either may be null."""
    auto_map = config.get("auto_map")
    for key, value in auto_map.items() if isinstance(auto_map, dict) else ():
        for class_path in value if isinstance(value, list) else [value]:
            if isinstance(class_path, str) and class_path:
                yield key, class_path


def _parse_class(file: str, reason: str, value: str, revision: str = "") -> list[Reference]:
    """Parse ``module.Class`` or ``ORG/NAME--module.Class``, as transformers does."""
    repo, _, class_path = value.rpartition("--")
    module, dot, _ = class_path.partition(".")
    if not dot or (repo and not is_repo_id(repo)):
        hint = "it must be module.Class or ORG/NAME--module.Class: ask the model's publisher"
        raise ResolveError(f"{file} names {value!r} in {reason}, which is not a class", where=file, hint=hint)
    return [Reference(file=file, reason=reason, repo=repo, revision=revision if repo else "", module=f"{module}.py")]


def _find_code_revision(file: str, names: Sequence[str], read_file: ReadFile, config: Mapping[str, Any]) -> str:
    """Find the revision of code in another repository; "" where no configuration gives one.

    sentence-transformers passes ``code_revision`` of sentence_bert_config.json on to transformers.
    """
    revision = config.get("code_revision")
    sentence_config = str(PurePosixPath(file).parent / "sentence_bert_config.json")
    if not revision and sentence_config in names:
        options = read_config(sentence_config, read_file)
        keys = ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs")
        revisions = [options[key].get("code_revision") for key in keys if isinstance(options.get(key), dict)]
        revision = next(filter(None, revisions), "")
    return revision if isinstance(revision, str) else ""


def _find_module_classes(file: str, names: Sequence[str], read_file: ReadFile) -> Iterator[Reference]:
    """Find modules of sentence-transformers, or of a router, that are not in the library itself."""
    if file == "modules.json":
        modules = model_files.read_json(file, read_file)
        class_paths = [str(module["type"]) for module in modules if isinstance(module, dict) and "type" in module]
    else:
        types = read_config(file, read_file)["types"]
        class_paths = [str(class_path) for class_path in types.values()] if isinstance(types, dict) else []
    for class_path in class_paths:
        repo, _, local_path = class_path.rpartition("--")
        module, _, _ = local_path.partition(".")
        # Anything else is a class of an installed package.
        if not class_path.startswith(_LIBRARY_PREFIX) and (repo or f"{module}.py" in names):
            yield from _parse_class(file, f"module {class_path}", class_path)


def _find_adapter_base(file: str, config: Mapping[str, Any]) -> Iterator[Reference]:
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if is_repo_id(base, allow_bare=True):
        yield Reference(file=file, reason="base model of an adapter", repo=str(base), revision=str(revision or ""))


def find_unclear_bases(names: Sequence[str], read_file: ReadFile) -> list[str]:
    """Describe each adapter whose base model is a folder that no other machine has."""
    descriptions = []
    for name in names:
        if PurePosixPath(name).name == "adapter_config.json":
            base = read_config(name, read_file).get("base_model_name_or_path")
            if base and not is_repo_id(base, allow_bare=True):
                descriptions.append(f"{name} names {base!r} as its base model, a folder of the machine that trained it")
    return descriptions


_TOWER_KEYS = ("mm_vision_tower", "vision_tower", "image_tower", "audio_tower", "mm_audio_tower", "mm_speech_tower")
"""Keys by which a composed model names another model, which the library loads from the hub separately."""
_KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "kernel_config")


def _find_in_config(file: str, config: Mapping[str, Any]) -> Iterator[Reference]:
    """Find what a config.json names, also in the configurations inside it.

    ``_name_or_path`` and ``name_or_path`` only say where a model was saved from: no library loads what they name.
    """
    queue = [config]
    while queue:
        part = queue.pop(0)
        for key, value in part.items():
            if key in _TOWER_KEYS and is_repo_id(value):
                yield Reference(file=file, reason=f"{key}, loaded on its own", repo=value)
            elif key == "backbone" and is_repo_id(value) and part.get("use_pretrained_backbone"):
                yield Reference(file=file, reason="pretrained backbone", repo=value)
            elif key in _KERNEL_KEYS:
                yield from _find_kernels(file, key, value)
            elif isinstance(value, dict):
                queue.append(value)


def _find_kernels(file: str, key: str, value: object) -> Iterator[Reference]:
    """Find repositories of compiled code that the package ``kernels`` fetches: ``ORG/NAME@REVISION:LAYER``."""
    queue, reason = [value], f"kernel of {key}"
    while queue:
        item = queue.pop(0)
        options: dict[str, Any] = {}
        if isinstance(item, list) and len(item) == 2 and isinstance(item[1], dict):
            item, options = item  # transformers' KernelConfig gives a layer and its version this way
        if isinstance(item, dict | list):
            queue += item.values() if isinstance(item, dict) else item
        elif isinstance(item, str) and (match := _KERNEL_REFERENCE.fullmatch(item.removeprefix("paged|"))):
            number = options.get("version")
            default = f"v{number}" if isinstance(number, int) else str(options.get("revision") or "")
            revision = match["revision"] or default
            yield Reference(file=file, reason=reason, repo=match["repo"], revision=revision, repo_type="kernel")
