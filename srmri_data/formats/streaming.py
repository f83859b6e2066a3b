"""Voxels from a byte stream into one array, a few megabytes at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from srmri_data.errors import FormatError, TruncatedError
from srmri_data.volumes import Provenance

_CHUNK = 4 << 20


@runtime_checkable
class ByteSource(Protocol):
    """What is needed of a file: plain, gzip or zlib."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill a prefix of a buffer.

        Parameters
        ----------
        buffer : memoryview
            Writable bytes.

        Returns
        -------
        int or None
            How many bytes were filled, 0 at the end.
        """


def read_exactly(source: ByteSource, buffer: memoryview, *, path: Path) -> None:
    """Fill a buffer or say that the file ended early.

    Parameters
    ----------
    source : ByteSource
        Where the bytes come from.
    buffer : memoryview
        What to fill, as bytes.
    path : Path
        What to call the file.

    Raises
    ------
    TruncatedError
        If the source ends before the buffer is full.
    """
    filled = 0
    while filled < len(buffer):
        got = source.readinto(buffer[filled:])
        if not got:
            raise TruncatedError(
                f"{path}: the data end {len(buffer) - filled} bytes before they should",
                hint="the file was cut, copy it again",
            )
        filled += got


def read_planes(
    source: ByteSource,
    target: NDArray[Any],
    *,
    dtype: np.dtype[Any],
    slope: float = 1.0,
    intercept: float = 0.0,
    path: Path,
) -> int:
    """Fill a 3-D array from a stream that runs fastest along the first axis.

    The scaling is done in double precision and rounded once, so that the
    result does not depend on the size of the pieces.

    Parameters
    ----------
    source : ByteSource
        Positioned at the first voxel.
    target : (a, b, c) ndarray
        Destination, any strides; a view may reverse or exchange axes.
    dtype : dtype
        Voxel type in the stream, with its byte order.
    slope, intercept : float
        ``target = voxel * slope + intercept``.
    path : Path
        What to call the file.

    Returns
    -------
    int
        Number of values written that are not finite.

    Raises
    ------
    TruncatedError
        If the stream ends early.
    """
    scaled = slope != 1.0 or intercept != 0.0
    rows, columns, planes = target.shape
    step = max(1, _CHUNK // (rows * dtype.itemsize))
    buffer = np.empty((rows, min(step, columns)), dtype=dtype, order="F")
    strange = 0
    for plane in range(planes):
        for first in range(0, columns, step):
            block = buffer[:, : min(step, columns - first)]
            read_exactly(source, block.reshape(-1, order="F").view(np.uint8).data, path=path)
            out = target[:, first : first + block.shape[1], plane]
            with np.errstate(over="ignore", invalid="ignore"):
                if scaled:
                    values = block.astype(np.float64)
                    values *= slope
                    values += intercept
                    out[...] = values
                else:
                    out[...] = block
            if out.dtype.kind == "f":
                strange += out.size - int(np.count_nonzero(np.isfinite(out)))
    return strange


def noting_strange_values(provenance: Provenance, count: int) -> Provenance:
    """Add a warning about values that are not finite.

    Parameters
    ----------
    provenance : Provenance
        Of the volume that was read.
    count : int
        What `read_planes` counted.

    Returns
    -------
    Provenance
        With one more warning if there is anything to warn of.
    """
    if not count:
        return provenance
    warning = f"{count} voxels are not finite"
    return replace(provenance, warnings=(*provenance.warnings, warning))


def check_scaling(slope: float, intercept: float, *, path: Path) -> None:
    """Refuse a slope or intercept that can not be meant.

    Parameters
    ----------
    slope, intercept : float
        Scaling from stored numbers to scanner units.
    path : Path
        What to call the file.

    Raises
    ------
    FormatError
        If one of them is infinite or not a number.
    """
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise FormatError(
            f"{path}: intensity slope {slope} and offset {intercept}, expected finite numbers",
            hint="reconstruct the scan again, its intensities can not be recovered",
        )
