"""Rigid registration of two scans of one animal, with its uncertainty.

Every step is deterministic: SimpleITK on one thread, regular sampling, seeded starts.

The images that are compared are *locally normalised*: from every voxel the mean of its
neighbourhood is taken away, and the rest divided by the neighbourhood's standard deviation. A
coil's uneven sensitivity and a monotonic change of contrast all but vanish, which plain correlation
pays for with errors up to ten times as large (``docs/decisions/0005-local-normalisation.md``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from srmri_data.choices import RegistrationMetric
from srmri_data.errors import RegistrationError, UsageError
from srmri_data.geometry import apply_affine, voxel_spacing
from srmri_data.intensity import content_box, foreground_threshold
from srmri_data.safe_io import atomic_path
from srmri_data.slices import resize_matrix
from srmri_data.types import Affine

if TYPE_CHECKING:
    import SimpleITK

Image: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int], None]
Metric: TypeAlias = Literal["correlation", "mutual-information"]

# Grid of a level: the longest side of LR's field of view has this many voxels.
_ORIENTATION_VOXELS = 26
_COARSE_VOXELS = 40
_MIDDLE_VOXELS = 72
# Local normalisation: standard deviation of the neighbourhood in voxels of the level, and the
# contrast, relative to the whole animal's, below which a neighbourhood counts as flat.
_NEIGHBOURHOOD = 4.0
_FLAT = 0.15
# HR is sampled this much finer than the resolution it is blurred to: linear interpolation of
# samples at their Nyquist distance would pull towards the grid.
_OVERSAMPLING = 1.6
_MAX_SAMPLES = 200_000
_MAX_MOVING = 24_000_000
_MIN_OVERLAP = 0.3
_ROTATION_START = np.deg2rad(8.0)
_N_PARTS = 4
_BLOCK = 6
_N_RIVALS = 3
# A rival this far behind at the coarsest level is not looked at again.
_HOPELESS = 0.25
# Below this correlation at the coarse level another measure is tried.
_POOR = 0.5
# Score of a registration that came to nothing; a correlation is never as low.
_FAILED = -2.0
# Starts this close to the best score count as having found the same.
_SAME_SCORE = 0.01
# A start this many coarse voxels from the best one has found another place, and this far behind it
# is not looked at again.
_ELSEWHERE = 2.0
_HOPELESS_PLACE = 0.1
# Scale or offset of the intensities changes float32's last bits, and an optimiser's path with them.
# What a level found is rounded before the next one starts from it, in voxels of the level, and the
# end result in HR voxels, so that the same anatomy gives the same numbers.
_ROUND_START = 0.1
_ROUND_RESULT = 0.002
# Scanners' gradients agree within a few per mille; more is a fact about the scans, and a great
# deal more is a fit gone wrong.
_SCALE_NOTED = 0.005
_SCALE_MOST = 0.06
_SCALE_GAIN = 0.004


@dataclass(frozen=True)
class RegistrationConfig:
    """How LR and HR are brought together.

    Parameters
    ----------
    metric : {"auto", "correlation", "mutual-information"}
        ``auto`` takes correlation, and mutual information to start from where correlation finds
        nothing, as between T1 and T2 contrast.
    window_mm : float
        How far the animal may have moved from where the headers put it; starts are spread over
        this distance.
    n_starts : int
        Perturbed starts at the coarse level.
    seed : int
        Seed of the perturbations.
    """

    metric: RegistrationMetric = "auto"
    window_mm: float = 1.0
    n_starts: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what can not be searched."""
        if not 0 < self.window_mm < np.inf or self.n_starts < 1 or self.seed < 0:
            raise UsageError(
                f"registration needs a window in mm above 0 and at least one start; found "
                f"{self.window_mm} mm and {self.n_starts} starts"
            )


