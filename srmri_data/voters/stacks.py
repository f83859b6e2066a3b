"""What every voter asks of the two stacks of slices it compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from srmri_data.errors import InputError
from srmri_data.types import Band, HighResStack, LowResStack

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (slices done, slices in all) as a voter advances."""


def check_stacks(
    low_res: LowResStack, high_res: HighResStack, *, voter: str, smallest_side: int = 1
) -> None:
    """Refuse stacks a voter would only turn into meaningless distances.

    Parameters
    ----------
    low_res : (n_lr, row, col) ndarray of float32
        LR slices.
    high_res : (n_hr, row, col) ndarray of float32
        HR slices, resized to the in-plane size of the LR slices.
    voter : str
        Name for the message.
    smallest_side : int
        Fewest rows and columns the voter can work with.

    Raises
    ------
    InputError
        If a stack is not 3-D or empty, the in-plane sizes differ or are too small, or an
        intensity is not finite.
    """
    for name, stack in (("LR", low_res), ("HR", high_res)):
        if stack.ndim != 3 or stack.size == 0:
            raise InputError(
                f"{voter} compares stacks of slices (slice, row, col); "
                f"the {name} array has shape {stack.shape}"
            )
        if not np.isfinite(stack).all():
            raise InputError(f"{voter}: the {name} slices hold intensities that are not finite")
    if low_res.shape[1:] != high_res.shape[1:]:
        raise InputError(
            f"{voter} compares slices of one in-plane size; LR has {low_res.shape[1:]} pixels, "
            f"HR {high_res.shape[1:]}",
            "resize the HR slices to the LR size first",
        )
    if min(low_res.shape[1:]) < smallest_side:
        raise InputError(
            f"{voter} needs slices of at least {smallest_side} x {smallest_side} pixels; "
            f"these have {low_res.shape[1]} x {low_res.shape[2]}",
            "leave this voter out with --voters, or choose another --plane",
        )


def whole_band(low_res: LowResStack, high_res: HighResStack, band: Band | None) -> Band:
    """Return the candidates of every LR slice, all of them unless told otherwise.

    Parameters
    ----------
    low_res, high_res : ndarray
        The two stacks.
    band : (n_lr, 2) ndarray of int, optional
        Half-open range of candidates of every LR slice.

    Returns
    -------
    (n_lr, 2) ndarray of int
        The band, checked.

    Raises
    ------
    InputError
        If it does not fit the stacks.
    """
    n_lr, n_hr = len(low_res), len(high_res)
    if band is None:
        return np.tile(np.array([0, n_hr]), (n_lr, 1))
    if band.shape != (n_lr, 2) or (band < 0).any() or (band > n_hr).any():
        raise InputError(
            f"the band {band.shape} does not say where {n_lr} LR slices lie among {n_hr} candidates"
        )
    return band
