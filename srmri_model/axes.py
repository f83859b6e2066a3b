"""One matrix per axis: what operators and wavelet fusion apply to images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def apply_per_axis(images: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiply the last axes of images by matrices.

    Parameters
    ----------
    images : (..., n1, n2[, n3]) Tensor
        Images; leading axes are batch.
    matrices : sequence of (m, n) Tensor or None
        One for each of the last axes; None leaves an axis as it is.

    Returns
    -------
    (..., m1, m2[, m3]) Tensor
        M1 ⊗ M2 [⊗ M3] of every image.

    Examples
    --------
    >>> import torch
    >>> apply_per_axis(torch.eye(2), [None, torch.tensor([[1.0, 1.0]])])
    tensor([[1.],
            [1.]])
    """
    for dim, matrix in enumerate(matrices, start=-len(matrices)):
        if matrix is None:
            continue
        if dim == -1:
            images = images @ matrix.mT
        else:
            product = matrix @ images.flatten(dim + 1)
            images = product.reshape(*product.shape[:-1], *images.shape[dim + 1 :])
    return images
