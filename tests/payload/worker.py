"""Proves many models in one process, since importing torch takes longer than proving a tiny model.

``python -I worker.py PAYLOAD``; each line of standard input is ``load REQUEST RESULT`` or ``case NAME RESULT``, as
JSON; a line on standard output says that the result is written.
"""

# torch is imported within functions: only after the network is cut.
from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_modules: dict[str, ModuleType] = {}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    name = _package(Path(sys.argv[1]))
    for module in ("smoke", "network.netcut", "load.request"):
        _modules[module.rpartition(".")[2]] = importlib.import_module(f"{name}.{module}")
    network = _modules["netcut"].cut_network()
    for line in sys.stdin:
        kind, what, result = json.loads(line)
        if kind == "load":
            asked = _modules["request"].read_request(Path(what))
            _modules["smoke"].run_load(asked, lambda: network).write(Path(result))
        else:
            Path(result).write_text(_case(name, what), encoding="utf-8")
        answers.write("done\n")
        answers.flush()


def _package(payload: Path) -> str:
    """The payload makes its own package."""
    spec = importlib.util.spec_from_file_location("payload_main", payload / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    main_module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main_module)
    return str(main_module.register_package())


def _case(name: str, line: str) -> str:
    """The fault that one of the cases below runs into; empty if none."""
    for module in (
        "results.failures",
        "checks.model_checks",
        "checks.devices",
        "files.load_report",
        "files.weights",
        "load.measurement",
    ):
        _modules[module.rpartition(".")[2]] = importlib.import_module(f"{name}.{module}")
    case, _, argument = line.partition(" ")
    try:
        _CASES[case](argument)
    except _modules["failures"].CheckFailedError as failure:
        return str(failure)
    return ""


def _meta(_: str) -> None:
    import torch

    _modules["model_checks"].check_on_device(torch.nn.Linear(4, 4, device="meta").named_parameters())


def _stray(_: str) -> None:
    import torch

    _modules["devices"].check_device(torch.nn.Linear(4, 4, device="meta"), "cpu")


def _float8(_: str) -> None:
    import torch

    _modules["model_checks"].check_weights([("eight", torch.zeros(4, 4).to(torch.float8_e4m3fn))])


def _redrawn(folder: str) -> None:
    """A library that fills a weight anew after it was loaded."""
    model = _transformers_model(folder)
    import torch

    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.weight.normal_()
    _modules["weights"].compare_weights(_modules["weights"].read_tensors(Path(folder)), model)


def _untouched(folder: str) -> None:
    found = _modules["weights"].compare_weights(
        _modules["weights"].read_tensors(Path(folder)), _transformers_model(folder)
    )
    assert not found.missing
    assert not found.unused.body


def _restored(folder: str) -> None:
    """Overwriting weights to see whether they matter leaves no trace, nor does listening to transformers."""
    import torch
    import transformers

    before = transformers.PreTrainedModel.__dict__["from_pretrained"]
    with _modules["load_report"].record_loads() as loads:
        model = _transformers_model(folder)
    assert len(loads) == 1
    assert transformers.PreTrainedModel.__dict__["from_pretrained"] is before
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    ids = torch.tensor([[5, 6, 7]])

    def embed() -> Any:
        with torch.inference_mode():
            return model(input_ids=ids).last_hidden_state.mean(1).tolist()

    names = ["pooler.dense.weight", "embeddings.LayerNorm.weight", "no.such.weight"]
    assert _modules["weights"].find_effective_weights(model, names, embed) == names[1:]
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())


def _undecided(_: str) -> None:
    """A language model that goes on in another way each time."""
    from itertools import count
    from types import SimpleNamespace

    probe = importlib.import_module(f"{_modules['smoke'].__package__}.probes.causal_lm")
    numbers = count()
    writer = SimpleNamespace(generate_tokens=lambda _text: [next(numbers)])
    probe._check_generation(writer, "The cat", SimpleNamespace(enter=lambda _phase: None))


def _redrawn_head(folder: str) -> None:
    """A library that loads a BGE-M3 and then draws one of its heads anew."""
    from types import SimpleNamespace

    probe = importlib.import_module(f"{_modules['smoke'].__package__}.probes.flag_embedding_m3")
    model = probe._load(False, folder, "cpu").library_model.model
    probe._check_heads(Path(folder), model, SimpleNamespace(add_check=lambda _check: None))
    model.colbert_linear.reset_parameters()
    probe._check_heads(Path(folder), model, SimpleNamespace())


def _changed_head(line: str) -> None:
    """Another revision of a head of a BGE-M3: values of the same shape, turned round or with less of a bias."""
    import torch

    path, verb, number = json.loads(line)
    kept = torch.load(path, weights_only=True)
    if verb == "turn round":
        kept = {name: weight.flip(-1) for name, weight in kept.items()}
    else:
        kept["bias"] -= number
    torch.save(kept, path)


def _transformers_model(folder: str) -> Any:
    import transformers

    return transformers.AutoModel.from_pretrained(folder, local_files_only=True)


_CASES: dict[str, Callable[[str], None]] = {
    "meta": _meta,
    "stray": _stray,
    "float8": _float8,
    "redrawn": _redrawn,
    "untouched": _untouched,
    "restored": _restored,
    "undecided": _undecided,
    "redrawn-head": _redrawn_head,
    "changed-head": _changed_head,
}

if __name__ == "__main__":
    main()
