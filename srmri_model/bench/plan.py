"""What `srmri bench tables` computes: settings, tables, and the paper's own figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from srmri_data.choices import Grid, OperatorKind, Plane
from srmri_data.errors import UsageError

INTERPOLATED: tuple[str, ...] = ("bicubic", "lanczos3", "b-spline-3", "b-spline-5", "zero-filled")
ALWAYS: tuple[str, ...] = ("bicubic", "hr-repeat")
"""In every table: what a lab has without a model, and what no method can beat."""
OPERATORS: tuple[OperatorKind, ...] = ("bicubic", "bilinear", "lanczos2", "lanczos3", "box")
"""Of the paper's Table 3, in its order."""
SKIPS: tuple[int, ...] = (2, 3, 4, 5)
FAST_STEPS: tuple[int, ...] = (5, 10, 40)
"""Beside the default of 20, for the figure of quality against evaluations."""
PAPER_SHARES: tuple[int, ...] = (4, 2)
"""N of `paper` divided by these, for the same figure."""

_SMOKE: Mapping[str, Any] = {"slices": 1, "budget": 1 / 6, "draws": 4}
_MIN_STEPS, _MAX_STEPS, _STEPS_PER_MINUTE = 20, 2000, 10
_SCORE_SDE = ("score-sde", "dps", "mcg")
_OURS = ("paper-k2", "paper-k3", "fast", "fast-mean")
_SUPERVISED = ("srcnn", "ddbpn", "carn", "swinir", "rcan", "esrgan")


class Figures(NamedTuple):
    """What the paper reports for a method, on its own data.

    Attributes
    ----------
    psnr : float
        In dB.
    ssim, lpips : float
        Structural similarity and perceptual distance.
    seconds : float or None
        Per slice of 720 × 512, on an RTX 3090; None where the paper does not tell.
    """

    psnr: float
    ssim: float
    lpips: float
    seconds: float | None = None


class Table(NamedTuple):
    """One table of the paper.

    Attributes
    ----------
    title : str
        What it compares.
    methods : tuple of str
        Its rows: keys of `srmri_model.bench.methods.METHODS`.
    paper : mapping of str to Figures
        The paper's own figures by row.
    note : str
        What a reader has to know about it.
    """

    title: str
    methods: tuple[str, ...]
    paper: Mapping[str, Figures]
    note: str


_K2, _K3 = Figures(24.75, 0.61, 0.10, 873), Figures(24.54, 0.60, 0.11, 790)
_DPS = Figures(24.23, 0.58, 0.11, 1194)

TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "1": Table(
            "Unsupervised methods",
            (*INTERPOLATED, *_SCORE_SDE, "kernelgan+zssr", "ddnm", "diffpir", *_OURS, "hr-repeat"),
            {
                "score-sde": Figures(23.58, 0.49, 0.17, 740),
                "dps": _DPS,
                "mcg": Figures(24.10, 0.53, 0.12, 1198),
                "kernelgan+zssr": Figures(18.44, 0.36, 0.43, 175),
                "paper-k2": _K2,
                "paper-k3": _K3,
            },
            "No method here has seen a pair. DDNM, DiffPIR and fast are not in the paper.",
        ),
        "2": Table(
            "Supervised methods",
            (*INTERPOLATED, *_SUPERVISED, *_OURS, "hr-repeat"),
            {
                "srcnn": Figures(22.49, 0.64, 0.55),
                "ddbpn": Figures(25.16, 0.64, 0.38),
                "carn": Figures(26.31, 0.65, 0.35),
                "swinir": Figures(25.88, 0.62, 0.36),
                "rcan": Figures(25.18, 0.65, 0.31),
                "esrgan": Figures(26.11, 0.65, 0.34),
                "paper-k2": _K2,
                "paper-k3": _K3,
            },
            "The six networks are trained on pairs of the training subjects, with LR made as LR of "
            "the test subjects is.",
        ),
        "3": Table(
            "Operators that the sampler assumes",
            (
                "bicubic",
                *(f"paper-k2@{operator}" for operator in OPERATORS),
                *(f"fast@{operator}" for operator in OPERATORS),
                "hr-repeat",
            ),
            {
                "paper-k2@bicubic": _K2,
                "paper-k2@bilinear": Figures(24.61, 0.60, 0.09),
                "paper-k2@lanczos2": Figures(24.61, 0.60, 0.10),
                "paper-k2@lanczos3": Figures(24.65, 0.60, 0.10),
                "paper-k2@box": Figures(24.72, 0.61, 0.10),
            },
            "As in the paper's appendix B LR stays as it is, and the sampler's data step assumes "
            "one operator after the other. χ² is that of the operator assumed.",
        ),
        "4": Table(
            "Levels from one gradient to the next, k",
            (
                "bicubic",
                "dps",
                *(f"paper-k{k}" for k in SKIPS),
                "paper-k2-no-fusion",
                "hr-repeat",
            ),
            {
                "dps": _DPS,
                "paper-k2": _K2,
                "paper-k3": _K3,
                "paper-k4": Figures(24.44, 0.59, 0.11, 756),
                "paper-k5": Figures(24.19, 0.54, 0.11, 729),
                "paper-k2-no-fusion": Figures(17.88, 0.36, 0.39, 727),
            },
            "k = 1 is DPS: every level follows the gradient and none fuses.",
        ),
    }
)
"""The tables by their number in the paper."""

