"""Every method: a slice in, an image out, and what it cost the network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from srmri_data.choices import OperatorKind, SamplerName, SupervisedName
from srmri_data.errors import ResolutionError, UsageError
from srmri_model.baselines import kernelgan
from srmri_model.baselines import zssr as zero_shot
from srmri_model.baselines.interpolation import Interpolation, interpolate
from srmri_model.baselines.kernelgan import KernelGANSettings, estimate_kernel
from srmri_model.baselines.zssr import ZSSRSettings, zssr
from srmri_model.bench.plan import FAST_STEPS, OPERATORS, PAPER_SHARES, SKIPS, TablesConfig
from srmri_model.bench.tasks import Task
from srmri_model.samplers import (
    DDNM,
    DiffPIR,
    Fast,
    Guided,
    ImageNoise,
    Paper,
    PredictorCorrector,
    Settings,
    Variance,
    VarianceTable,
    sample,
    two_valued,
    within,
)
from srmri_model.samplers.problem import Denoises
from srmri_model.training.slices import FLIPPABLE, plane_index

Pixels = NDArray[np.float32]
Family = Literal["interpolation", "ceiling", "unsupervised", "supervised"]
Network: TypeAlias = SupervisedName | Literal["", "score"]
Progress: TypeAlias = Callable[[int, int], None]

_PUBLISHED_BUDGET, _SCALED_BUDGET = 60.0, 5.0
"""Minutes from which on networks that are trained on the slice itself are as published, or as
their authors' sizes scaled to a small machine; below, these take fewer steps in proportion."""
_LEAST_STEPS = 20


class Drawn(NamedTuple):
    """What a method makes of a slice.

    Attributes
    ----------
    image : (row, col) ndarray of float32
        On HR's scale.
    nfe, nbe : int
        Evaluations of the score model, forward and backward.
    draws : (K, row, col) ndarray of float32, optional
        Where the image is their mean.
    """

    image: Pixels
    nfe: int = 0
    nbe: int = 0
    draws: NDArray[np.float32] | None = None


class Upscales(Protocol):
    """A trained network: LR images to HR images of a size."""

    def __call__(self, low_res: torch.Tensor, high_size: tuple[int, int]) -> torch.Tensor:
        """Super-resolve a batch."""


@dataclass(frozen=True, eq=False)
class ScoreModel:
    """The score model, ready to sample from.

    Parameters
    ----------
    denoiser : callable
        Of images of any size.
    n_planes : int
        Planes its label tells apart; 0 for none.
    sigma_max : float
        Its largest noise level.
    variance, background : VarianceTable or None
        v(σ) in tissue and around it.
    std_scale : float
        What its spread has to be multiplied by, from its tuning animals.
    """

    denoiser: Denoises
    n_planes: int
    sigma_max: float
    variance: VarianceTable | None
    background: VarianceTable | None
    std_scale: float


class Models(Protocol):
    """Trained networks, loaded or trained when they are first asked for."""

    def score(self) -> ScoreModel:
        """Return the score model."""

    def upscaler(self, name: SupervisedName) -> Upscales:
        """Return a supervised network."""

    def load(self, name: Network) -> None:
        """Have a network ready, so that its first use takes no longer than others."""

    def sha256(self, name: Network) -> str:
        """Return the SHA-256 of a network's file; empty for none."""


class Method(Protocol):
    """A method with all of its settings, which its `repr` shows."""

    @property
    def needs(self) -> Network:
        """The trained network it stands on; empty for none."""

    def __call__(self, task: Task, models: Models, seed: int, progress: Progress) -> Drawn:
        """Super-resolve a slice."""


@dataclass(frozen=True)
class Interpolated:
    """LR on the grid of HR.

    Parameters
    ----------
    method : str
        Which interpolation.
    """

    method: Interpolation

    needs: ClassVar[Network] = ""

    def __call__(self, task: Task, models: Models, seed: int, progress: Progress) -> Drawn:
        """Interpolate; see `Method`."""
        pair, grid = task.pair, task.physics.grid
        return Drawn(
            interpolate(pair["low_res"], task.high_shape, pair["factor"], self.method, grid=grid)
        )


