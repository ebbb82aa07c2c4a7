"""The differences between a target and the builder."""

from __future__ import annotations

from bundler.format.lock.target import Target, detect_target


def describe_differences(target: Target) -> str:
    """Describe how Python, platform and C library of the target differ from the builder's; "" where they don't.

    The accelerator does not count: it only decides which index has the builds of PyTorch.
    """
    builder = detect_target()
    properties = (
        ("Python", target.python, builder.python),
        ("platform", target.platform, builder.platform),
        ("C library", target.libc, builder.libc),
    )
    return "; ".join(
        f"the target's {name} is {target_value or 'another'}, the builder's is {builder_value or 'another'}"
        for name, target_value, builder_value in properties
        if target_value != builder_value
    )
