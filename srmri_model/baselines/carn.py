"""CARN: residual units whose outputs cascade, within blocks and between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srmri_model.baselines.config import CARNShape
from srmri_model.types import Images


class CARN(nn.Module):
    """Cascading residual network for one factor.

    The published weights hold a tail for each of the factors 2, 3 and 4 behind one body.

    Parameters
    ----------
    shape : CARNShape
        Width and depth.
    factor : {2, 3, 4, 8}
        HR over LR pixels.
    channels : int
        Channels of an image.

    References
    ----------
    N. Ahn, B. Kang, K.-A. Sohn, Fast, accurate, and lightweight super-resolution with cascading
    residual network, ECCV 2018; section 3 and figure 2.
    """

    def __init__(self, shape: CARNShape, *, factor: int, channels: int = 1) -> None:
        super().__init__()
        width = shape.width
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.body = _Cascade(
            [
                _Cascade([_Unit(width) for _ in range(shape.units)], width)
                for _ in range(shape.blocks)
            ],
            width,
        )
        self.enlarge = nn.Sequential(*_enlarging(width, factor))
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, low_res: Images) -> Images:
        """Enlarge.

        Parameters
        ----------
        low_res : (B, C, h, w) Tensor
            LR.

        Returns
        -------
        (B, C, factor h, factor w) Tensor
            HR.
        """
        high: Images = self.leave(self.enlarge(self.body(self.enter(low_res))))
        return high


class _Cascade(nn.Module):
    """Parts one after another; a 1 by 1 convolution gathers all outputs so far after each."""

    def __init__(self, parts: list[nn.Module], width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.gather = nn.ModuleList(nn.Conv2d((n + 2) * width, width, 1) for n in range(len(parts)))

    def forward(self, features: Tensor) -> Tensor:
        outputs = [features]
        for part, gather in zip(self.parts, self.gather, strict=True):
            outputs.append(part(features))
            features = gather(torch.cat(outputs, dim=1)).relu()
        return features


class _Unit(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = (self.second(self.first(features).relu()) + features).relu()
        return added


def _enlarging(width: int, factor: int) -> list[nn.Module]:
    """Sub-pixel convolutions, by 2 at a time but for 3."""
    steps = [3] if factor == 3 else [2] * (factor.bit_length() - 1)
    layers: list[nn.Module] = []
    for step in steps:
        layers += [
            nn.Conv2d(width, step**2 * width, 3, padding=1),
            nn.ReLU(),
            nn.PixelShuffle(step),
        ]
    return layers