@dataclass(frozen=True)
class Repeated:
    """HR scanned again: the truth with as much new noise as two scans differ by.

    Simulated, since few data hold a repeat: two scans with noise σ differ by √2 σ, and σ is that
    of the HR scan, from its air or its finest detail. Voxels that were masked out stay so.
    """

    needs: ClassVar[Network] = ""

    def __call__(self, task: Task, models: Models, seed: int, progress: Progress) -> Drawn:
        """Add noise; see `Method`."""
        truth, zero = task.pair["high_res"], np.float32(task.pair["no_signal"])
        if not task.sigma_high:
            raise ResolutionError("the noise of the HR scan can not be measured")
        random = ImageNoise(seed, [(*key_of(task), 0), (*key_of(task), 1)])
        real, imaginary = (random(tuple(truth.shape)) * 2**0.5 * task.sigma_high).numpy()
        again = np.hypot(truth - zero + real, imaginary) + zero
        return Drawn(np.where(np.abs(truth - zero) < 1e-6, truth, again).astype(np.float32))


@dataclass(frozen=True)
class Sampled:
    """A draw from the score model given LR, or the mean of several.

    Parameters
    ----------
    sampler : str
        How it is drawn.
    settings : Settings
        Of the sampler.
    operator : str, optional
        What the data step assumes, if not what LR is taken to come from.
    draws : int
        How many are averaged.
    """

    sampler: SamplerName
    settings: Settings
    operator: OperatorKind | None = None
    draws: int = 1

    needs: ClassVar[Network] = "score"

    def __call__(self, task: Task, models: Models, seed: int, progress: Progress) -> Drawn:
        """Draw; see `Method`."""
        model = models.score()
        settings = within(self.settings, model.sigma_max)
        operator = task.operator(self.operator)
        low = torch.from_numpy(task.measured)[None, None]
        images = []
        nfe = nbe = 0
        for number in range(self.draws):

            def level(done: int, of: int, number: int = number) -> None:
                progress(number * of + done, self.draws * of)

            drawn, trace = sample(
                self.sampler,
                model.denoiser,
                low,
                operator,
                sigma_y=task.sigma_y,
                generator=ImageNoise(seed, [(*key_of(task), number)]),
                settings=settings,
                variance=_variance(model, task),
                plane=plane_index([task.pair["plane"]], model.n_planes),
                no_signal=task.no_signal if self.sampler == "fast" else None,
                mirror=-1 if task.pair["plane"] in FLIPPABLE else None,
                progress=level,
            )
            images.append(drawn[0, 0].numpy())
            nfe, nbe = nfe + trace.nfe, nbe + trace.nbe
        stack = np.stack(images)
        several = stack if self.draws > 1 else None
        return Drawn(
            np.asarray(stack.mean(axis=0, dtype=np.float64), np.float32), nfe, nbe, several
        )


@dataclass(frozen=True)
class Learned:
    """A network trained on pairs.

    Parameters
    ----------
    name : str
        Which.
    """

    name: SupervisedName

    def __call__(self, task: Task, models: Models, seed: int, progress: Progress) -> Drawn:
        """Super-resolve; see `Method`."""
        upscale = models.upscaler(self.name)
        with torch.no_grad():
            image = upscale(torch.from_numpy(task.pair["low_res"])[None, None], task.high_shape)
        return Drawn(np.ascontiguousarray(image[0, 0].numpy(), dtype=np.float32))

    @property
    def needs(self) -> SupervisedName:
        """Itself."""
        return self.name


