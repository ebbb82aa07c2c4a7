"""Renders this program's templates; nothing that a bundle brings is ever rendered as one."""

from __future__ import annotations

from bundler import template_files


def render_template(name: str, **values: object) -> str:
    """Render a template of ``templates/`` with these values; an undefined variable is an error."""
    import jinja2  # noqa: PLC0415 (a quarter of the program's start, and most verbs render nothing)

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (not HTML; the lock's checks allow no special characters in values)
    )
    return environment.from_string(template_files.read(name)).render(**values)