CURVE: tuple[str, ...] = (
    *(f"fast-n{steps}" for steps in FAST_STEPS),
    *(f"paper-k2-n/{share}" for share in PAPER_SHARES),
)
"""Methods of the figure of quality against evaluations that no table has."""

METHOD_NAMES: tuple[str, ...] = tuple(
    dict.fromkeys((*(name for table in TABLES.values() for name in table.methods), *CURVE))
)
"""Every method, each once."""


@dataclass(frozen=True)
class TablesConfig:
    """Settings of `srmri bench tables`.

    Parameters
    ----------
    plane : str
        Plane of the slices.
    operator : str
        How LR is made of volumes, and what the samplers assume; see `degradation_matrix`.
    width : float, optional
        Of an operator that has one, in LR voxels.
    factor : float
        LR over HR voxel size in both axes, where LR is made.
    sigma_y : float
        Noise of the LR that is made, on HR's scale.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie.
    methods : tuple of str
        Those to compute beside `ALWAYS`; empty for all.
    subjects : tuple of str
        Test subjects to take; empty for all.
    slices : int
        Slices of each, evenly spread over those with tissue.
    budget : float
        Minutes of training per model. The long samplers take ten steps per minute of it, 20 to
        2000, and networks trained on one image its steps in proportion.
    draws : int
        Draws of `fast-mean`, at least 2.
    seed : int
        Of everything that is random.
    smoke : bool
        Take little data: crops of volumes, or the phantom where there are none.
    """

    plane: Plane = "coronal"
    operator: OperatorKind = "kspace"
    width: float | None = None
    factor: float = 2.0
    sigma_y: float = 0.01
    grid: Grid = "voxel-centre"
    methods: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    slices: int = 6
    budget: float = 30.0
    draws: int = 16
    seed: int = 0
    smoke: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHOD_NAMES]:
            raise UsageError(
                f"--methods: unknown {', '.join(unknown)}",
                hint=f"choose among {', '.join(METHOD_NAMES)}",
            )
        if not self.budget > 0:
            raise UsageError(f"--budget is a time in minutes, above 0; found {self.budget:g}")
        if self.slices < 1 or self.draws < 2:
            raise UsageError("at least one slice per subject and two draws are needed")

    @classmethod
    def chosen(cls, *, smoke: bool = False, **given: Any) -> TablesConfig:
        """Make settings with the defaults of a full or a smoke run.

        Parameters
        ----------
        smoke : bool
            One slice of each subject, ten seconds of training per model, 20 levels, 4 draws.
        **given
            Fields; a name that is none is a TypeError.

        Returns
        -------
        TablesConfig
            What was given, and defaults.
        """
        defaults = _SMOKE if smoke else {}
        return cls(**{**defaults, **given, "smoke": smoke})

    @property
    def steps(self) -> int:
        """Noise levels of the long samplers.

        Examples
        --------
        >>> TablesConfig(budget=30).steps, TablesConfig(budget=0.1).steps
        (300, 20)
        """
        wanted = round(_STEPS_PER_MINUTE * self.budget)
        return min(max(wanted, _MIN_STEPS), _MAX_STEPS)

    @property
    def names(self) -> tuple[str, ...]:
        """Methods to compute, in the order of the tables.

        Examples
        --------
        >>> TablesConfig(methods=("fast",)).names
        ('bicubic', 'fast', 'hr-repeat')
        """
        wanted = {*self.methods, *ALWAYS} if self.methods else set(METHOD_NAMES)
        return tuple(name for name in METHOD_NAMES if name in wanted)

    @property
    def tables(self) -> dict[str, Table]:
        """Tables with more than what is always there.

        Examples
        --------
        >>> list(TablesConfig(methods=("rcan",)).tables)
        ['2']
        """
        wanted = {*self.names} - {*ALWAYS}
        found = {key: table for key, table in TABLES.items() if wanted & {*table.methods}}
        return found or dict(TABLES)
