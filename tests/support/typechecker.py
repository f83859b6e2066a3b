"""Run-time type checker the tests put around every function of the packages."""

from __future__ import annotations

from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import ArrayLike

checked = beartype(
    conf=BeartypeConf(
        # PEP 484's numeric tower: an int is a fine float.
        is_pep484_tower=True,
        # numpy's recursive protocol can not be checked at run time.
        hint_overrides=FrozenDict({ArrayLike: object}),
    )
)
