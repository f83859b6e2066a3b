"""The slices a reviewer compares, as 16-bit images on one pixel grid.

LR and HR are shown on the pixels of the HR window, so that every view can lay
one over the other. Both volumes share one intensity scale: 0 and 1 of their
intensity maps (`srmri_data.slices.IntensityMap`) fall on the same two grey
values, and what lies outside is kept for the reader to window.

An LR slice of a catch trial is simulated here: a thick slice of HR at a known position, acquired
on LR's matrix by truncating k-space, shifted and noisy as the LR scan is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from skimage.registration import phase_cross_correlation

from srmri_data import ingest
from srmri_data.errors import MissingInputError
from srmri_data.geometry import apply_affine
from srmri_data.matched import PlaneGeometry, on_low_res_planes
from srmri_data.pairing import plan_of_run
from srmri_data.planning import PairingPlan
from srmri_data.run_folder import Run, read_pairs
from srmri_data.simulate import truncate_kspace
from srmri_data.slices import IntensityMap, StackFrame, Window, resize_matrix

# Beyond these a voxel is an artefact; it must not cost the anatomy its grey values.
_DARKEST, _BRIGHTEST = -1.0, 4.0

_CACHED_IMAGES = 96

_PAIRS_COMPARED = 7

# Of a Rayleigh distribution with sigma 1, which background in a magnitude image has.
_RAYLEIGH_MEAN, _RAYLEIGH_MEDIAN = float(np.sqrt(np.pi / 2)), float(np.sqrt(2 * np.log(2)))

_DIRECTIONS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class GreyScale:
    """How intensities become 16-bit values, the same for LR and HR.

    Parameters
    ----------
    low, high : float
        Mapped intensities (0 and 1 span the foreground) that become 0 and 65535.
    """

    low: float
    high: float

    def quantise(self, mapped: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return mapped intensities as 16-bit values.

        Parameters
        ----------
        mapped : ndarray
            Mapped intensities; what lies outside the scale is clipped.

        Returns
        -------
        ndarray of uint16
            Little-endian.
        """
        scaled = (mapped - np.float32(self.low)) * np.float32(65535 / (self.high - self.low))
        quantised: NDArray[np.uint16] = np.rint(np.clip(scaled, 0, 65535)).astype("<u2")
        return quantised

    def level(self, mapped: float) -> int:
        """Return the 16-bit value of one mapped intensity.

        Parameters
        ----------
        mapped : float
            Mapped intensity.

        Returns
        -------
        int
            0 to 65535.
        """
        return int(self.quantise(np.array([mapped], dtype=np.float32))[0])


