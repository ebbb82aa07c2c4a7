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

Read = Callable[[str], bytes]

_CONFIGURATIONS = (
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

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_BARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The hub's oldest models have no owner in their name: ``gpt2``."""
_KERNEL = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:|]+))?([:|].*)?")
_OWN = "sentence_transformers."
_MODULE_LISTS = ("router_config.json", "config.json")


class UnreadableError(ResolveError):
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
    guess: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """A package without which a model does not load; any of ``packages`` will do."""

    file: str
    reason: str
    packages: tuple[str, ...]

    @property
    def words(self) -> str:
        """The packages, for a person."""
        return " or ".join(self.packages)


def is_repo_id(text: object, *, bare: bool = False) -> bool:
    """Whether a text is such as ORG/NAME on the hub, and no folder of some machine; ``bare``: or NAME alone."""
    return isinstance(text, str) and bool(_REPO.fullmatch(text) or (bare and _BARE.fullmatch(text)))


def code(names: Sequence[str], read: Read) -> list[Reference]:
    """The classes that stand in no library: ``auto_map`` of transformers, modules of sentence-transformers."""
    found: list[Reference] = []
    for name in names:
        base = PurePosixPath(name).name
        if base in _CONFIGURATIONS:
            values = document(name, read)
            for key, value in _auto_map(values):
                found += _of_class(name, f"auto_map {key}", value, _code_revision(name, names, read, values))
        if name == "modules.json" or (base in _MODULE_LISTS and "types" in document(name, read)):
            found += _of_modules(name, names, read)
    return list(dict.fromkeys(found))


def models(names: Sequence[str], read: Read) -> list[Reference]:
    """The other models that a model's configuration names: base models of adapters, towers, backbones, kernels."""
    found: list[Reference] = []
    for name in names:
        base = PurePosixPath(name).name
        if base == "adapter_config.json":
            found += _of_adapter(name, document(name, read))
        if base == "config.json":
            found += _of_configuration(name, document(name, read))
    return list(dict.fromkeys(found))


_QUANTISERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
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


def needs(names: Sequence[str], read: Read) -> list[Need]:
    """The packages that a model's configuration calls for, which no resolver can know of."""
    found: list[Need] = []
    for name in names:
        if PurePosixPath(name).name != "config.json":
            continue
        values = document(name, read)
        quantised = values.get("quantization_config")
        method = str(quantised.get("quant_method", "")) if isinstance(quantised, dict) else ""
        groups = _QUANTISERS.get(method, ())
        found += [Need(file=name, reason=f"quantised by {method}", packages=one) for one in groups]
        of_configuration = list(_of_configuration(name, values))
        if any(one.repo_type == "kernel" for one in of_configuration):
            found.append(Need(file=name, reason="kernels of the hub", packages=("kernels",)))
        if values.get("use_timm_backbone") or values.get("model_type") in ("timm_wrapper", "timm_backbone"):
            found.append(Need(file=name, reason="a backbone of timm", packages=("timm",)))
    return found


def document(name: str, read: Read) -> dict[str, Any]:
    """A JSON file that holds an object; an empty one where it holds a list. Raises UnreadableError."""
    found = _parsed(name, read)
    return found if isinstance(found, dict) else {}


