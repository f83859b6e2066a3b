"""What a magnitude says about a real signal, once that is roughly known: its sign and size."""

from __future__ import annotations

import torch
from torch import Tensor


def expected_channel(
    magnitude: Tensor, signal: Tensor, noise: Tensor | float, no_signal: float = 0.0
) -> Tensor:
    """Return the mean of the channel that holds the signal, given its magnitude.

    Of m = ‖(a + n₁, n₂)‖ with a signal a of either sign and noise of standard deviation σ in both
    channels, the angle is distributed by von Mises about the signal's, with concentration
    m a / σ². So E[a + n₁ | m, a] = m I₁(m a / σ²) / I₀(m a / σ²): the magnitude itself where the
    signal is strong, less σ²/2a; its negative where a truncated k-space rings below zero; nothing
    in air.

    Parameters
    ----------
    magnitude : Tensor
        m; its zero lies at `no_signal`.
    signal : Tensor
        a, on the same scale.
    noise : float or Tensor
        σ > 0, broadcast against the others.
    no_signal : float
        Value of no signal.

    Returns
    -------
    Tensor
        On the scale of the magnitude.

    References
    ----------
    K. V. Mardia, P. E. Jupp, Directional Statistics, 2000, section 3.5.4.

    Examples
    --------
    >>> signal = torch.tensor([1.0, -1.0, 0.0])
    >>> expected_channel(torch.ones(3), signal, 0.1)
    tensor([ 0.9950, -0.9950,  0.0000])
    """
    m = (magnitude - no_signal).clamp(min=0)
    concentration = m * (signal - no_signal) / noise**2
    size = concentration.abs()
    share = torch.special.i1e(size) / torch.special.i0e(size)
    channel: Tensor = no_signal + m * share * concentration.sign()
    return channel
