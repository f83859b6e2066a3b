"""The PCA voter: distance between slices in the space of their first principal components."""

from __future__ import annotations

import numpy as np

from srmri_data.errors import UsageError
from srmri_data.types import Band, DistanceMatrix, HighResStack, LowResStack
from srmri_data.voters.stacks import check_stacks, whole_band

MAX_COMPONENTS = 50
"""Components kept when there are enough slices."""

SVD_SOLVER = "full"
"""Exact. The randomized solver scikit-learn chooses for large slices depends on a seed, and its
errors are large enough to change votes."""


def default_components(n_images: int) -> int:
    """Return how many principal components are kept unless told otherwise.

    Parameters
    ----------
    n_images : int
        LR and HR slices together.

    Returns
    -------
    int
        ``min(50, n_images - 1)``: centring leaves no more directions than that.
    """
    return min(MAX_COMPONENTS, n_images - 1)


def pca_distances(
    low_res: LowResStack,
    high_res: HighResStack,
    *,
    band: Band | None = None,
    n_components: int | None = None,
) -> DistanceMatrix:
    """Compare slices by the Euclidean distance of their PCA projections.

    One PCA is fitted on both stacks together, so that both are described by the same axes.

    Parameters
    ----------
    low_res : (n_lr, row, col) ndarray of float32
        LR slices, nominally in [0, 1].
    high_res : (n_hr, row, col) ndarray of float32
        HR slices resized to the in-plane size of the LR slices, nominally in [0, 1].
    band : (n_lr, 2) ndarray of int, optional
        Half-open range of candidates to compare each LR slice with; all by default.
    n_components : int, optional
        Principal components kept; default ``min(50, n_lr + n_hr - 1)``, never more than pixels.

    Returns
    -------
    (n_lr, n_hr) ndarray of float32
        Distances in intensity units; smaller is more alike. NaN outside the band.

    Raises
    ------
    InputError
        If the stacks can not be compared.
    UsageError
        If `n_components` is outside 1 … min(slices, pixels).

    Notes
    -----
    The decomposition is exact: the same slices give the same distances. The n slices span at most
    n of the many pixel dimensions, so they are first expressed in an orthonormal basis of that
    span (the R of a QR decomposition). This changes no inner product, hence neither components
    nor distances, and leaves an (n, n) matrix to the PCA.

    References
    ----------
    The paper's sections 4.1 and A.2; the number of components is not given there.
    """
    check_stacks(low_res, high_res, voter="PCA")
    first, last = whole_band(low_res, high_res, band).T
    n_images = len(low_res) + len(high_res)
    n_pixels = low_res.shape[1] * low_res.shape[2]
    if n_components is None:
        n_components = min(default_components(n_images), n_pixels)
    elif not 1 <= n_components <= min(n_images, n_pixels):
        raise UsageError(
            f"PCA can not keep {n_components} components of {n_images} slices with "
            f"{n_pixels} pixels",
            f"choose 1 to {min(n_images, n_pixels)} components",
        )

    from scipy.linalg import qr
    from scipy.spatial.distance import cdist
    from sklearn.decomposition import PCA

    images = np.concatenate([low_res, high_res]).reshape(n_images, n_pixels)
    if n_pixels > n_images:
        # `images` is our own copy and may be overwritten; "raw" does not form the large Q.
        images = qr(images.T, mode="raw", overwrite_a=True, check_finite=False)[1].T
    # Slices that are all equal have no variance to explain; their distances, 0, are still right.
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = PCA(n_components, svd_solver=SVD_SOLVER).fit_transform(images)
    distances = cdist(scores[: len(low_res)], scores[len(low_res) :])
    columns = np.arange(len(high_res))
    outside = (columns < first[:, None]) | (columns >= last[:, None])
    return np.where(outside, np.nan, distances).astype(np.float32)
