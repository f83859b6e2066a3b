"""D-DBPN: errors of going up and down again are projected back, densely connected."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from srmri_model.baselines.config import DDBPNShape
from srmri_model.types import Images

# Kernel and padding of the convolutions between LR and HR, by factor: the paper's, and for 3 one
# of the same rule (three times as wide as an LR pixel less the overlap).
_KERNELS = MappingProxyType({2: (6, 2), 3: (7, 2), 4: (8, 2), 8: (12, 2)})


class DDBPN(nn.Module):
    """Dense deep back-projection network.

    Parameters
    ----------
    shape : DDBPNShape
        Widths and stages.
    factor : {2, 3, 4, 8}
        HR over LR pixels.
    channels : int
        Channels of an image.

    References
    ----------
    M. Haris, G. Shakhnarovich, N. Ukita, Deep back-projection networks for super-resolution, CVPR
    2018; section 3 and figures 3 and 4.
    """

    def __init__(self, shape: DDBPNShape, *, factor: int, channels: int = 1) -> None:
        super().__init__()
        width, stages = shape.width, shape.stages
        self.extract = nn.Sequential(
            nn.Conv2d(channels, shape.features, 3, padding=1),
            nn.PReLU(),
            nn.Conv2d(shape.features, width, 1),
            nn.PReLU(),
        )
        # The first up- and down-projection see one map and need no bottleneck.
        self.ups = nn.ModuleList(
            _Projection(width, factor, up=True, gathered=max(1, n)) for n in range(stages)
        )
        self.downs = nn.ModuleList(
            _Projection(width, factor, up=False, gathered=n + 1) for n in range(stages - 1)
        )
        self.reconstruct = nn.Conv2d(stages * width, channels, 3, padding=1)

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
        low = self.extract(low_res)
        lows: list[Tensor] = []
        highs = [self.ups[0](low)]
        for up, down in zip(self.ups[1:], self.downs, strict=True):
            lows.append(down(torch.cat(highs, dim=1)))
            highs.append(up(torch.cat(lows, dim=1)))
        high: Images = self.reconstruct(torch.cat(highs, dim=1))
        return high


class _Projection(nn.Module):
    """There, back again, and there once more with what was lost: equations 1-5 and 6-10."""

    def __init__(self, width: int, factor: int, *, up: bool, gathered: int) -> None:
        super().__init__()
        # The paper's dense units begin with a 1 by 1 convolution of all maps before them.
        self.gather = (
            nn.Sequential(nn.Conv2d(gathered * width, width, 1), nn.PReLU())
            if gathered > 1
            else nn.Identity()
        )
        self.there = _resampling(width, factor, up=up)
        self.back = _resampling(width, factor, up=not up)
        self.again = _resampling(width, factor, up=up)

    def forward(self, features: Tensor) -> Tensor:
        features = self.gather(features)
        projected = self.there(features)
        lost = self.back(projected) - features
        out: Tensor = projected + self.again(lost)
        return out


def _resampling(width: int, factor: int, *, up: bool) -> nn.Sequential:
    kernel, padding = _KERNELS[factor]
    kind = nn.ConvTranspose2d if up else nn.Conv2d
    return nn.Sequential(kind(width, width, kernel, factor, padding), nn.PReLU())
