"""SRCNN: three convolutions of the interpolated image."""

from __future__ import annotations

from torch import nn

from srmri_model.baselines.config import SRCNNShape
from srmri_model.types import Images


class SRCNN(nn.Module):
    """Patch extraction, non-linear mapping and reconstruction.

    Borders are padded with their own pixels, so that the image keeps its size: the paper's
    network loses them.

    Parameters
    ----------
    shape : SRCNNShape
        Widths and kernels.
    channels : int
        Channels of an image.

    References
    ----------
    C. Dong, C. C. Loy, K. He, X. Tang, Image super-resolution using deep convolutional networks,
    IEEE TPAMI 38 (2016) 295-307.
    """

    def __init__(self, shape: SRCNNShape, *, channels: int = 1) -> None:
        super().__init__()
        widths = (channels, *shape.widths, channels)
        self.extract, self.map, self.reconstruct = (
            nn.Conv2d(before, after, kernel, padding=kernel // 2, padding_mode="replicate")
            for before, after, kernel in zip(widths, widths[1:], shape.kernels, strict=False)
        )

    def forward(self, interpolated: Images) -> Images:
        """Sharpen.

        Parameters
        ----------
        interpolated : (B, C, H, W) Tensor
            LR, interpolated on the HR grid.

        Returns
        -------
        (B, C, H, W) Tensor
            HR.
        """
        features = self.extract(interpolated).relu()
        high: Images = self.reconstruct(self.map(features).relu())
        return high