@dataclass(frozen=True, eq=False)
class Orientation:
    """One way to relate the axes of the two scans, and how well it fits.

    Parameters
    ----------
    axes : tuple of 3 ints
        World axis of HR that plays the part of LR's x, y, z.
    signs : tuple of 3 ints
        1, or -1 where the axis is reversed.
    score : float
        Correlation of the locally normalised images.
    """

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]
    score: float

    @property
    def is_identity(self) -> bool:
        """Whether this is what the headers say."""
        return self.axes == (0, 1, 2) and self.signs == (1, 1, 1)

    @property
    def is_mirrored(self) -> bool:
        """Whether the animal would have to be mirrored."""
        return bool(np.linalg.det(self.matrix) < 0)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(3, 3) matrix that turns HR's world axes into LR's."""
        matrix = np.zeros((3, 3))
        matrix[range(3), self.axes] = self.signs
        return matrix

    def __str__(self) -> str:
        names = ("left–right", "back–front", "bottom–top")
        if self.axes == (0, 1, 2):
            turned = [names[n] for n, sign in enumerate(self.signs) if sign < 0]
            return f"reversed {' and '.join(turned)}" if turned else "as the headers say"
        order = ", ".join(
            f"{'reversed ' if sign < 0 else ''}{names[axis]}"
            for axis, sign in zip(self.axes, self.signs, strict=True)
        )
        return f"axes exchanged ({order})"


@dataclass(frozen=True, eq=False)
class Registration:
    """Where LR's anatomy lies in HR.

    Parameters
    ----------
    matrix : (4, 4) ndarray
        LR world to HR world, RAS mm: the map that positions follow.
    rigid : (4, 4) ndarray
        The same with lengths kept; differs from `matrix` when the scans differ in scale.
    centre : (3,) ndarray
        Centre of rotation, LR world RAS mm: the middle of the animal.
    metric : {"correlation", "mutual-information"}
        What the first levels used; the last level is always correlation.
    score : float
        Correlation of the locally normalised images, at LR's resolution.
    ceiling : float
        The score that LR's noise would leave if the anatomy were the same.
    scale : tuple of 3 floats
        Principal stretches of LR against HR that an affine map finds.
    is_scaled : bool
        Whether they are so far from 1 that `matrix` follows them.
    overlap : float
        Share of the animal in LR that lies inside HR's field of view.
    spread_um : float
        How far apart the coarse starts that reached the best score put the animal (root mean
        square); large when there are several equally good places.
    n_starts, n_agreeing : int
        Starts, and how many of them reached the best place.
    n_parts : int
        Separate parts of the voxels that were registered on their own.
    replicates : tuple of (4, 4) ndarray
        Where those of them lie that could be, for `position_error`.
    place_margin : float
        Score of the best place minus that of the best other place; 1 when every start that came
        near it led to the same.
    elsewhere_um : float
        How far away that other place is; 0 without one.
    orientations : tuple of Orientation
        What the headers say and its best rivals, best first, at one common resolution.
    """

    matrix: Affine
    rigid: Affine
    centre: NDArray[np.float64]
    metric: Metric
    score: float
    ceiling: float
    scale: tuple[float, float, float]
    is_scaled: bool
    overlap: float
    spread_um: float
    n_starts: int
    n_agreeing: int
    n_parts: int
    replicates: tuple[Affine, ...]
    place_margin: float
    elsewhere_um: float
    orientations: tuple[Orientation, ...]

    @classmethod
    def of_headers(cls, centre: NDArray[np.float64]) -> Registration:
        """Believe the headers: where nothing was registered, or nothing could be.

        Parameters
        ----------
        centre : (3,) ndarray
            Any point, LR world RAS mm.

        Returns
        -------
        Registration
            The identity, without evidence.
        """
        return cls(
            matrix=np.eye(4), rigid=np.eye(4), centre=centre, metric="correlation",
            score=0.0, ceiling=0.0, scale=(1.0, 1.0, 1.0), is_scaled=False, overlap=1.0,
            spread_um=0.0, n_starts=0, n_agreeing=0, n_parts=0, replicates=(), place_margin=1.0,
            elsewhere_um=0.0, orientations=(),
        )  # fmt: skip

    @property
    def quality(self) -> float:
        """Score relative to what noise allows; near 1 for the same animal, 0.7 for another."""
        return float(min(1.0, self.score / self.ceiling)) if self.ceiling > 0 else 0.0

    @property
    def doubted(self) -> Orientation | None:
        """A relation of the axes that fits better than what the headers say, if there is one."""
        if not self.orientations or self.orientations[0].is_identity:
            return None
        return self.orientations[0]

    @property
    def margin(self) -> float:
        """Score of the headers' orientation minus that of its best rival."""
        if not self.orientations:
            return 0.0
        (stated,) = (o.score for o in self.orientations if o.is_identity)
        rivals = [o.score for o in self.orientations if not o.is_identity]
        return float(stated - max(rivals, default=0.0))

    @cached_property
    def angles_deg(self) -> tuple[float, float, float]:
        """Rotation about x, y, z (R = Rz Ry Rx) in degrees."""
        r = self.rigid[:3, :3]
        angles = (
            np.arctan2(r[2, 1], r[2, 2]),
            np.arcsin(np.clip(-r[2, 0], -1, 1)),
            np.arctan2(r[1, 0], r[0, 0]),
        )
        x, y, z = np.rad2deg(angles)
        return float(x), float(y), float(z)

    @property
    def shift_um(self) -> tuple[float, float, float]:
        """Where the middle of the animal moved, along x, y, z, in µm."""
        x, y, z = 1000 * (apply_affine(self.rigid, self.centre) - self.centre)
        return float(x), float(y), float(z)

    def describe(self) -> dict[str, Any]:
        """Return what was found as JSON-able values.

        Returns
        -------
        dict
            For ``summary.json``.
        """
        return {
            "matrix": self.matrix.tolist(),
            "angles_deg": list(self.angles_deg),
            "shift_um": list(self.shift_um),
            "metric": self.metric,
            "score": self.score,
            "ceiling": self.ceiling,
            "quality": self.quality,
            "scale": list(self.scale),
            "is_scaled": self.is_scaled,
            "overlap": self.overlap,
            "spread_um": self.spread_um,
            "n_starts": self.n_starts,
            "n_agreeing": self.n_agreeing,
            "place_margin": self.place_margin,
            "elsewhere_um": self.elsewhere_um,
            "orientation": [
                {"relation": str(way), "score": way.score} for way in self.orientations
            ],
        }

    def position_error(self, points: NDArray[np.float64], to_index: Affine) -> NDArray[np.float64]:
        """Return the standard error of mapped points along an index axis.

        Parameters
        ----------
        points : (n, 3) ndarray
            LR world RAS mm.
        to_index : (4, 4) ndarray
            HR world to the index whose first coordinate counts.

        Returns
        -------
        (n,) ndarray
            Standard error in index units, from the scatter of `replicates`; NaN without any.
        """
        if len(self.replicates) < 2:
            return np.full(len(points), np.nan)
        found = [apply_affine(to_index @ m, points)[:, 0] for m in self.replicates]
        # Each replicate saw one share of the voxels, so its variance is as many times larger.
        return np.asarray(np.std(found, axis=0, ddof=1) / np.sqrt(len(found)))


