"""Sets the variables that keep libraries on this host, before any of them is imported, at every start of Python.

A copy of this file stands in the environment's site-packages as ``_airgap_guard.py``; the line in
``00-airgap-guard.pth`` calls `begin`. Python runs such lines whatever its options are, except ``-S``. Variables that
are set already win: ``kept`` tells which ones differ.
"""

import os
import sys

set_here: list[str] = []
kept: dict[str, str] = {}
began = False

_VALUES = "_airgap_guard.env"
_STRICT = "strict"


def begin() -> None:
    """Sets what is not set. A fault here is said on standard error and does not keep Python from starting.

    Under ``BUNDLE_GUARD=strict`` it does: who asks for that wants no start without it.
    """
    global began  # noqa: PLW0603 - a module is the one thing that the proof of a smoke load can look at
    strict = os.environ.get("BUNDLE_GUARD") == _STRICT
    try:
        with open(os.path.join(os.path.dirname(__file__), _VALUES), encoding="utf-8") as values:  # noqa: PTH118, PTH120, PTH123 - pathlib takes longer to import than all of this
            _set(values.read().splitlines())
        if strict:
            _refuse_calls()
        began = True
    except Exception as error:  # whatever it is, it must not keep every Python of the release from starting
        if sys.stderr is not None:
            sys.stderr.write(
                f"airgap guard: {error!r}; libraries may call home. Install the bundle again, or source .env.offline.\n"
            )
        if strict:
            raise SystemExit("airgap guard: BUNDLE_GUARD=strict can not be kept, so Python does not start") from error


def _set(lines: list[str]) -> None:
    for line in lines:
        name, _, value = line.partition("=")
        here = os.environ.setdefault(name, value)
        if here != value:
            kept[name] = value
        else:
            set_here.append(name)


def _refuse_calls() -> None:
    """The rest of the payload lies beside the environment: what refuses calls is too much for every start."""
    import importlib.util  # noqa: PLC0415 - takes longer than all of the rest

    folder = os.path.join(os.path.dirname(sys.prefix), "payload")  # noqa: PTH118, PTH120
    door = importlib.util.spec_from_file_location("_airgap_door", os.path.join(folder, "__main__.py"))  # noqa: PTH118
    if door is None or door.loader is None:
        raise ImportError(f"{folder} is not there")
    module = importlib.util.module_from_spec(door)
    door.loader.exec_module(module)
    importlib.import_module(f"{module.package()}.strict").begin()
