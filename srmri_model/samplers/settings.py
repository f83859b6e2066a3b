"""What can be chosen about each sampler."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from srmri_data.choices import MisfitNorm
from srmri_data.errors import UsageError

AnySettings = TypeVar("AnySettings", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """What every sampler has: its noise levels.

    Parameters
    ----------
    steps : int
        Noise levels, at least 2.
    sigma_min, sigma_max : float
        Last level before 0, and first level, in image units.
    """

    steps: int
    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise UsageError(f"a sampler takes at least 2 steps; found {self.steps}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise UsageError(
                "noise levels need 0 < sigma_min < sigma_max; "
                f"found {self.sigma_min:g} and {self.sigma_max:g}"
            )


@dataclass(frozen=True)
class PredictorCorrector(Settings):
    """Settings of `pc` and `score-sde`, and what their relatives add to.

    Levels have equal ratios.

    Parameters
    ----------
    steps : int
        Noise levels; the paper takes 2000.
    sigma_min, sigma_max : float
        Last level before 0, and first level; those of the checkpoint, at most.
    snr : float
        Signal-to-noise ratio of a Langevin step.
    corrections : int
        Langevin steps per level.
    """

    steps: int = 2000
    sigma_min: float = 0.01
    sigma_max: float = 378.0
    snr: float = 0.16
    corrections: int = 1


@dataclass(frozen=True)
class Guided(PredictorCorrector):
    """Settings of `dps` and `mcg`: steps down the gradient of the misfit.

    Parameters
    ----------
    steps : int
        Noise levels.
    sigma_min, sigma_max : float
        Last level before 0, and first level.
    snr : float
        Signal-to-noise ratio of a Langevin step.
    corrections : int
        Langevin steps per level.
    rho : float
        Step size. With "squared" and a factor of 2 in both axes it has to stay below 4. What is
        best falls as the number of steps grows.
    norm : {"squared", "l2"}
        Gradient of ‖y − H x̂0‖², as in the papers, or of ‖y − H x̂0‖.
    """

    rho: float = 0.5
    norm: MisfitNorm = "squared"


@dataclass(frozen=True)
class Paper(Guided):
    """Settings of `paper`, algorithm 1.

    Parameters
    ----------
    steps : int
        Noise levels.
    sigma_min, sigma_max : float
        Last level before 0, and first level.
    snr : float
        Signal-to-noise ratio of a Langevin step.
    corrections : int
        Langevin steps per level.
    rho : float
        Step size of the gradient.
    norm : {"squared", "l2"}
        Which gradient.
    k : int
        Every k-th level follows the gradient, the others fuse. 1 never fuses; 0 always does.
    fusion : bool
        False leaves the levels between gradients without any data step.
    match_noise : bool
        Add noise of the level to the interpolated measurement before it is fused.
    wavelet, level, mode : str, int, str
        Of the fusion; see `WaveletFusion`.
    """

    k: int = 2
    fusion: bool = True
    match_noise: bool = False
    wavelet: str = "bior4.4"
    level: int = 2
    mode: str = "symmetric"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 0:
            raise UsageError(f"k counts levels from one gradient to the next; found {self.k}")


@dataclass(frozen=True)
class Fast(Settings):
    """Settings of `fast`; its levels crowd at the small end as those of EDM.

    Parameters
    ----------
    steps : int
        Network evaluations.
    sigma_min, sigma_max : float
        Last level before 0, and the level of the warm start.
    mirror : bool
        Exchange left and right at every other level, where images and their mirror images are
        known to be as likely.
    """

    steps: int = 20
    sigma_min: float = 0.01
    sigma_max: float = 0.5
    mirror: bool = True


@dataclass(frozen=True)
class DDNM(Settings):
    """Settings of `ddnm`.

    Parameters
    ----------
    steps : int
        Network evaluations.
    sigma_min, sigma_max : float
        Last level before 0, and first level.
    """

    steps: int = 100
    sigma_min: float = 0.01
    sigma_max: float = 80.0


@dataclass(frozen=True)
class DiffPIR(Settings):
    """Settings of `diffpir`.

    Parameters
    ----------
    steps : int
        Network evaluations.
    sigma_min, sigma_max : float
        Last level before 0, and first level.
    weight : float
        λ: the denoised image is trusted to σ / √λ.
    zeta : float
        ζ, from 0 to 1: share of each level's noise that is new.
    """

    steps: int = 100
    sigma_min: float = 0.01
    sigma_max: float = 80.0
    weight: float = 7.0
    zeta: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.weight > 0 and 0 <= self.zeta <= 1):
            raise UsageError(
                "diffpir needs weight > 0 and zeta from 0 to 1; "
                f"found {self.weight:g} and {self.zeta:g}"
            )


def within(settings: AnySettings, sigma_max: float) -> AnySettings:
    """Lower the first level to the highest a checkpoint was trained for.

    Parameters
    ----------
    settings : Settings
        Of any sampler.
    sigma_max : float
        The checkpoint's.

    Returns
    -------
    Settings
        Of the same kind.

    Examples
    --------
    >>> within(Paper(), 50.0).sigma_max
    50.0
    """
    return replace(settings, sigma_max=min(settings.sigma_max, sigma_max))
