"""The denoiser around a network: what every sampler and the training see of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from srmri_model.networks.config import NetworkConfig
from srmri_model.types import Images, ImagesShown, Planes, Sigmas


class Denoiser:
    """E[clean | noisy] for images of any size, differentiable in the image.

    Parameters
    ----------
    network : Module
        Called as ``network(x, sigma, plane)``; see `NCSNpp.forward`.
    config : NetworkConfig
        Its configuration.
    bf16 : bool
        Run convolutions and matrix products in bfloat16. Everything outside the network stays
        float32.
    compiled : bool
        Run the network through `torch.compile`; the first call of every size takes a while.

    Examples
    --------
    >>> import torch
    >>> from srmri_model.networks import NetworkConfig, build_network
    >>> config = NetworkConfig(nf=4, ch_mult=(1, 1), blocks=1, attention=(False, False))
    >>> denoiser = Denoiser(build_network(config), config)
    >>> denoiser(torch.zeros(2, 1, 5, 7), torch.tensor([0.1, 1.0])).shape
    torch.Size([2, 1, 5, 7])
    """

    def __init__(
        self,
        network: nn.Module,
        config: NetworkConfig,
        *,
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        self.network = network
        self.config = config
        self.bf16 = bf16
        self._call = torch.compile(network, dynamic=False) if compiled else network

    def __call__(
        self, x: ImagesShown, sigma: Sigmas | float, plane: Planes | None = None
    ) -> Images:
        """Denoise.

        Parameters
        ----------
        x : (B, C, H, W) Tensor
            Noisy images; any height and width. A network that knows neighbours may be given
            them as further channels, see `NCSNpp.forward`.
        sigma : (B,) Tensor or float
            Standard deviation of their noise.
        plane : (B,) Tensor, optional
            Plane of each image, for a network with plane label.

        Returns
        -------
        (B, C, H, W) Tensor
            Denoised images, without neighbours.
        """
        config = self.config
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        output = self._output(x, sigma, plane)
        x = x[:, : config.in_channels]
        per_image = sigma[:, None, None, None]
        if config.preconditioning == "ve":
            return x + per_image**2 * output
        variance = per_image**2 + config.sigma_data**2
        keep = config.sigma_data**2 / variance
        return keep * x + per_image * config.sigma_data / variance.sqrt() * output

    def score(self, x: ImagesShown, sigma: Sigmas | float, plane: Planes | None = None) -> Images:
        """Gradient of the log density of noisy images, (D(x, σ) − x) / σ².

        Parameters
        ----------
        x : (B, C, H, W) Tensor
            Noisy images; any height and width.
        sigma : (B,) Tensor or float
            Standard deviation of their noise.
        plane : (B,) Tensor, optional
            Plane of each image, for a network with plane label.

        Returns
        -------
        (B, C, H, W) Tensor
            The score.
        """
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        if self.config.preconditioning == "ve":
            return self._output(x, sigma, plane)
        denoised = self(x, sigma, plane)
        return (denoised - x[:, : self.config.in_channels]) / sigma[:, None, None, None] ** 2

    def _output(self, x: Tensor, sigma: Tensor, plane: Tensor | None) -> Tensor:
        rows, cols = x.shape[-2:]
        padded = _reflect_to_multiple(x, self.config.stride)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            output: Tensor = self._call(padded, sigma, plane)
        return output[..., :rows, :cols].float()


def loss_weight(config: NetworkConfig, sigma: Sigmas) -> Sigmas:
    """Weight of the squared error of the denoised image in the training loss.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    sigma : (B,) Tensor
        Noise level of each image.

    Returns
    -------
    (B,) Tensor
        "ve": 1/σ², which is denoising score matching weighted by σ². "edm": 1/σ² + 1/σ_data².
    """
    weight = sigma**-2
    return weight if config.preconditioning == "ve" else weight + config.sigma_data**-2


def sigma_at(config: NetworkConfig, t: Sigmas) -> Sigmas:
    """Noise level at a time of the variance-exploding process.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    t : (B,) Tensor
        Time from 0 (`sigma_min`) to 1 (`sigma_max`); uniform in training.

    Returns
    -------
    (B,) Tensor
        σ, geometric in t.
    """
    ratio = math.log(config.sigma_max / config.sigma_min)
    return config.sigma_min * torch.exp(ratio * t)


def _reflect_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Continue images at the bottom and on the right by reflection, as often as needed."""
    for dim in (-2, -1):
        size = x.shape[dim]
        target = -(-size // multiple) * multiple
        if target != size:
            period = max(2 * size - 2, 1)
            folded = torch.arange(target, device=x.device) % period
            x = x.index_select(dim, torch.minimum(folded, period - folded))
    return x
