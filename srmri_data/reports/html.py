"""Pages from templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template of this package; every value is escaped.

    Parameters
    ----------
    template : str
        File name in ``templates``.
    context : mapping
        What it speaks of. A name it uses and does not find is an error.

    Returns
    -------
    str
        The page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("srmri_data.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