@dataclass(frozen=True)
class ZeroShot:
    """KernelGAN finds the kernel of the slice; ZSSR learns from the slice to undo it.

    Parameters
    ----------
    kernel : KernelGANSettings
        How the kernel is found.
    network_settings : ZSSRSettings
        How its opposite is learned; its noise is the slice's.
    """

    kernel: KernelGANSettings
    network_settings: ZSSRSettings

    needs: ClassVar[Network] = ""

    def __call__(self, task: Task, models: Models, seed: int, progress: Progress) -> Drawn:
        """Learn from the slice alone; see `Method`."""
        rows, cols = task.pair["factor"]
        if rows != cols or rows != round(rows):
            raise UsageError(
                f"KernelGAN and ZSSR take one whole factor for both axes; found {rows:g} × {cols:g}"
            )
        low, first = task.pair["low_res"], self.kernel.steps
        total = first + self.network_settings.steps
        kernel = estimate_kernel(
            low,
            factor=round(rows),
            settings=self.kernel,
            seed=seed,
            progress=lambda _stage, done, _total: progress(done, total),
        )
        image = zssr(
            low,
            factor=rows,
            kernel=kernel,
            grid=task.physics.grid,
            high_shape=task.high_shape,
            settings=replace(self.network_settings, noise=task.sigma_y),
            seed=seed,
            progress=lambda _stage, done, _total: progress(first + done, total),
        )
        return Drawn(np.ascontiguousarray(image, dtype=np.float32))


class Named(NamedTuple):
    """A method as tables show it.

    Attributes
    ----------
    label : str
        Its name.
    family : str
        What kind it is.
    method : Method
        What computes it.
    """

    label: str
    family: Family
    method: Method


RHOS: Mapping[str, tuple[tuple[int, float], ...]] = {
    "dps": ((20, 2.0), (200, 1.0)),
    "mcg": ((20, 0.3), (200, 0.1)),
    "paper": ((20, 3.0), (60, 3.0), (240, 1.0), (600, 0.5)),
}
"""Step size ρ by number of levels, where it is not tuned.

Of 20 levels: the largest PSNR on slices of the tuning mice (σ_y 0.01) of `paper` with 0.3, 1, 2, 3
and of `dps` with 0.3, 1, 2; `mcg` was tried with 0.3 alone. Of 200 levels: those of the Gaussian
test-bed. Of 60 levels and more of `paper`: what an earlier model took on mice.
"""


def default_rho(sampler: str, steps: int) -> float:
    """Look up the step size of the gradient.

    Parameters
    ----------
    sampler : str
        A key of `RHOS`.
    steps : int
        Noise levels.

    Returns
    -------
    float
        Between numbers of levels on straight lines in logarithms; beyond them that of the nearest.
    """
    known, rhos = np.log(np.array(RHOS[sampler])).T
    return round(float(np.exp(np.interp(np.log(steps), known, rhos))), 3)


def key_of(task: Task) -> tuple[int, int]:
    """Return what names a slice to a source of noise.

    Parameters
    ----------
    task : Task
        The slice.

    Returns
    -------
    tuple of int
        The subject as a number, and the slice's number.
    """
    subject = hashlib.sha256(task.pair["subject"].encode()).digest()
    return int.from_bytes(subject[:4], "big"), task.pair["slice_index"]


