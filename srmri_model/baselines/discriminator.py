"""The critic of ESRGAN: tells real HR images from made ones, relative to each other."""

from __future__ import annotations

from torch import Tensor, nn

from srmri_model.types import Images

_EDGE = 4
"""Pixels per side that the last convolution leaves of an image of 128."""


class Discriminator(nn.Module):
    """VGG-style network of strided convolutions and two linear layers, as in SRGAN and ESRGAN.

    Normalisation uses the batch at hand alone, and what the last convolution leaves is averaged
    to 4 by 4, so that images need not have 128 pixels per side.

    Parameters
    ----------
    width : int
        Channels of the first convolution.
    channels : int
        Channels of an image.

    References
    ----------
    C. Ledig et al., Photo-realistic single image super-resolution using a generative adversarial
    network, CVPR 2017, figure 4; X. Wang et al., ESRGAN, ECCV workshops 2018.
    """

    def __init__(self, width: int = 64, *, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        before = width
        for level in range(5):
            after = width * min(8, 2**level)
            if level:
                layers += _normalised(before, after, kernel=3, stride=1)
            layers += _normalised(after, after, kernel=4, stride=2)
            before = after
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(_EDGE))
        self.judge = nn.Sequential(
            nn.Flatten(), nn.Linear(_EDGE**2 * before, 100), nn.LeakyReLU(0.2), nn.Linear(100, 1)
        )

    def forward(self, images: Images) -> Tensor:
        """Judge images.

        Parameters
        ----------
        images : (B, C, H, W) Tensor
            Real or made, at least 32 pixels per side.

        Returns
        -------
        (B, 1) Tensor
            Higher for what looks real; differences count, not the value.
        """
        judged: Tensor = self.judge(self.features(images))
        return judged


def _normalised(before: int, after: int, *, kernel: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel, stride, padding=1, bias=False),
        nn.BatchNorm2d(after, track_running_stats=False),
        nn.LeakyReLU(0.2),
    ]
