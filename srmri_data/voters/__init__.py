"""Voters: functions from (LR slices, HR slices) to a matrix of distances.

All take the two stacks at one in-plane size with intensities mapped to [0, 1], and return how
unlike every LR slice is to every HR slice. They know nothing of geometry or of each other;
`srmri_data.consensus` makes decisions of their distances.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeAlias

from srmri_data.types import Band, DistanceMatrix, HighResStack, LowResStack
from srmri_data.voters import lpips, pca, ssim
from srmri_data.voters.lpips import lpips_distances
from srmri_data.voters.pca import pca_distances
from srmri_data.voters.ssim import ssim_distances
from srmri_data.voters.trunk import TrunkSource, trunk_source

__all__ = [
    "VOTERS",
    "TrunkSource",
    "Voter",
    "lpips_distances",
    "pca_distances",
    "ssim_distances",
    "trunk_source",
    "voter_settings",
]

Settings: TypeAlias = dict[str, str | int | float | None]


class Voter(Protocol):
    """What every voter is: a function of two stacks of slices."""

    def __call__(
        self, low_res: LowResStack, high_res: HighResStack, *, band: Band | None = None
    ) -> DistanceMatrix:
        """Return the distance of every LR slice to every HR slice; smaller is more alike."""
        ...


VOTERS: dict[str, Voter] = {
    "pca": pca_distances,
    "lpips": lpips_distances,
    "ssim": ssim_distances,
}
"""The voters by the name the command line and the run folder use, in the order of the paper."""


def voter_settings(
    names: Iterable[str],
    *,
    n_images: int,
    n_components: int | None = None,
    trunk: Path | None = None,
) -> dict[str, Settings]:
    """Describe the voters of a run so that it can be repeated.

    Parameters
    ----------
    names : iterable of str
        Keys of `VOTERS`.
    n_images : int
        LR and HR slices together.
    n_components : int, optional
        The number of components given to the PCA voter.
    trunk : Path, optional
        The trunk given to the LPIPS voter.

    Returns
    -------
    dict of str to dict
        Per voter everything its distances depend on besides the slices; JSON-able.

    Raises
    ------
    WeightsError
        If LPIPS is among the names and its trunk is not the expected file.
    """

    def of_pca() -> Settings:
        return {
            "n_components": n_components or pca.default_components(n_images),
            "svd_solver": pca.SVD_SOLVER,
            "scikit-learn": version("scikit-learn"),
        }

    def of_lpips() -> Settings:
        source = trunk_source(trunk)
        return {
            "network": "alex",
            "version": "0.1",
            "input": "grey in 3 equal channels, [0, 1] to [-1, 1]",
            "trunk": source.kind if source else None,
            "trunk_sha256": source.sha256 if source else None,
            "heads_sha256": lpips.HEADS_SHA256,
            "lpips": version("lpips"),
            "torch": version("torch"),
        }

    def of_ssim() -> Settings:
        return {
            "window": ssim.WINDOW,
            "sigma": ssim.SIGMA,
            "taps": ssim.TAPS,
            "k1": ssim.K1,
            "k2": ssim.K2,
            "data_range": ssim.DATA_RANGE,
            "covariance": "population",
            "border": "whole windows only",
        }

    describe = {"pca": of_pca, "lpips": of_lpips, "ssim": of_ssim}
    return {name: describe[name]() for name in names}