@dataclass(frozen=True, eq=False)
class _Level:
    """Both images at one resolution; `points` are where the animal is in LR, world mm."""

    fixed: Image
    fixed_affine: Affine
    mask: NDArray[np.bool_]
    moving: Image
    moving_affine: Affine
    points: NDArray[np.float64]
    moving_centre: NDArray[np.float64]
    spacing: float
    ceiling: float

    @cached_property
    def fixed_itk(self) -> SimpleITK.Image:
        return _itk_image(self.fixed, self.fixed_affine)

    @cached_property
    def moving_itk(self) -> SimpleITK.Image:
        return _itk_image(self.moving, self.moving_affine)

    @cached_property
    def mask_itk(self) -> SimpleITK.Image:
        return _itk_image(self.mask.astype(np.uint8), self.fixed_affine)

    @property
    def centre(self) -> NDArray[np.float64]:
        # Rounded as transforms are: one voxel more or less of animal must not move it.
        return np.asarray(np.rint(self.points.mean(axis=0) / self.spacing) * self.spacing)


@dataclass(frozen=True, eq=False)
class _Fit:
    """A transform that was found; `score` is the correlation, larger is better."""

    transform: Any
    score: float

    @property
    def matrix(self) -> Affine:
        return _matrix(self.transform)


def register_rigid(
    low: NDArray[Any],
    low_affine: Affine,
    high: NDArray[Any],
    high_affine: Affine,
    config: RegistrationConfig,
    *,
    progress: Progress | None = None,
) -> Registration:
    """Find where LR's anatomy lies in HR.

    Parameters
    ----------
    low : (a, b, c) ndarray
        Voxels of LR in scanner units.
    low_affine : (4, 4) ndarray
        Index to world RAS mm.
    high : (a, b, c) ndarray
        Voxels of HR; its axes correspond to LR's (`StackFrame.view`).
    high_affine : (4, 4) ndarray
        Index to world RAS mm.
    config : RegistrationConfig
        How to search.
    progress : callable, optional
        Called with (steps done, all steps).

    Returns
    -------
    Registration
        The map and what speaks for and against it.

    Raises
    ------
    RegistrationError
        If no start leaves enough of the animal inside HR's field of view.

    Notes
    -----
    1. At a very coarse level all 48 ways to relate the axes are tried; the best rivals of the
       headers' are kept for step 3.
    2. At a coarse level registration starts from the headers' position, from the animals' centres,
       and from perturbations of the better of the two.
    3. The best start is refined at a middle level, and so are the rival orientations; a mirrored
       or turned animal shows itself here.
    4. At LR's own resolution the map is refined, once with all voxels and once for each of four
       interleaved parts, whose scatter is the standard error; an affine map shows a difference of
       scale.

    References
    ----------
    .. [1] Z. Yaniv, B. C. Lowekamp, H. J. Johnson, R. Beare, "SimpleITK image-analysis notebooks",
       J. Digit. Imaging 31 (2018) 290-303.
    """
    step = _Steps(progress, 5)
    low, low_affine = _content(low, low_affine)
    high, high_affine = _content(high, high_affine)
    extent = max(n * s for n, s in zip(low.shape, voxel_spacing(low_affine), strict=True))
    native = np.asarray(voxel_spacing(low_affine))

    def level(n_voxels: int, local: bool = True) -> _Level:
        spacing = np.maximum(native, extent / n_voxels)
        return _level(low, low_affine, high, high_affine, spacing, local=local)

    scan = level(_ORIENTATION_VOXELS)
    rivals = _rival_orientations(scan)
    step()
    coarse = level(_COARSE_VOXELS)
    metric: Metric = "correlation"
    starts = _search(coarse, config, metric)
    poor = not starts or starts[0].score < _POOR
    if config.metric == "mutual-information" or (config.metric == "auto" and poor):
        metric = "mutual-information"
        starts = _search(level(_COARSE_VOXELS, local=False), config, metric)
    if not starts:
        raise RegistrationError(
            "no part of the animal in LR could be placed inside HR's field of view",
            hint="look at both scans with `srmri inspect`; a wrong position can be set with "
            "--lr-subject-position or --hr-subject-position",
        )
    best = starts[0]
    step()
    if metric == "mutual-information":
        # From here on HR looks like LR: its intensities go through the mean of LR's at them.
        high = _like_low_res(level(_COARSE_VOXELS, local=False), best.matrix, high)
    middle = level(_MIDDLE_VOXELS)
    best = _rounded(best, _ROUND_START * coarse.spacing, extent)
    refined = _rounded(_refine(middle, best.transform), _ROUND_START * middle.spacing, extent)
    other = _other_place(starts, coarse, middle, refined)
    stated = Orientation((0, 1, 2), (1, 1, 1), refined.score)
    fitted = [_fit_orientation((coarse, middle), rival, refined) for rival in rivals]
    orientations = sorted([stated, *fitted], key=lambda o: -o.score)
    step()
    fine = _level(low, low_affine, high, high_affine, native)
    result_step = _ROUND_RESULT * min(voxel_spacing(high_affine))
    final = _rounded(_refine(fine, refined.transform, least=1e-4), result_step, extent)
    step()
    parts = [_refine(part, final.transform, n_iterations=40, step=0.25) for part in _parts(fine)]
    affine = _rounded(_refine_affine(fine, final), result_step, extent)
    stretch = np.linalg.svd(affine.matrix[:3, :3], compute_uv=False)
    is_scaled = bool(
        np.abs(stretch - 1).max() > _SCALE_NOTED
        and np.abs(stretch - 1).max() < _SCALE_MOST
        and affine.score > final.score + _SCALE_GAIN
    )
    step()
    agreeing = [start for start in starts if start.score > best.score - _SAME_SCORE]
    displaced = [_distance(start.matrix, best.matrix, coarse.points) for start in agreeing]
    a, b, c = (float(v) for v in stretch)
    return Registration(
        matrix=affine.matrix if is_scaled else final.matrix,
        rigid=final.matrix,
        centre=np.asarray(final.transform.GetCenter()),
        metric=metric,
        score=affine.score if is_scaled else final.score,
        ceiling=fine.ceiling,
        scale=(a, b, c),
        is_scaled=is_scaled,
        overlap=_overlap(fine, final.matrix),
        spread_um=float(1000 * np.sqrt(np.mean(np.square(displaced)))),
        n_starts=len(starts),
        n_agreeing=len(agreeing),
        n_parts=len(parts),
        # One that failed stays where it started, and would pass for one that agrees.
        replicates=tuple(part.matrix for part in parts if part.score > _FAILED),
        place_margin=1.0 if other is None else refined.score - other.score,
        elsewhere_um=(
            0.0 if other is None else 1000 * _distance(other.matrix, refined.matrix, middle.points)
        ),
        orientations=tuple(orientations),
    )


