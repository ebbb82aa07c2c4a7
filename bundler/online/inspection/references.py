"""What the files of a model name that loads with it: other models, code, packages, kernels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bundler.errors import ResolveError
from bundler.format.lock.entries import RepoType

ReadFile = Callable[[str], bytes]

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
"""Files of transformers whose ``auto_map`` names classes that stand in no library."""

_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REPO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The hub's oldest models have no owner in their name: ``gpt2``."""
_KERNEL_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:|]+))?([:|].*)?")
_LIBRARY_PREFIX = "sentence_transformers."
_MODULE_LISTS = ("router_config.json", "config.json")


class UnreadableFileError(ResolveError):
    """A file is not what its name says, so that what it names can't be known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What one file names: a whole model, or the Python module of it that holds code.

    ``repo`` is a hub id, "" for the model itself; ``module`` is the path of a Python file, "" where all of the model
    is meant; ``revision`` is "" where none is named. ``guess``: it was read from code, which may never run.
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
    """A package without which a model does not load; any of ``packages`` will do."""

    file: str
    reason: str
    packages: tuple[str, ...]

    @property
    def text(self) -> str:
        """The packages, for a person."""
        return " or ".join(self.packages)


def is_repo_id(text: object, *, allow_bare: bool = False) -> bool:
    """Whether a text is such as ORG/NAME on the hub, and no folder of some machine; ``bare``: or NAME alone."""
    return isinstance(text, str) and bool(_REPO_ID.fullmatch(text) or (allow_bare and _REPO_NAME.fullmatch(text)))


def find_code(names: Sequence[str], read_file: ReadFile) -> list[Reference]:
    """The classes that stand in no library: ``auto_map`` of transformers, modules of sentence-transformers."""
    found: list[Reference] = []
    for name in names:
        base = PurePosixPath(name).name
        if base in _CONFIG_FILES:
            values = read_json_object(name, read_file)
            for key, value in _list_auto_map_classes(values):
                found += _parse_class(
                    name, f"auto_map {key}", value, _find_code_revision(name, names, read_file, values)
                )
        if name == "modules.json" or (base in _MODULE_LISTS and "types" in read_json_object(name, read_file)):
            found += _find_module_classes(name, names, read_file)
    return list(dict.fromkeys(found))


def find_models(names: Sequence[str], read_file: ReadFile) -> list[Reference]:
    """The other models that a model's configuration names: base models of adapters, towers, backbones, kernels."""
    found: list[Reference] = []
    for name in names:
        base = PurePosixPath(name).name
        if base == "adapter_config.json":
            found += _find_adapter_base(name, read_json_object(name, read_file))
        if base == "config.json":
            found += _find_in_config(name, read_json_object(name, read_file))
    return list(dict.fromkeys(found))


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
"""What transformers asks for before it loads weights of a ``quant_method``: of each group, one package."""


def find_required_packages(names: Sequence[str], read_file: ReadFile) -> list[RequiredPackage]:
    """The packages that a model's configuration calls for, which no resolver can know of."""
    found: list[RequiredPackage] = []
    for name in names:
        if PurePosixPath(name).name != "config.json":
            continue
        values = read_json_object(name, read_file)
        quantised = values.get("quantization_config")
        method = str(quantised.get("quant_method", "")) if isinstance(quantised, dict) else ""
        groups = _QUANTIZER_PACKAGES.get(method, ())
        found += [RequiredPackage(file=name, reason=f"quantised by {method}", packages=one) for one in groups]
        of_configuration = list(_find_in_config(name, values))
        if any(one.repo_type == "kernel" for one in of_configuration):
            found.append(RequiredPackage(file=name, reason="kernels of the hub", packages=("kernels",)))
        if values.get("use_timm_backbone") or values.get("model_type") in ("timm_wrapper", "timm_backbone"):
            found.append(RequiredPackage(file=name, reason="a backbone of timm", packages=("timm",)))
    return found


def read_json_object(name: str, read_file: ReadFile) -> dict[str, Any]:
    """A JSON file that holds an object; an empty one where it holds a list. Raises UnreadableError."""
    found = _read_json(name, read_file)
    return found if isinstance(found, dict) else {}


