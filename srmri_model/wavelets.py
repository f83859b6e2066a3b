"""Wavelet fusion: the coarse content of one image with the detail of another."""

from __future__ import annotations

import warnings

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

from srmri_data.errors import UsageError
from srmri_model.axes import apply_per_axis


class WaveletFusion:
    """Replace the approximation of an image by that of another and keep its details.

    With A the analysis by the low-pass filter and S the synthesis from it, one matrix per axis,
    fusion is x + S (A target − A x Aᵀ) Sᵀ: what PyWavelets' ``wavedec2``, replacing the
    approximation, and ``waverec2`` give, on any device and differentiably.

    Parameters
    ----------
    shape : tuple of int
        Size of the images; fusion works on the last ``len(shape)`` axes.
    wavelet : str
        A discrete wavelet of PyWavelets. The filters of "dmey" reconstruct an image with an
        error of some percent; fusion leaves that out and keeps the details of x as they are.
    level : int
        Levels of decomposition, at least 1.
    mode : str
        How PyWavelets continues images at their edges.

    Raises
    ------
    UsageError
        If PyWavelets knows no such wavelet or mode, or the level is below 1 or too many for
        the mode.

    References
    ----------
    The SRMRI paper, algorithm 1, fusion step.

    Examples
    --------
    >>> fuse = WaveletFusion((4, 4), wavelet="haar", level=2)
    >>> fuse(torch.eye(4), torch.full((4, 4), 5.0)).mean()
    tensor(5.)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        wavelet: str = "bior4.4",
        level: int = 2,
        mode: str = "symmetric",
    ) -> None:
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise UsageError(
                f"unknown wavelet {wavelet!r}", hint="pywt.wavelist(kind='discrete') lists them"
            )
        if mode not in pywt.Modes.modes:
            raise UsageError(
                f"unknown boundary mode {mode!r}; expected one of {', '.join(pywt.Modes.modes)}"
            )
        if level < 1:
            raise UsageError(f"level is at least 1; found {level}")
        self.shape = tuple(shape)
        self._exact = [coarse_filters(n, wavelet, level, mode) for n in self.shape]
        self._working: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Fuse.

        Parameters
        ----------
        x : (..., *shape) Tensor
            Gives the details.
        target : (..., *shape) Tensor
            Gives the approximation.

        Returns
        -------
        (..., *shape) Tensor
            The fused images.
        """
        if tuple(x.shape[-len(self.shape) :]) != self.shape:
            raise UsageError(f"fusion is made for images of {self.shape}; found {tuple(x.shape)}")
        filters = self._filters(x.device, x.dtype)
        coarse = apply_per_axis(target - x, [analysis for analysis, _ in filters])
        return x + apply_per_axis(coarse, [synthesis for _, synthesis in filters])

    def _filters(self, device: torch.device, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        key = (device, dtype)
        if key not in self._working:
            self._working[key] = [
                (
                    torch.from_numpy(analysis).to(device, dtype),
                    torch.from_numpy(synthesis).to(device, dtype),
                )
                for analysis, synthesis in self._exact
            ]
        return self._working[key]


def coarse_filters(
    size: int, wavelet: str, level: int, mode: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrices from a line to its approximation, and back from that alone.

    Parameters
    ----------
    size : int
        Length of the line.
    wavelet, level, mode : str, int, str
        As in `WaveletFusion`.

    Returns
    -------
    analysis, synthesis : (m, size) and (size, m) ndarray
        What PyWavelets does to the columns of an identity matrix.

    Raises
    ------
    UsageError
        If a level leaves a single pixel that the mode can not reflect.
    """
    with warnings.catch_warnings():
        # A level that reaches over the whole line is still a matrix.
        warnings.filterwarnings("ignore", message="Level value of", category=UserWarning)
        try:
            analysis, *details = pywt.wavedec(np.eye(size), wavelet, mode, level, axis=0)
        except ValueError as error:
            raise UsageError(
                f"{level} levels leave too little of {size} pixels for mode {mode!r}: {error}",
                hint="take fewer levels, or mode 'symmetric'",
            ) from error
    m = analysis.shape[0]
    nothing = [np.zeros((detail.shape[0], m)) for detail in details]
    synthesis = pywt.waverec([np.eye(m), *nothing], wavelet, mode, axis=0)[:size]
    return np.ascontiguousarray(analysis), np.ascontiguousarray(synthesis)
