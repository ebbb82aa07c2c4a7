"""How a target differs from the machine that builds."""

from __future__ import annotations

from bundler.format.lock.target import Target, detect_target


def describe_differences(target: Target) -> str:
    """In words, for a sentence; "" where Python, platform and C library are the builder's own.

    The accelerator is left out: it decides which index has the builds of PyTorch, and nothing else.
    """
    here = detect_target()
    pairs = (
        ("Python", target.python, here.python),
        ("platform", target.platform, here.platform),
        ("C library", target.libc, here.libc),
    )
    return "; ".join(
        f"the target's {what} is {wanted or 'another'}, the builder's is {found or 'another'}"
        for what, wanted, found in pairs
        if wanted != found
    )