def _read_json(name: str, read_file: ReadFile) -> Any:
    try:
        return json.loads(read_file(name).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        hint = "the source is damaged or unfinished: fetch it again, or ask whoever made it"
        said = f"{name} is not a JSON file, so what it names can't be known"
        raise UnreadableFileError(said, where=name, hint=hint) from error


def _list_auto_map_classes(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each class that an ``auto_map`` names; tokenizers name a slow and a fast one, of which either may be null."""
    named = config.get("auto_map")
    for key, value in named.items() if isinstance(named, dict) else ():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and one:
                yield key, one


def _parse_class(file: str, reason: str, value: str, revision: str = "") -> list[Reference]:
    """``module.Class`` or ``ORG/NAME--module.Class``, as transformers reads it."""
    repo, _, named = value.rpartition("--")
    module, dot, _ = named.partition(".")
    if not dot or (repo and not is_repo_id(repo)):
        hint = "it must be module.Class or ORG/NAME--module.Class: ask whoever made the model"
        raise ResolveError(f"{file} names {value!r} in {reason}, which is no class", where=file, hint=hint)
    return [Reference(file=file, reason=reason, repo=repo, revision=revision if repo else "", module=f"{module}.py")]


def _find_code_revision(file: str, names: Sequence[str], read_file: ReadFile, config: Mapping[str, Any]) -> str:
    """The revision of code in another repository, where a configuration gives one.

    sentence-transformers passes ``code_revision`` of sentence_bert_config.json on to transformers.
    """
    named = config.get("code_revision")
    beside = str(PurePosixPath(file).parent / "sentence_bert_config.json")
    if not named and beside in names:
        options = read_json_object(beside, read_file)
        kinds = ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs")
        given = [options[kind].get("code_revision") for kind in kinds if isinstance(options.get(kind), dict)]
        named = next(filter(None, given), "")
    return named if isinstance(named, str) else ""


def _find_module_classes(file: str, names: Sequence[str], read_file: ReadFile) -> Iterator[Reference]:
    """Modules of sentence-transformers, or of a router, that are not the library's own."""
    if file == "modules.json":
        listed = _read_json(file, read_file)
        kinds = [str(one["type"]) for one in listed if isinstance(one, dict) and "type" in one]
    else:
        types = read_json_object(file, read_file)["types"]
        kinds = [str(kind) for kind in types.values()] if isinstance(types, dict) else []
    for kind in kinds:
        repo, _, named = kind.rpartition("--")
        module, _, _ = named.partition(".")
        # anything else is a class of an installed package
        if not kind.startswith(_LIBRARY_PREFIX) and (repo or f"{module}.py" in names):
            yield from _parse_class(file, f"module {kind}", kind)


def _find_adapter_base(file: str, config: Mapping[str, Any]) -> Iterator[Reference]:
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if is_repo_id(base, allow_bare=True):
        yield Reference(file=file, reason="base model of an adapter", repo=str(base), revision=str(revision or ""))


def find_unclear_bases(names: Sequence[str], read_file: ReadFile) -> list[str]:
    """What an adapter's configuration says of its base that means nothing on another machine, in words."""
    found = []
    for name in names:
        if PurePosixPath(name).name == "adapter_config.json":
            base = read_json_object(name, read_file).get("base_model_name_or_path")
            if base and not is_repo_id(base, allow_bare=True):
                found.append(f"{name} names {base!r} as its base model, a folder of the machine that trained it")
    return found


_TOWER_KEYS = ("mm_vision_tower", "vision_tower", "image_tower", "audio_tower", "mm_audio_tower", "mm_speech_tower")
"""Keys under which configurations of composed models name a model that is loaded from the hub on its own."""
_KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "kernel_config")


def _find_in_config(file: str, config: Mapping[str, Any]) -> Iterator[Reference]:
    """What a config.json names, in its parts too.

    ``_name_or_path`` and ``name_or_path`` only say where a model was saved from: no library reads them to load.
    """
    waiting = [config]
    while waiting:
        part = waiting.pop(0)
        for key, value in part.items():
            if key in _TOWER_KEYS and is_repo_id(value):
                yield Reference(file=file, reason=f"{key}, loaded on its own", repo=value)
            elif key == "backbone" and is_repo_id(value) and part.get("use_pretrained_backbone"):
                yield Reference(file=file, reason="pretrained backbone", repo=value)
            elif key in _KERNEL_KEYS:
                yield from _find_kernels(file, key, value)
            elif isinstance(value, dict):
                waiting.append(value)


def _find_kernels(file: str, key: str, value: object) -> Iterator[Reference]:
    """Repositories of compiled code that the package ``kernels`` fetches: ``ORG/NAME@REVISION:LAYER``."""
    waiting, reason = [value], f"kernel of {key}"
    while waiting:
        one = waiting.pop(0)
        told: dict[str, Any] = {}
        if isinstance(one, list) and len(one) == 2 and isinstance(one[1], dict):
            one, told = one  # as transformers' KernelConfig gives a layer and its version
        if isinstance(one, dict | list):
            waiting += one.values() if isinstance(one, dict) else one
        elif isinstance(one, str) and (found := _KERNEL_REFERENCE.fullmatch(one.removeprefix("paged|"))):
            number = told.get("version")
            named = f"v{number}" if isinstance(number, int) else str(told.get("revision") or "")
            revision = found["revision"] or named
            yield Reference(file=file, reason=reason, repo=found["repo"], revision=revision, repo_type="kernel")
