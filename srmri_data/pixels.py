"""Voxels as 16-bit pixels, with the way back to scanner units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.volumes import Volume

_MOST = 65535


@dataclass(frozen=True, eq=False)
class SixteenBit:
    """A volume whose slices can be taken as 16-bit pixels.

    Parameters
    ----------
    volume : Volume
        Stored integers that fit, or scanner units.
    shift : float
        Value that becomes pixel 0.
    step : float
        Value per pixel level, 1 where integers are kept as they are.
    scale, offset : float
        Scanner units are ``pixel * scale + offset``.
    lossless : bool
        Whether pixels hold every value exactly; else it is within half a `scale`.
    """

    volume: Volume
    shift: float
    step: float
    scale: float
    offset: float
    lossless: bool

    @classmethod
    def of(cls, volume: Volume) -> SixteenBit:
        """Work out how a volume fits into 16 bits.

        Parameters
        ----------
        volume : Volume
            As stored.

        Returns
        -------
        SixteenBit
            Integers of a range up to 65535 with one slope are kept exactly; anything else is
            rounded to 65536 levels between its extremes.
        """
        slope, intercept = _constant(volume.slope, 1.0), _constant(volume.intercept, 0.0)
        data = volume.data
        if data.dtype.kind in "iu" and slope is not None and intercept is not None:
            first, last = int(data.min()), int(data.max())
            if last - first <= _MOST:
                shift = 0 if first >= 0 and last <= _MOST else first
                return cls(volume, shift, 1.0, slope, intercept + slope * shift, True)
        volume = volume.scaled()
        finite = volume.data[np.isfinite(volume.data)] if _any_strange(volume.data) else volume.data
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        step = (high - low) / _MOST or 1.0
        return cls(volume, low, step, step, low, False)

    def pixels(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Return stored values of this volume as pixels.

        Parameters
        ----------
        values : ndarray
            Any part of ``volume.data``.

        Returns
        -------
        ndarray of uint16
            Of the same shape, in C order.
        """
        if self.lossless:
            if not self.shift:
                return np.ascontiguousarray(values, dtype=np.uint16)
            return np.ascontiguousarray(values.astype(np.int64) - int(self.shift), dtype=np.uint16)
        levels = (values.astype(np.float64) - self.shift) / self.step
        levels = np.nan_to_num(levels, nan=0.0, posinf=_MOST, neginf=0.0)
        return np.ascontiguousarray(np.rint(levels).clip(0, _MOST), dtype=np.uint16)


def _constant(values: NDArray[Any] | None, otherwise: float) -> float | None:
    if values is None:
        return otherwise
    return float(values.flat[0]) if (values == values.flat[0]).all() else None


def _any_strange(data: NDArray[Any]) -> bool:
    # A sum is finite only where everything is, and takes no memory.
    return not np.isfinite(data.sum(dtype=np.float64))