def _parsed(name: str, read: Read) -> Any:
    try:
        return json.loads(read(name).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        hint = "the source is damaged or unfinished: fetch it again, or ask whoever made it"
        said = f"{name} is not a JSON file, so what it names can't be known"
        raise UnreadableError(said, where=name, hint=hint) from error


def _auto_map(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each class that an ``auto_map`` names; tokenizers name a slow and a fast one, of which either may be null."""
    named = values.get("auto_map")
    for key, value in named.items() if isinstance(named, dict) else ():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and one:
                yield key, one


def _of_class(file: str, reason: str, value: str, revision: str = "") -> list[Reference]:
    """``module.Class`` or ``ORG/NAME--module.Class``, as transformers reads it."""
    repo, _, named = value.rpartition("--")
    module, dot, _ = named.partition(".")
    if not dot or (repo and not is_repo_id(repo)):
        hint = "it must be module.Class or ORG/NAME--module.Class: ask whoever made the model"
        raise ResolveError(f"{file} names {value!r} in {reason}, which is no class", where=file, hint=hint)
    return [Reference(file=file, reason=reason, repo=repo, revision=revision if repo else "", module=f"{module}.py")]


def _code_revision(file: str, names: Sequence[str], read: Read, values: Mapping[str, Any]) -> str:
    """The revision of code in another repository, where a configuration gives one.

    sentence-transformers passes ``code_revision`` of sentence_bert_config.json on to transformers.
    """
    named = values.get("code_revision")
    beside = str(PurePosixPath(file).parent / "sentence_bert_config.json")
    if not named and beside in names:
        options = document(beside, read)
        kinds = ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs")
        given = [options[kind].get("code_revision") for kind in kinds if isinstance(options.get(kind), dict)]
        named = next(filter(None, given), "")
    return named if isinstance(named, str) else ""


def _of_modules(file: str, names: Sequence[str], read: Read) -> Iterator[Reference]:
    """Modules of sentence-transformers, or of a router, that are not the library's own."""
    if file == "modules.json":
        listed = _parsed(file, read)
        kinds = [str(one["type"]) for one in listed if isinstance(one, dict) and "type" in one]
    else:
        types = document(file, read)["types"]
        kinds = [str(kind) for kind in types.values()] if isinstance(types, dict) else []
    for kind in kinds:
        repo, _, named = kind.rpartition("--")
        module, _, _ = named.partition(".")
        # anything else is a class of an installed package
        if not kind.startswith(_OWN) and (repo or f"{module}.py" in names):
            yield from _of_class(file, f"module {kind}", kind)


def _of_adapter(file: str, values: Mapping[str, Any]) -> Iterator[Reference]:
    base, revision = values.get("base_model_name_or_path"), values.get("revision")
    if is_repo_id(base, bare=True):
        yield Reference(file=file, reason="base model of an adapter", repo=str(base), revision=str(revision or ""))


def unclear(names: Sequence[str], read: Read) -> list[str]:
    """What an adapter's configuration says of its base that means nothing on another machine, in words."""
    found = []
    for name in names:
        if PurePosixPath(name).name == "adapter_config.json":
            base = document(name, read).get("base_model_name_or_path")
            if base and not is_repo_id(base, bare=True):
                found.append(f"{name} names {base!r} as its base model, a folder of the machine that trained it")
    return found


_TOWERS = ("mm_vision_tower", "vision_tower", "image_tower", "audio_tower", "mm_audio_tower", "mm_speech_tower")
"""Keys under which configurations of composed models name a model that is loaded from the hub on its own."""
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "kernel_config")


def _of_configuration(file: str, values: Mapping[str, Any]) -> Iterator[Reference]:
    """What a config.json names, in its parts too.

    ``_name_or_path`` and ``name_or_path`` only say where a model was saved from: no library reads them to load.
    """
    waiting = [values]
    while waiting:
        part = waiting.pop(0)
        for key, value in part.items():
            if key in _TOWERS and is_repo_id(value):
                yield Reference(file=file, reason=f"{key}, loaded on its own", repo=value)
            elif key == "backbone" and is_repo_id(value) and part.get("use_pretrained_backbone"):
                yield Reference(file=file, reason="pretrained backbone", repo=value)
            elif key in _KERNELS:
                yield from _kernels(file, key, value)
            elif isinstance(value, dict):
                waiting.append(value)


def _kernels(file: str, key: str, value: object) -> Iterator[Reference]:
    """Repositories of compiled code that the package ``kernels`` fetches: ``ORG/NAME@REVISION:LAYER``."""
    waiting, reason = [value], f"kernel of {key}"
    while waiting:
        one = waiting.pop(0)
        told: dict[str, Any] = {}
        if isinstance(one, list) and len(one) == 2 and isinstance(one[1], dict):
            one, told = one  # as transformers' KernelConfig gives a layer and its version
        if isinstance(one, dict | list):
            waiting += one.values() if isinstance(one, dict) else one
        elif isinstance(one, str) and (found := _KERNEL.fullmatch(one.removeprefix("paged|"))):
            number = told.get("version")
            named = f"v{number}" if isinstance(number, int) else str(told.get("revision") or "")
            revision = found["revision"] or named
            yield Reference(file=file, reason=reason, repo=found["repo"], revision=revision, repo_type="kernel")