def matched_intensities(
    low: NDArray[np.float32], high: NDArray[np.float32], *, n_bins: int = 48
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean LR intensity at every HR intensity, as a curve to interpolate.

    Parameters
    ----------
    low, high : ndarray of float32
        Intensities of corresponding voxels.
    n_bins : int
        Most points of the curve.

    Returns
    -------
    at, mean : (n,) ndarray
        HR intensities, increasing, and the mean LR intensity there; for `numpy.interp`.
    """
    order = np.argsort(high, axis=None, kind="stable")
    x, y = high.ravel()[order], low.ravel()[order]
    # Bins of equal width where there are voxels enough: equal counts would spend most bins on air.
    edges = np.searchsorted(x, np.linspace(x[0], x[-1], n_bins + 1)[1:-1])
    least = max(1, x.size // 5000)
    parts = [(a, b) for a, b in itertools.pairwise([0, *edges, x.size]) if b - a >= least]
    at = np.array([x[a:b].mean(dtype=np.float64) for a, b in parts])
    mean = np.array([y[a:b].mean(dtype=np.float64) for a, b in parts])
    return at, mean


def write_transform(path: Path, registration: Registration) -> None:
    """Write the map as an ITK transform file.

    Parameters
    ----------
    path : Path
        File ending in ``.tfm``.
    registration : Registration
        What was found.

    Notes
    -----
    ITK's world is LPS, and its transforms map points of the fixed image (LR) to the moving one
    (HR). The rigid map is written as ``Euler3DTransform``, a scaled one as ``AffineTransform``.
    """
    import SimpleITK

    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix = flip @ registration.matrix @ flip
    centre = flip[:3, :3] @ registration.centre
    linear = matrix[:3, :3].ravel().tolist()
    if registration.is_scaled:
        transform = SimpleITK.AffineTransform(3)
        transform.SetMatrix(linear)
    else:
        transform = SimpleITK.Euler3DTransform()
        # Headers' rounding leaves rotations that are orthogonal to six digits only.
        transform.SetMatrix(linear, 1e-6)
    transform.SetCenter(centre.tolist())
    transform.SetTranslation((matrix[:3, 3] + matrix[:3, :3] @ centre - centre).tolist())
    with atomic_path(path) as target:
        SimpleITK.WriteTransform(transform, str(target))


def _like_low_res(level: _Level, matrix: Affine, high: Image) -> Image:
    """Return HR with the mean intensity that LR has where it lies."""
    to_moving = np.linalg.inv(level.moving_affine) @ matrix @ level.fixed_affine
    there = ndimage.affine_transform(
        level.moving,
        to_moving[:3, :3],
        to_moving[:3, 3],
        level.fixed.shape,
        order=1,
        mode="nearest",
    )
    at, mean = matched_intensities(level.fixed[level.mask], there[level.mask])
    return np.interp(high, at, mean).astype(np.float32)


class _Steps:
    """Counts steps for whoever shows progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _finite(image: NDArray[Any]) -> Image:
    values = np.asarray(image, dtype=np.float32)
    if np.isfinite(values).all():
        return values
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _content(image: NDArray[Any], affine: Affine) -> tuple[Image, Affine]:
    """Cut off constant borders, and mend what is lost in between."""
    box = content_box(image)
    moved = np.eye(4)
    moved[:3, 3] = [side.start for side in box]
    return _bridged(_finite(image[box])), affine @ moved


def _bridged(image: Image) -> Image:
    """Replace constant slices between others, lost in the scan, by the mean of their neighbours."""
    constant = np.array([plane.min() == plane.max() for plane in image])
    shown = np.flatnonzero(~constant)
    if not shown.size:
        return image
    lost = [n for n in np.flatnonzero(constant) if shown[0] < n < shown[-1]]
    if not lost:
        return image
    bridged = image.copy()
    for n in lost:
        before, after = shown[shown < n][-1], shown[shown > n][0]
        weight = np.float32((n - before) / (after - before))
        bridged[n] = (1 - weight) * image[before] + weight * image[after]
    return bridged


def _level(
    low: Image,
    low_affine: Affine,
    high: Image,
    high_affine: Affine,
    spacing: NDArray[np.float64],
    *,
    local: bool = True,
) -> _Level:
    """Bring both images to one resolution, `spacing` in mm along each of their axes."""
    fixed, fixed_affine = _resample(low, low_affine, spacing, spacing)
    finer = float(np.clip((_MAX_MOVING / fixed.size) ** (1 / 3), 1.0, _OVERSAMPLING))
    moving, moving_affine = _resample(high, high_affine, spacing, spacing / finer)
    threshold = foreground_threshold(fixed)
    inside = fixed > threshold
    moving_inside = moving > foreground_threshold(moving)
    if not inside.any() or not moving_inside.any():
        raise RegistrationError(
            "a scan shows no animal against its background, so there is nothing to align",
            hint="look at both scans with `srmri inspect`; --method paper votes without alignment",
        )
    ceiling = 0.0
    if local:
        noise = _noise(fixed, inside)
        fixed, variance = _local_norm(fixed, inside, np.full(3, _NEIGHBOURHOOD))
        ceiling = _noise_ceiling(noise, fixed[inside], variance[inside])
        sigma = _NEIGHBOURHOOD * spacing / np.asarray(voxel_spacing(moving_affine))
        moving, _ = _local_norm(moving, moving_inside, sigma)
    indices = np.argwhere(inside)
    points = apply_affine(fixed_affine, indices[:: max(1, len(indices) // 4000)])
    return _Level(
        fixed=fixed,
        fixed_affine=fixed_affine,
        mask=ndimage.binary_dilation(inside, iterations=2),
        moving=moving,
        moving_affine=moving_affine,
        points=points,
        moving_centre=apply_affine(moving_affine, np.argwhere(moving_inside).mean(axis=0)),
        spacing=float(spacing.mean()),
        ceiling=ceiling,
    )


def _resample(
    image: Image, affine: Affine, blur: NDArray[np.float64], sample: NDArray[np.float64]
) -> tuple[Image, Affine]:
    """Blur an image to voxels of `blur` mm and sample it every `sample` mm, or as it is."""
    to_new = np.eye(4)
    for axis, spacing in enumerate(voxel_spacing(affine)):
        size = image.shape[axis]
        step = max(1.0, sample[axis] / spacing)
        wide = max(1.0, blur[axis] / spacing)
        if wide <= 1.01 and step <= 1.01:
            continue
        n_out = max(1, int((size - 1) / step + 1e-6) + 1)
        start = ((size - 1) - (n_out - 1) * step) / 2
        matrix = resize_matrix(n_out, size, start=start, step=step, blur=wide)
        image = np.moveaxis(np.tensordot(matrix, image, axes=(1, axis)), 0, axis)
        to_new[axis, axis], to_new[axis, 3] = step, start
    return np.ascontiguousarray(image), affine @ to_new


def _local_norm(
    image: Image, inside: NDArray[np.bool_], sigma: NDArray[np.float64]
) -> tuple[Image, Image]:
    """Subtract the local mean, divide by the local standard deviation; also return its square."""
    mean = ndimage.gaussian_filter(image, sigma, truncate=2.5)
    variance = ndimage.gaussian_filter(image * image, sigma, truncate=2.5) - mean * mean
    np.maximum(variance, 0, out=variance)
    variance += np.float32((_FLAT * float(image[inside].std())) ** 2)
    return np.asarray((image - mean) / np.sqrt(variance), dtype=np.float32), variance


def _noise(image: Image, inside: NDArray[np.bool_]) -> float:
    """Estimate the noise from what changes from voxel to voxel along all three axes."""
    detail = image
    for axis in range(3):
        if image.shape[axis] > 1:
            detail = np.diff(detail, axis=axis) / np.float32(np.sqrt(2))
    cut = tuple(slice(-n, None) for n in detail.shape)
    return float(np.median(np.abs(detail[inside[cut]]))) / 0.6745 if inside[cut].any() else 0.0


def _noise_ceiling(noise: float, normal: Image, variance: Image) -> float:
    """Correlation that a noise-free copy of a locally normalised image would have with it."""
    total = float(normal.var())
    share = float(np.mean(noise**2 / variance.astype(np.float64)))
    return float(np.sqrt(max(0.0, 1 - share / total))) if total > 0 else 0.0


def _itk_image(array: NDArray[Any], affine: Affine) -> SimpleITK.Image:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    return _placed(image, affine)


def _placed(image: SimpleITK.Image, affine: Affine) -> SimpleITK.Image:
    """Put an image at an affine. World stays RAS: ITK computes in any right or left frame."""
    spacing = np.asarray(voxel_spacing(affine))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def _euler(parameters: Sequence[float], centre: NDArray[np.float64]) -> Any:
    import SimpleITK

    transform = SimpleITK.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    transform.SetParameters([float(value) for value in parameters])
    return transform


def _matrix(transform: Any) -> Affine:
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = shift + centre - linear @ centre
    return matrix


def _refine(
    level: _Level,
    start: Any,
    metric: Metric = "correlation",
    *,
    moving: SimpleITK.Image | None = None,
    n_iterations: int = 150,
    step: float = 1.0,
    least: float = 1e-3,
) -> _Fit:
    """Improve a transform on one level; `step` and `least` are its steps, in the level's voxels."""
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    if metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(32)
    share = _MAX_SAMPLES / level.fixed.size
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, 1)
    method.SetMetricFixedMask(level.mask_itk)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.MetricUseMovingImageGradientFilterOff()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step * level.spacing,
        minStep=least * level.spacing,
        numberOfIterations=n_iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-9,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    # Sums over voxels depend on how threads share them: one thread gives the same bits each time.
    method.SetNumberOfThreads(1)
    transform = type(start)(start)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(level.fixed_itk, level.moving_itk if moving is None else moving)
        score = -float(method.GetMetricValue())
    except RuntimeError:
        # ITK's word for "nothing overlaps any more".
        return _Fit(start, _FAILED)
    return _Fit(transform, score)


def _rounded(fit: _Fit, step: float, extent: float) -> _Fit:
    """Round a transform so that points `extent` mm apart move by multiples of about `step` mm."""
    turn = 2 * step / extent
    transform = type(fit.transform)(fit.transform)
    *linear, x, y, z = fit.transform.GetParameters()
    transform.SetParameters(
        [round(v / turn) * turn for v in linear] + [round(v / step) * step for v in (x, y, z)]
    )
    return replace(fit, transform=transform)


def _refine_affine(level: _Level, start: _Fit) -> _Fit:
    """Let the map stretch, too."""
    import SimpleITK

    transform = SimpleITK.AffineTransform(3)
    transform.SetCenter(start.transform.GetCenter())
    transform.SetMatrix(start.transform.GetMatrix())
    transform.SetTranslation(start.transform.GetTranslation())
    return _refine(level, transform, n_iterations=60, step=0.5)


def _search(level: _Level, config: RegistrationConfig, metric: Metric) -> list[_Fit]:
    """Start from several places on a coarse level; the best comes first."""
    centre = level.centre
    moved = level.moving_centre - centre

    def run(parameters: Sequence[float]) -> _Fit:
        return _refine(level, _euler(parameters, centre), metric, n_iterations=100)

    found = [run([0.0] * 6), run([0.0, 0.0, 0.0, *moved])]
    usable = [fit for fit in found if _overlap(level, fit.matrix) > _MIN_OVERLAP] or found
    best = max(usable, key=lambda fit: fit.score)
    around = np.array(best.transform.GetParameters())
    random = np.random.default_rng(config.seed)
    for _ in range(config.n_starts):
        turn = random.uniform(-_ROTATION_START, _ROTATION_START, 3)
        shift = random.uniform(-config.window_mm, config.window_mm, 3)
        found.append(run(around + np.concatenate([turn, shift])))
    # A small overlap can correlate by chance.
    usable = [
        fit for fit in found if fit.score > _FAILED and _overlap(level, fit.matrix) > _MIN_OVERLAP
    ]
    return sorted(usable, key=lambda fit: -fit.score)


def _other_place(starts: Sequence[_Fit], coarse: _Level, middle: _Level, best: _Fit) -> _Fit | None:
    """Return the best fit that puts the animal somewhere else than `best`, if there is one."""
    apart = _ELSEWHERE * coarse.spacing
    for start in starts:
        if start.score < starts[0].score - _HOPELESS_PLACE:
            break
        if _distance(start.matrix, best.matrix, coarse.points) <= apart:
            continue
        found = _refine(middle, start.transform)
        if _distance(found.matrix, best.matrix, coarse.points) > apart:
            return found
    return None


def _overlap(level: _Level, matrix: Affine) -> float:
    """Share of the animal in LR that lies inside HR's field of view."""
    at = apply_affine(np.linalg.inv(level.moving_affine) @ matrix, level.points)
    inside = (at > -0.5) & (at < np.array(level.moving.shape) - 0.5)
    return float(inside.all(axis=1).mean())


def _distance(a: Affine, b: Affine, points: NDArray[np.float64]) -> float:
    """Root mean square distance of points under two maps, mm."""
    apart = apply_affine(a, points) - apply_affine(b, points)
    return float(np.sqrt((apart**2).sum(axis=1).mean()))


def _rival_orientations(level: _Level) -> list[Orientation]:
    """Return the best ways to relate the axes, other than what the headers say."""
    start = _euler([0, 0, 0, *(level.moving_centre - level.centre)], level.centre)
    tried = []
    for a, b, c in itertools.permutations(range(3)):
        axes = (a, b, c)
        for x, y, z in itertools.product((1, -1), repeat=3):
            way = Orientation(axes, (x, y, z), 0.0)
            fit = _refine_turned(level, way, start, level.moving_centre, n_iterations=25)
            tried.append(replace(way, score=fit.score))
    tried.sort(key=lambda way: -way.score)
    rivals = [way for way in tried if not way.is_identity]
    hopeful = [way for way in rivals if way.score > tried[0].score - _HOPELESS]
    return (hopeful or rivals[:1])[:_N_RIVALS]


def _fit_orientation(levels: Sequence[_Level], rival: Orientation, stated: _Fit) -> Orientation:
    """Score a rival as well as the headers' orientation was scored."""
    centre = np.asarray(stated.transform.GetCenter())
    pivot = apply_affine(stated.matrix, centre)
    fit = _Fit(_euler([0, 0, 0, *(pivot - centre)], centre), 0.0)
    for level in levels:
        fit = _refine_turned(level, rival, fit.transform, pivot)
    return replace(rival, score=fit.score)


def _refine_turned(
    level: _Level,
    rival: Orientation,
    start: Any,
    pivot: NDArray[np.float64],
    n_iterations: int = 100,
) -> _Fit:
    """Register to HR as it would lie if its axes were those of the rival."""
    import SimpleITK

    turn = np.eye(4)
    turn[:3, :3] = rival.matrix
    turn[:3, 3] = pivot - rival.matrix @ pivot
    moving = _placed(SimpleITK.Image(level.moving_itk), turn @ level.moving_affine)
    return _refine(level, start, moving=moving, n_iterations=n_iterations)


def _parts(level: _Level) -> Iterator[_Level]:
    """Yield the level with only a share of its voxels: interleaved blocks, every one once."""
    blocks: Any = np.indices(level.mask.shape, sparse=True)
    i, j, k = (index // _BLOCK for index in blocks)
    part = (i + 2 * j + 3 * k) % _N_PARTS
    for number in range(_N_PARTS):
        yield replace(level, mask=level.mask & (part == number))