def methods_for(config: TablesConfig, rhos: Mapping[str, float]) -> dict[str, Named]:
    """Return every method with its settings.

    Parameters
    ----------
    config : TablesConfig
        Budget, draws and operator.
    rhos : mapping of str to float
        Step sizes by method, where they were tuned.

    Returns
    -------
    dict of str to Named
        By name, for every name in `METHOD_NAMES`.
    """
    n = config.steps

    def guided(name: str, sampler: SamplerName, settings: Guided) -> Sampled:
        rho = rhos.get(name) or default_rho(sampler, settings.steps)
        return Sampled(sampler, replace(settings, rho=rho))

    def paper(name: str, k: int = 2, *, steps: int = n, fusion: bool = True) -> Sampled:
        return guided(name, "paper", Paper(steps=steps, k=k, fusion=fusion))

    k2, fast = paper("paper-k2"), Sampled("fast", Fast())
    found: dict[str, Named] = {
        "bicubic": Named("Bicubic", "interpolation", Interpolated("bicubic")),
        "lanczos3": Named("Lanczos3", "interpolation", Interpolated("lanczos3")),
        "b-spline-3": Named("B-spline, order 3", "interpolation", Interpolated("b-spline 3")),
        "b-spline-5": Named("B-spline, order 5", "interpolation", Interpolated("b-spline 5")),
        "zero-filled": Named("Zero-filled k-space", "interpolation", Interpolated("zero-filled")),
        "hr-repeat": Named("HR repeat (simulated)", "ceiling", Repeated()),
        "score-sde": Named(
            "Score-SDE", "unsupervised", Sampled("score-sde", PredictorCorrector(steps=n))
        ),
        "dps": Named("DPS (k = 1)", "unsupervised", guided("dps", "dps", Guided(steps=n))),
        "mcg": Named("MCG", "unsupervised", guided("mcg", "mcg", Guided(steps=n))),
        "kernelgan+zssr": Named("KernelGAN + ZSSR", "unsupervised", _zero_shot(config)),
        "ddnm": Named("DDNM", "unsupervised", Sampled("ddnm", DDNM(steps=min(n, 100)))),
        "diffpir": Named("DiffPIR", "unsupervised", Sampled("diffpir", DiffPIR(steps=min(n, 100)))),
        "paper-k2": Named("SRMRI, k = 2", "unsupervised", k2),
        "paper-k2-no-fusion": Named(
            "SRMRI, k = 2, no fusion", "unsupervised", paper("paper-k2-no-fusion", fusion=False)
        ),
        "fast": Named("srmri fast, one draw", "unsupervised", fast),
        "fast-mean": Named(
            f"srmri fast, mean of {config.draws}", "unsupervised", replace(fast, draws=config.draws)
        ),
        "srcnn": Named("SRCNN", "supervised", Learned("srcnn")),
        "ddbpn": Named("DDBPN", "supervised", Learned("ddbpn")),
        "carn": Named("CARN", "supervised", Learned("carn")),
        "swinir": Named("SwinIR", "supervised", Learned("swinir")),
        "rcan": Named("RCAN", "supervised", Learned("rcan")),
        "esrgan": Named("ESRGAN", "supervised", Learned("esrgan")),
    }
    for k in SKIPS[1:]:
        found[f"paper-k{k}"] = Named(f"SRMRI, k = {k}", "unsupervised", paper(f"paper-k{k}", k))
    for kind in OPERATORS:
        assumed = kind.capitalize()
        found[f"paper-k2@{kind}"] = Named(
            f"SRMRI, k = 2, {assumed}", "unsupervised", replace(k2, operator=kind)
        )
        found[f"fast@{kind}"] = Named(
            f"srmri fast, {assumed}", "unsupervised", replace(fast, operator=kind)
        )
    for steps in FAST_STEPS:
        found[f"fast-n{steps}"] = Named(
            f"srmri fast, {steps} levels", "unsupervised", Sampled("fast", Fast(steps=steps))
        )
    for share in PAPER_SHARES:
        few = max(2, n // share)
        found[f"paper-k2-n/{share}"] = Named(
            f"SRMRI, k = 2, {few} levels",
            "unsupervised",
            paper(f"paper-k2-n/{share}", steps=few),
        )
    return found


def _zero_shot(config: TablesConfig) -> ZeroShot:
    if config.budget >= _PUBLISHED_BUDGET:
        return ZeroShot(kernelgan.PUBLISHED, zero_shot.PUBLISHED)
    share = min(1.0, config.budget / _SCALED_BUDGET)
    kernel, network = kernelgan.SCALED, zero_shot.SCALED
    return ZeroShot(
        replace(kernel, steps=max(_LEAST_STEPS, round(share * kernel.steps))),
        replace(network, steps=max(_LEAST_STEPS, round(share * network.steps))),
    )


def _variance(model: ScoreModel, task: Task) -> Callable[[float], Variance] | None:
    if model.variance is None or model.background is None:
        return model.variance
    mask = torch.from_numpy(task.around_tissue())[None, None]
    return two_valued(model.variance, model.background, mask)
