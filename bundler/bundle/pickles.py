"""What tells a pickle, which can run code when it is loaded, from data: its name and its first bytes."""

from __future__ import annotations

NAMES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""How files end that libraries unpickle, whatever is in them."""

HEAD = 512
"""How many of a file's first bytes `begins_like_one` asks for."""

_PROTOCOLS = tuple(bytes((0x80, version)) for version in range(6))
ZIP = b"PK\x03\x04"
_MEMBER = b"data.pkl"


def named_like_one(path: str) -> bool:
    """Whether a file has a name that libraries unpickle."""
    return path.lower().endswith(NAMES)


def begins_like_one(head: bytes) -> bool:
    """Whether a file with these first bytes is a pickle, or what torch.save writes.

    From protocol 2 on a pickle starts with its protocol (PEP 307); torch.save writes a zip archive whose first member
    is ``…/data.pkl``. Older pickles can't be told from text.
    """
    if head.startswith(_PROTOCOLS):
        return head[2:3] != b"\0"  # safetensors: such bytes can start the length of its header
    return head.startswith(ZIP) and _MEMBER in head[:HEAD]
