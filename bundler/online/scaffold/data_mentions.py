"""Finds the data that a project's code has libraries download. Calls are read, never run."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from bundler.online.assets.asset_spec import PROVIDERS
from bundler.online.scaffold import constant_values
from bundler.online.scaffold.constant_values import Constants


@dataclass(frozen=True, kw_only=True, slots=True)
class DataMention:
    """A call that loads data. ``name`` is the name for a manifest, or the text in the code if there is no such name."""

    library: str
    """The key of the asset provider."""
    name: str
    symbol: str
    is_known: bool = True
    location: str = ""


def find_data_mentions(origin: str, call: ast.Call, constants: Constants) -> list[DataMention] | None:
    """Return the data that a call loads; [] if only a run could tell its name, None if it loads no data.

    ``origin`` is the full name of the function that is called.
    """
    library, function = origin.partition(".")[0], origin.rpartition(".")[2]
    arguments = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    for key, provider in PROVIDERS.items():
        if function in provider.wrappers:
            value = next((arguments[name] for name in provider.wrapper_parameters if name in arguments), None)
            texts = (
                constant_values.find_value(value, constants).texts if value is not None else (provider.wrapper_default,)
            )
        elif key == library and function in provider.calls:
            value = call.args[0] if call.args else arguments.get(provider.calls[function])
            texts = constant_values.find_value(value, constants).texts
        else:
            continue
        symbol = ".".join(origin.split(".")[-2:])
        names = [(text, provider.find_name(text)) for text in texts]
        return [DataMention(library=key, name=name or text, symbol=symbol, is_known=bool(name)) for text, name in names]
    return None
