"""The shape of a score network as data, and the shapes that have a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Preconditioning = Literal["ve", "edm"]
ProgressiveInput = Literal["none", "residual"]


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides the parameters of a network and what its output means.

    Parameters
    ----------
    nf : int
        Channels of the first level, at least 4.
    ch_mult : tuple of int
        Channels of every level, as multiples of `nf`, finest level first.
    blocks : int
        Residual blocks per level.
    attention : tuple of bool
        Levels with self-attention, finest first.
    middle_attention : bool
        Self-attention between the two blocks of the coarsest level.
    fir : bool
        Resample with the filter [1, 3, 3, 1] rather than by averaging and repeating.
    progressive_input : {"residual", "none"}
        Whether downsampled input is added at every level.
    skip_rescale : bool
        Divide every residual sum by √2.
    fourier_scale : float
        Standard deviation of the frozen frequencies that encode log σ.
    scale_by_sigma : bool
        Divide the output by σ; only with `preconditioning` "ve".
    in_channels : int
        Channels of an image.
    neighbours : int
        Slices before and as many after an image that the network may be shown with it, as further
        channels; only with `preconditioning` "edm", where a slice of zeros is one that lacks.
    patch : int
        Pixels per side that become channels of one before the first convolution, 1 for none.
    n_planes : int
        Planes a label tells apart, 0 for a network without plane label.
    preconditioning : {"ve", "edm"}
        "ve": the output is the score. "edm": the output is combined with the noisy image such that
        input and target have unit variance at every σ [1]_.
    sigma_min, sigma_max : float
        Range of σ the network is made for, in image units.
    sigma_data : float
        Standard deviation of the images, for "edm".
    centered : bool
        Images are taken as they are; otherwise the network maps [0, 1] to [-1, 1] first.

    Raises
    ------
    ValueError
        If the values do not fit together.

    References
    ----------
    .. [1] Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
       table 1.
    """

    nf: int
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[bool, ...] = (False, False, False, False)
    middle_attention: bool = True
    fir: bool = True
    progressive_input: ProgressiveInput = "residual"
    skip_rescale: bool = True
    fourier_scale: float = 16.0
    scale_by_sigma: bool = True
    in_channels: int = 1
    neighbours: int = 0
    patch: int = 1
    n_planes: int = 0
    preconditioning: Preconditioning = "ve"
    sigma_min: float = 0.01
    sigma_max: float = 378.0
    sigma_data: float = 0.25
    centered: bool = False

    def __post_init__(self) -> None:
        problems = {
            "nf is 4 to 4096": 4 <= self.nf <= 4096,
            "ch_mult has 1 to 10 levels of 1 to 64": 1 <= len(self.ch_mult) <= 10
            and all(1 <= multiple <= 64 for multiple in self.ch_mult),
            "attention has one entry per level": len(self.attention) == len(self.ch_mult),
            "blocks is 1 to 64": 1 <= self.blocks <= 64,
            "in_channels is 1 to 64": 1 <= self.in_channels <= 64,
            "neighbours is 0 to 8": 0 <= self.neighbours <= 8,
            "neighbours belong to preconditioning 'edm'": self.preconditioning == "edm"
            or not self.neighbours,
            "patch is 1 to 8": 1 <= self.patch <= 8,
            "n_planes is 0 to 64": 0 <= self.n_planes <= 64,
            "preconditioning is 've' or 'edm'": self.preconditioning in ("ve", "edm"),
            "progressive_input is 'residual' or 'none'": self.progressive_input
            in ("residual", "none"),
            "0 < sigma_min < sigma_max": 0 < self.sigma_min < self.sigma_max,
            "sigma_data is positive": self.sigma_data > 0,
            "scale_by_sigma belongs to preconditioning 've'": self.preconditioning == "ve"
            or not self.scale_by_sigma,
        }
        if broken := [rule for rule, holds in problems.items() if not holds]:
            raise ValueError(f"{self} is no network: {'; '.join(broken)}")

    @property
    def channels_shown(self) -> int:
        """Channels of an image and all its neighbours."""
        return self.in_channels * (1 + 2 * self.neighbours)

    @property
    def stride(self) -> int:
        """Height and width have to be multiples of this; the denoiser pads to it."""
        return self.patch << (len(self.ch_mult) - 1)


PRESETS: dict[str, NetworkConfig] = {
    # The public score-MRI configuration, whose unusual numbers the paper shares.
    "paper": NetworkConfig(nf=128),
    "base": NetworkConfig(nf=64),
    "small": NetworkConfig(nf=32),
    # docs/decisions/0009-tiny-is-narrow-not-coarse.md
    "tiny": NetworkConfig(
        nf=16,
        blocks=2,
        middle_attention=False,
        progressive_input="none",
        fourier_scale=1.0,
        scale_by_sigma=False,
        preconditioning="edm",
        sigma_max=10.0,
    ),
}