class ReviewImages:
    """Images of the two volumes of a run.

    Parameters
    ----------
    plan : PairingPlan
        What the run compared.
    low_slices, high_slices : (slice, row, col) ndarray
        Whole volumes in the order of the plan's stack frames, scanner units.
    low_intensity, high_intensity : IntensityMap
        As recorded in the run.
    accepted : sequence of (int, int)
        LR and HR slices that were paired; they tell how far the animal moved in the plane.
    """

    def __init__(
        self,
        plan: PairingPlan,
        low_slices: NDArray[Any],
        high_slices: NDArray[Any],
        *,
        low_intensity: IntensityMap,
        high_intensity: IntensityMap,
        accepted: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._plan = plan
        self._accepted = accepted
        self._low, self._high = low_slices, high_slices
        self._maps = low_intensity, high_intensity
        self.scale = _common_scale((low_slices, low_intensity), (high_slices, high_intensity))
        self._up, self._down = _resizers(plan)
        self._cached = lru_cache(maxsize=_CACHED_IMAGES)(self._draw)

    @classmethod
    def open(
        cls,
        opened: Run,
        *,
        sources: Path | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> ReviewImages:
        """Read both volumes of a run.

        Parameters
        ----------
        opened : Run
            From `run_folder.open_run`.
        sources : Path, optional
            Folder that holds the scans now, when they have moved.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Returns
        -------
        ReviewImages
            Images of the scans the run was made from; their SHA-256 was checked.

        Raises
        ------
        MissingInputError
            If a scan is not there.
        ChecksumError
            If its content has changed.
        """
        step = progress or (lambda *_: None)
        plan = plan_of_run(opened, sources)
        step("reading", 0, 2)
        low = ingest.load(plan.low, frame=plan.low_selection)
        step("reading", 1, 2)
        high = ingest.load(plan.high, frame=plan.high_selection)
        step("reading", 2, 2)
        recorded = [
            IntensityMap(**opened.provenance["sources"][role]["intensity"]) for role in ("lr", "hr")
        ]
        high_slices = plan.high_frame.view(high.data)
        registration = opened.summary.get("registration")
        if registration is not None:
            # What the matcher compared: HR on LR's planes, each with the number of an HR slice.
            matrix, frames = np.array(registration["matrix"]), (plan.low_frame, plan.high_frame)
            geometry = PlaneGeometry.of(matrix, *frames, plan.low_window)
            high_slices = on_low_res_planes(high_slices, geometry, *frames)
        pairs = read_pairs(opened.path)
        accepted = pairs[(pairs["auto_status"] == "auto") & ~pairs["empty"]]
        return cls(
            plan,
            plan.low_frame.view(low.data),
            high_slices,
            low_intensity=recorded[0],
            high_intensity=recorded[1],
            accepted=list(
                zip(accepted["lr_slice"].tolist(), accepted["auto_hr_slice"].tolist(), strict=True)
            ),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of every image."""
        return self._plan.high_window.shape[1:]

    @property
    def low_range(self) -> tuple[int, int]:
        """First LR slice, and one past the last."""
        return self._plan.low_window.slices

    @property
    def high_range(self) -> tuple[int, int]:
        """First HR slice, and one past the last; the trimmed ones may be looked at too."""
        return 0, self._plan.high_frame.shape[0]

    def low_res(self, number: int) -> NDArray[np.uint16]:
        """Return an LR slice, interpolated to HR's pixels.

        Parameters
        ----------
        number : int
            LR slice.

        Returns
        -------
        (rows, cols) ndarray of uint16
            Little-endian.

        Raises
        ------
        MissingInputError
            If the run has no such LR slice.
        """
        _check("LR", number, self.low_range)
        return self._cached("lr", number)

    def high_res(self, number: int, *, matched: bool) -> NDArray[np.uint16]:
        """Return an HR slice.

        Parameters
        ----------
        number : int
            HR slice.
        matched : bool
            At LR's in-plane resolution: resized to LR's pixels and back, exactly
            as the LR slice is brought to HR's pixels.

        Returns
        -------
        (rows, cols) ndarray of uint16
            Little-endian.

        Raises
        ------
        MissingInputError
            If the run has no such HR slice.
        """
        _check("HR", number, self.high_range)
        return self._cached("matched" if matched else "hr", number)

    def simulated(self, position: int, *, seed: int) -> NDArray[np.uint16]:
        """Return an LR slice as the LR scan would show one HR slice's place.

        Parameters
        ----------
        position : int
            HR slice at its middle.
        seed : int
            Seed of the noise.

        Returns
        -------
        (rows, cols) ndarray of uint16
            Little-endian, at HR's pixels.

        Raises
        ------
        MissingInputError
            If the run has no such HR slice.
        """
        _check("HR", position, self.high_range)
        return self._cached("simulated", position, seed)

    def describe(self) -> dict[str, Any]:
        """Return what the page needs to know about the images, as JSON-able values.

        Returns
        -------
        dict
            ``rows``, ``cols``, ``pixel_mm`` (row and column spacing), ``window`` (default
            black and white), ``foreground`` (LR's threshold), ``directions`` (anatomy at the
            edges), ``lr`` and ``hr`` (slices that can be asked for).
        """
        high = self._plan.high_frame
        low_map = self._maps[0]
        rows, cols = self.shape
        return {
            "rows": rows,
            "cols": cols,
            "pixel_mm": list(high.spacing[1:]),
            "window": {"black": self.scale.level(0.0), "white": self.scale.level(1.0)},
            "foreground": self.scale.level(
                (low_map.foreground - low_map.low) / (low_map.high - low_map.low)
            ),
            "directions": _directions(high),
            "lr": {"first": self.low_range[0], "last": self.low_range[1] - 1},
            "hr": {"first": self.high_range[0], "last": self.high_range[1] - 1},
        }

    @cached_property
    def shift(self) -> tuple[float, float]:
        """How far LR lies off HR in the plane, rows and columns in HR's pixels."""
        picked = self._accepted[:: max(1, len(self._accepted) // _PAIRS_COMPARED)]
        found = [
            phase_cross_correlation(  # type: ignore[no-untyped-call]
                self.low_res(low).astype(np.float32),
                self.high_res(high, matched=True).astype(np.float32),
                upsample_factor=8,
            )[0]
            for low, high in picked
        ]
        rows, cols = np.median(found, axis=0) if found else (0.0, 0.0)
        return float(rows), float(cols)

    @cached_property
    def noise(self) -> tuple[float, float]:
        """Standard deviation of LR's and of HR's noise in each channel, scanner units."""
        return _noise(self._low, self._maps[0]), _noise(self._high, self._maps[1])

    def _simulate(self, position: int, seed: int) -> NDArray[np.float32]:
        """Acquire one thick slice of HR as the LR scan does: mapped intensities at HR's pixels."""
        high, low = self._plan.high_frame, self._plan.low_frame
        low_noise, high_noise = self.noise
        sizes = [
            min(n, round(n * own / other))
            for n, own, other in zip(high.shape, high.spacing, low.spacing, strict=True)
        ]
        basis = np.eye(high.shape[0], dtype=np.float32)[:, :, None]
        weights = truncate_kspace(basis, 0, sizes[0], shift=float(position))[0, :, 0]
        image = np.zeros((*high.shape[1:], 1), dtype=np.float32)
        for weight, values in zip(weights, self._high, strict=True):
            image[..., 0] += weight * np.asarray(values, dtype=np.float32)
        factors = [n / size for n, size in zip(high.shape[1:], sizes[1:], strict=True)]
        for axis, factor in enumerate(factors):
            image = truncate_kspace(image, axis, sizes[axis + 1], shift=(factor - 1) / 2)
        # HR's noise floor does not average away in magnitudes; LR has one of its own.
        floor = np.float32(_RAYLEIGH_MEAN * high_noise)
        signal = np.sqrt(np.maximum(image[..., 0] ** 2 - floor**2, 0))
        signal *= np.float32(self._maps[0].high / self._maps[1].high)
        noise = np.random.default_rng(seed).standard_normal((2, *signal.shape), np.float32)
        noise *= np.float32(low_noise)
        acquired = _map(np.hypot(signal + noise[0], noise[1]), self._maps[0])
        window = self._plan.high_window
        resizer = [
            csr_array(
                resize_matrix(
                    stop - start,
                    size,
                    start=(start - moved - (factor - 1) / 2) / factor,
                    step=1 / factor,
                )
            )
            for (start, stop), size, factor, moved in zip(
                (window.rows, window.cols), sizes[1:], factors, self.shift, strict=True
            )
        ]
        return _resize(acquired, (resizer[0], resizer[1]))

    def _draw(self, kind: str, number: int, seed: int = 0) -> NDArray[np.uint16]:
        low_window, high_window = self._plan.low_window, self._plan.high_window
        if kind == "lr":
            rows, cols = slice(*low_window.rows), slice(*low_window.cols)
            image = _map(self._low[number, rows, cols], self._maps[0])
            image = _resize(image, self._up)
        elif kind == "hr":
            rows, cols = slice(*high_window.rows), slice(*high_window.cols)
            image = _map(self._high[number, rows, cols], self._maps[1])
        elif kind == "simulated":
            image = self._simulate(number, seed)
        else:
            image = _map(self._high[number], self._maps[1])
            image = _resize(_resize(image, self._down), self._up)
        quantised = self.scale.quantise(image)
        quantised.flags.writeable = False
        return quantised


def _noise(slices: NDArray[Any], intensity: IntensityMap) -> float:
    """Estimate sigma from what is no foreground in the middle half of a volume; 0 if masked."""
    quarter = len(slices) // 4
    middle = slices[quarter : len(slices) - quarter : 4]
    background = middle[middle <= intensity.foreground]
    return max(float(np.median(background)), 0.0) / _RAYLEIGH_MEDIAN if background.size else 0.0


_Resizer = tuple[csr_array, csr_array]


def _map(values: NDArray[Any], intensity: IntensityMap) -> NDArray[np.float32]:
    """Like `IntensityMap.apply`, but what lies outside [0, 1] is kept."""
    mapped = np.asarray(values, dtype=np.float32) - np.float32(intensity.low)
    mapped /= np.float32(intensity.high - intensity.low)
    return mapped


def _resize(image: NDArray[np.float32], resizer: _Resizer) -> NDArray[np.float32]:
    # A resizing matrix holds a few taps per row: sparse, it costs a tenth.
    rows, cols = resizer
    resized: NDArray[np.float32] = (cols @ (rows @ image).T).T
    return resized


def _resizers(plan: PairingPlan) -> tuple[_Resizer, _Resizer]:
    """LR window to HR window, and whole HR slice to LR window."""
    up, down = [], []
    windows = plan.low_window, plan.high_window
    frames = plan.low_frame, plan.high_frame
    for axis in (1, 2):
        (low_start, low_stop), (high_start, high_stop) = (
            (window.rows, window.cols)[axis - 1] for window in windows
        )
        start, step = _grid(frames[0], frames[1], windows[1], axis)
        up.append(
            resize_matrix(
                high_stop - high_start, low_stop - low_start, start=start - low_start, step=step
            )
        )
        start, step = _grid(frames[1], frames[0], windows[0], axis)
        down.append(
            resize_matrix(low_stop - low_start, frames[1].shape[axis], start=start, step=step)
        )
    return (
        (csr_array(up[0]), csr_array(up[1])),
        (csr_array(down[0]), csr_array(down[1])),
    )


def _grid(source: StackFrame, target: StackFrame, window: Window, axis: int) -> tuple[float, float]:
    """Where the first pixel of `target`'s window lies in `source`, and the step from there.

    Taken in the middle of the window, as `srmri_data.slices.resize_to_low_res` does.
    """
    between = np.linalg.inv(source.affine) @ target.affine
    ranges = window.slices, window.rows, window.cols
    point = np.array([(start + stop - 1) / 2 for start, stop in ranges])
    point[axis] = ranges[axis][0]
    return float(apply_affine(between, point)[axis]), float(between[axis, axis])


def _common_scale(*volumes: tuple[NDArray[Any], IntensityMap]) -> GreyScale:
    lows, highs = [0.0], [1.0]
    for data, intensity in volumes:
        width = intensity.high - intensity.low
        # Slice by slice: the extremes of a whole volume would be a copy of it.
        lows.append((min(float(np.nanmin(image)) for image in data) - intensity.low) / width)
        highs.append((max(float(np.nanmax(image)) for image in data) - intensity.low) / width)
    return GreyScale(max(min(lows), _DARKEST), min(max(highs), _BRIGHTEST))


def _directions(frame: StackFrame) -> dict[str, str]:
    """Name the anatomy at the edges of an image: L R, P A, I S."""
    names = {}
    for axis, (start, end) in ((1, ("top", "bottom")), (2, ("left", "right"))):
        along = frame.affine[:3, axis]
        world = int(np.abs(along).argmax())
        negative, positive = _DIRECTIONS[world]
        names[start], names[end] = (
            (negative, positive) if along[world] > 0 else (positive, negative)
        )
    return names


def _check(role: str, number: int, allowed: tuple[int, int]) -> None:
    start, stop = allowed
    if not start <= number < stop:
        raise MissingInputError(
            f"this run has no {role} slice {number}", hint=f"it has {start} to {stop - 1}"
        )
