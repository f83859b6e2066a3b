"""NCSN++ in plain torch: continuous σ by Fourier features, BigGAN residual blocks.

Written after the description of Song et al. [1]_ and the names and shapes of public checkpoints;
with equal weights it computes what the public implementation computes. Two identities save time:
a 1×1 convolution commutes with resampling, and the division of a residual sum by √2 is folded into
the weights of its last convolutions.

References
----------
.. [1] Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021,
   appendix H.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srmri_model.networks.convolution import EPS, conv1x1, conv3x3, group_norm
from srmri_model.networks.resampling import conv_fir_downsample, fir_downsample, fir_upsample

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from srmri_model.networks.config import NetworkConfig
    from srmri_model.types import Embedding, Features, Images, ImagesShown, Planes, Sigmas


class FourierEmbedding(nn.Module):
    """Sines and cosines of log σ at random frequencies, frozen and saved with the network.

    Parameters
    ----------
    size : int
        Number of frequencies; the embedding is twice as long.
    scale : float
        Standard deviation of the frequencies.
    """

    frequencies: Tensor

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        frequencies = torch.empty(size)
        # Random numbers on the meta device would import torch's compiler, which takes seconds.
        if not frequencies.is_meta:
            frequencies.normal_(0, scale)
        self.register_buffer("frequencies", frequencies)

    def forward(self, log_sigma: Sigmas) -> Embedding:
        """Embed log σ.

        Parameters
        ----------
        log_sigma : (B,) Tensor
            Natural logarithm of σ.

        Returns
        -------
        (B, 2·size) Tensor
            Sines, then cosines.
        """
        # The order of the factors matters: at 378 a product is off by 1e-4 in another order.
        angle = log_sigma[:, None] * self.frequencies[None, :] * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class ResidualBlock(nn.Module):
    """BigGAN residual block, optionally resampling by 2.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels before and after.
    embedding : int
        Length of the embedding of σ.
    resample : {"up", "down"} or None
        Change of size.
    fir : bool
        Resample with the filter.
    rescale : float
        Factor on the sum of both branches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        *,
        resample: Literal["up", "down"] | None = None,
        fir: bool,
        rescale: float,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.fir = fir
        self.rescale = rescale
        self.recompute = False
        self.norm_in = _group_norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding, out_channels)
        self.norm_out = _group_norm(out_channels)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1)
            if resample or in_channels != out_channels
            else None
        )

    def forward(self, x: Features, embedding: Embedding) -> Features:
        """Apply the block.

        Parameters
        ----------
        x : (B, C, H, W) Tensor
            Activations.
        embedding : (B, E) Tensor
            Embedding of σ, activation applied.

        Returns
        -------
        (B, C', H', W') Tensor
            Activations.
        """
        if self.recompute and torch.is_grad_enabled():
            output: Tensor = checkpoint(self._compute, x, embedding, use_reentrant=False)
            return output
        return self._compute(x, embedding)

    def _compute(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self._resample(_silu(_normalise(self.norm_in, x)))
        h = conv3x3(h, self.conv_in.weight, _bias(self.conv_in) + self.embed(embedding))
        h = _silu(_normalise(self.norm_out, h))
        bias = (_bias(self.conv_out) * self.rescale).expand(len(h), -1)
        h = conv3x3(h, self.conv_out.weight * self.rescale, bias)
        if self.shortcut is None:
            return h.add_(x, alpha=self.rescale)
        weight, bias = self.shortcut.weight * self.rescale, _bias(self.shortcut) * self.rescale
        if self.resample == "up":
            # Linear and per pixel, so it may go first, on a quarter of the pixels; its bias may
            # not, because the filter mixes it with the zeros outside.
            return h.add_(self._resample(conv1x1(x, weight, None))).add_(bias[:, None, None])
        return h.add_(conv1x1(self._resample(x), weight, bias))

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample is None:
            return x
        if self.resample == "up":
            return fir_upsample(x) if self.fir else F.interpolate(x, scale_factor=2)
        return fir_downsample(x) if self.fir else F.avg_pool2d(x, 2)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, one head.

    Parameters
    ----------
    channels : int
        Channels before and after.
    rescale : float
        Factor on the sum of both branches.
    """

    def __init__(self, channels: int, rescale: float) -> None:
        super().__init__()
        self.rescale = rescale
        self.norm = _group_norm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Features) -> Features:
        """Apply the block.

        Parameters
        ----------
        x : (B, C, H, W) Tensor
            Activations.

        Returns
        -------
        (B, C, H, W) Tensor
            Activations.
        """
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.query_key_value(tokens)[:, None].chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        mixed = self.project(mixed).transpose(1, 2).reshape(x.shape)
        output: Tensor = (x + mixed) * self.rescale
        return output


class PyramidDown(nn.Module):
    """The input pyramid's step to the next level: filter, then a 3×3 convolution with stride 2.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels before and after.
    fir : bool
        Filter first.
    """

    def __init__(self, in_channels: int, out_channels: int, *, fir: bool) -> None:
        super().__init__()
        self.fir = fir
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x: Features) -> Features:
        """Apply the step.

        Parameters
        ----------
        x : (B, C, H, W) Tensor
            Activations.

        Returns
        -------
        (B, C', H/2, W/2) Tensor
            Activations.
        """
        if not self.fir:
            padded = F.pad(x, (0, 1, 0, 1))
            return F.conv2d(padded, self.conv.weight, self.conv.bias, stride=2)
        return conv_fir_downsample(x, self.conv.weight, self.conv.bias)


class DownStage(nn.Module):
    """One level on the way down: blocks, then half the size unless it is the coarsest.

    Parameters
    ----------
    config : NetworkConfig
        Shape of the network.
    level : int
        Level, 0 the finest.
    in_channels : int
        Channels that come in.
    pyramid_channels : int
        Channels of the input pyramid that come in.
    """

    def __init__(
        self, config: NetworkConfig, level: int, in_channels: int, pyramid_channels: int
    ) -> None:
        super().__init__()
        channels = config.nf * config.ch_mult[level]
        last = level == len(config.ch_mult) - 1
        self.rescale = _rescale(config)
        self.blocks = nn.ModuleList(
            _block(config, channels if i else in_channels, channels) for i in range(config.blocks)
        )
        self.attention = nn.ModuleList(
            AttentionBlock(channels, self.rescale)
            for _ in range(config.blocks if config.attention[level] else 0)
        )
        self.resample = None if last else _block(config, channels, channels, "down")
        self.pyramid = (
            None
            if last or config.progressive_input == "none"
            else PyramidDown(pyramid_channels, channels, fir=config.fir)
        )

    def forward(
        self, h: Features, pyramid: Features, embedding: Embedding, skips: list[Tensor]
    ) -> tuple[Features, Features]:
        """Apply the stage.

        Parameters
        ----------
        h, pyramid : (B, C, H, W) Tensor
            Activations and input pyramid.
        embedding : (B, E) Tensor
            Embedding of σ, activation applied.
        skips : list of Tensor
            What the way up will take in is appended.

        Returns
        -------
        h, pyramid : (B, C', H', W') Tensor
            Activations and input pyramid of the next level.
        """
        for i, block in enumerate(self.blocks):
            h = block(h, embedding)
            if self.attention:
                h = self.attention[i](h)
            skips.append(h)
        if self.resample is not None:
            h = self.resample(h, embedding)
            if self.pyramid is not None:
                h = pyramid = (self.pyramid(pyramid) + h) * self.rescale
            skips.append(h)
        return h, pyramid


class UpStage(nn.Module):
    """One level on the way up: blocks that take in the skips, then double the size.

    Parameters
    ----------
    config : NetworkConfig
        Shape of the network.
    level : int
        Level, 0 the finest.
    in_channels : int
        Channels that come in.
    skips : list of int
        Channels of the skips, in the order they are taken.
    """

    def __init__(
        self, config: NetworkConfig, level: int, in_channels: int, skips: list[int]
    ) -> None:
        super().__init__()
        channels = config.nf * config.ch_mult[level]
        self.blocks = nn.ModuleList(
            _block(config, (channels if i else in_channels) + skip, channels)
            for i, skip in enumerate(skips)
        )
        self.attention = (
            AttentionBlock(channels, _rescale(config)) if config.attention[level] else None
        )
        self.resample = _block(config, channels, channels, "up") if level else None

    def forward(self, h: Features, embedding: Embedding, skips: list[Tensor]) -> Features:
        """Apply the stage.

        Parameters
        ----------
        h : (B, C, H, W) Tensor
            Activations.
        embedding : (B, E) Tensor
            Embedding of σ, activation applied.
        skips : list of Tensor
            What the way down left; taken from the end.

        Returns
        -------
        (B, C', H', W') Tensor
            Activations of the next level.
        """
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        if self.attention is not None:
            h = self.attention(h)
        if self.resample is not None:
            h = self.resample(h, embedding)
        return h


class NCSNpp(nn.Module):
    """NCSN++ with the shape a `NetworkConfig` asks for.

    Parameters
    ----------
    config : NetworkConfig
        Shape and meaning of the output.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        nf, levels = config.nf, len(config.ch_mult)

        self.fourier = FourierEmbedding(nf, config.fourier_scale)
        self.embed_in = nn.Linear(2 * nf, 4 * nf)
        self.embed_out = nn.Linear(4 * nf, 4 * nf)
        labels, size = config.n_planes, 4 * nf
        zeros = torch.zeros(labels, size)
        self.planes = nn.Embedding(labels, size, _weight=zeros) if labels else None
        image_channels = config.in_channels * config.patch**2
        self.conv_in = nn.Conv2d(config.channels_shown * config.patch**2, nf, 3, padding=1)

        self.down = nn.ModuleList()
        skips, channels, pyramid = [nf], nf, image_channels
        for level, multiple in enumerate(config.ch_mult):
            self.down.append(DownStage(config, level, channels, pyramid))
            channels = pyramid = nf * multiple
            skips += [channels] * (config.blocks + (level < levels - 1))

        self.middle_in = _block(config, channels, channels)
        self.middle_attention = (
            AttentionBlock(channels, _rescale(config)) if config.middle_attention else None
        )
        self.middle_out = _block(config, channels, channels)

        self.up = nn.ModuleList()
        for level in reversed(range(levels)):
            taken = [skips.pop() for _ in range(config.blocks + 1)]
            self.up.append(UpStage(config, level, channels, taken))
            channels = nf * config.ch_mult[level]

        self.norm_out = _group_norm(channels)
        self.conv_out = nn.Conv2d(channels, image_channels, 3, padding=1)

    def forward(self, x: ImagesShown, sigma: Sigmas, plane: Planes | None = None) -> Images:
        """Compute the network's output; what it means depends on the preconditioning.

        Parameters
        ----------
        x : (B, C, H, W) Tensor
            Noisy images, or (B, C + 2 n C, H, W) with their n neighbours before, nearest last, and
            after. Height and width are multiples of `config.stride`.
        sigma : (B,) Tensor
            Standard deviation of the noise of each image.
        plane : (B,) Tensor, optional
            Plane of each image, 0 to ``n_planes - 1``.

        Returns
        -------
        (B, C, H, W) Tensor
            "ve": the score. "edm": F of Karras et al., equation 7.
        """
        config = self.config
        embedding = self._embed(sigma, plane)
        per_image = sigma[:, None, None, None]
        if config.preconditioning == "edm":
            x = x / (per_image**2 + config.sigma_data**2).sqrt()
        elif not config.centered:
            x = 2 * x - 1
        x = F.pixel_unshuffle(x, config.patch)
        pyramid = x[:, : self.conv_out.out_channels]
        # Neighbours that are not shown count as zeros.
        weight = self.conv_in.weight[:, : x.shape[1]]
        h = F.conv2d(x, weight, self.conv_in.bias, padding=1)
        h = h.contiguous(memory_format=torch.channels_last)
        skips = [h]
        for stage in self.down:
            h, pyramid = stage(h, pyramid, embedding, skips)
        h = self.middle_in(h, embedding)
        if self.middle_attention is not None:
            h = self.middle_attention(h)
        h = self.middle_out(h, embedding)
        for stage in self.up:
            h = stage(h, embedding, skips)
        h = F.pixel_shuffle(self.conv_out(_silu(self.norm_out(h))), config.patch)
        output: Tensor = h / per_image if config.scale_by_sigma else h
        return output

    def _embed(self, sigma: Tensor, plane: Tensor | None) -> Tensor:
        h = self.embed_out(F.silu(self.embed_in(self.fourier(sigma.log()))))
        if self.planes is not None:
            if plane is None:
                raise ValueError("this network wants to know the plane of each image")
            h = h + self.planes(plane)
        return F.silu(h)


def build_network(
    config: NetworkConfig, *, seed: int = 0, gradient_checkpointing: bool = False
) -> NCSNpp:
    """Make a network with fresh weights.

    Parameters
    ----------
    config : NetworkConfig
        Shape of the network.
    seed : int
        Seed of the weights; the global generator is left alone.
    gradient_checkpointing : bool
        Compute the blocks again in the backward pass instead of keeping their activations.

    Returns
    -------
    NCSNpp
        On the CPU, in float32 and channels-last, ready to train.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NCSNpp(config)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _initialise(module)
        # Every block starts as its shortcut, and the network as zero. Exact zeros: the 1e-5 of
        # the public code makes a fresh network compute with denormal numbers.
        for module in network.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.conv_out.weight)
                module.recompute = gradient_checkpointing
            elif isinstance(module, AttentionBlock):
                nn.init.zeros_(module.project.weight)
        nn.init.zeros_(network.conv_out.weight)
    return network.to(memory_format=torch.channels_last)


def shown_more(weights: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Fit weights to a network that knows more neighbours, or fewer.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a network that differs in `neighbours` alone.
    config : NetworkConfig
        The network they are for.

    Returns
    -------
    dict of str to Tensor
        Neighbours have no weight yet, so the network computes what it computed for the image
        alone. The weights as they are where the number is the same.
    """
    image, wanted = (
        channels * config.patch**2 for channels in (config.in_channels, config.channels_shown)
    )
    known = weights["conv_in.weight"]
    if known.shape[1] == wanted:
        return dict(weights)
    fitted = known.new_zeros(len(known), wanted, *known.shape[2:])
    fitted[:, :image] = known[:, :image]
    return {**weights, "conv_in.weight": fitted}


def parameter_count(network: nn.Module) -> int:
    """Count what training adjusts.

    Parameters
    ----------
    network : Module
        Any network.

    Returns
    -------
    int
        Number of trainable values.
    """
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def forward_flops(config: NetworkConfig, height: int, width: int) -> int:
    """Count the multiplications and additions of one forward pass for one image.

    Parameters
    ----------
    config : NetworkConfig
        Shape of the network.
    height, width : int
        Size of the image in pixels; counted as padded.

    Returns
    -------
    int
        Floating-point operations of convolutions and matrix products; no memory is allocated.
    """
    from torch.utils.flop_counter import FlopCounterMode

    rows, cols = (-(-size // config.stride) * config.stride for size in (height, width))
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        plane = torch.zeros(1, dtype=torch.int64) if config.n_planes else None
        NCSNpp(config)(torch.zeros(1, config.in_channels, rows, cols), torch.ones(1), plane)
    return int(counter.get_total_flops())


def _block(
    config: NetworkConfig,
    in_channels: int,
    out_channels: int,
    resample: Literal["up", "down"] | None = None,
) -> ResidualBlock:
    return ResidualBlock(
        in_channels,
        out_channels,
        4 * config.nf,
        resample=resample,
        fir=config.fir,
        rescale=_rescale(config),
    )


def _rescale(config: NetworkConfig) -> float:
    return math.sqrt(0.5) if config.skip_rescale else 1.0


def _group_norm(channels: int) -> nn.GroupNorm:
    wanted = min(max(channels // 4, 1), 32)
    # The public widths divide evenly; any other takes the next smaller number that does.
    groups = next(n for n in range(wanted, 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=EPS)


def _normalise(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return group_norm(x, norm.num_groups, norm.weight, norm.bias)


def _silu(fresh: Tensor) -> Tensor:
    """Activate values nobody else holds, in place where no gradient needs them."""
    return F.silu(fresh, inplace=not torch.is_grad_enabled())


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        raise AssertionError("every convolution here has a bias")
    return conv.bias


def _initialise(module: nn.Conv2d | nn.Linear) -> None:
    """Uniform with variance 1/mean(fan in, fan out), biases zero."""
    per_pixel = module.weight[0, 0].numel() if module.weight.dim() > 2 else 1
    fans = (module.weight.shape[0] + module.weight.shape[1]) * per_pixel
    bound = math.sqrt(6 / fans)
    nn.init.uniform_(module.weight, -bound, bound)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
