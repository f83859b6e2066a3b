"""Pages from templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render(template: str, context: Mapping[str, Any], *, package: str | None = None) -> str:
    """Fill a template; every value is escaped.

    Parameters
    ----------
    template : str
        File name in ``templates``.
    context : mapping
        What it speaks of. A name it uses and does not find is an error.
    package : str, optional
        Package whose templates come before those of this one.

    Returns
    -------
    str
        The page.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = ["srmri_data.reports"] if package is None else [package, "srmri_data.reports"]
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
