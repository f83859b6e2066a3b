"""`srmri simulate`: a low-resolution scan of any volume, with the truth known.

The animal moves, the scanner acquires it with larger voxels, a coil of uneven
sensitivity receives it, noise is added. All of it is recorded in ``truth.json``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from srmri_data.errors import FormatError, UsageError
from srmri_data.geometry import apply_affine, check_affine, volume_centre
from srmri_data.intensity import foreground_mask, foreground_threshold
from srmri_data.safe_io import read_json, sha256_file, write_json
from srmri_data.types import Affine, VoxelArray
from srmri_data.volumes import Provenance, Sourced, Volume

SCHEMA_VERSION = 1
"""Layout of ``truth.json``; readers refuse any other."""

_TRUTH_KIND = "srmri-truth"
_SLAB = 16
# Acquiring a rotated animal needs values between voxels: cubic B-splines.
_SPLINE_ORDER: Final = 3
_WORKERS = 2


@dataclass(frozen=True)
class SimulationConfig:
    """How the LR scan is made.

    Parameters
    ----------
    factor : tuple of 3 floats
        LR over HR voxel size along each stored axis, at least 1. Non-integers work
        when they are fractions: 1.5 takes a matrix cropped to a multiple of 3.
    shift_um : tuple of 3 floats
        Shift of the animal along world x, y, z (right, anterior, superior), micrometres.
    tilt_deg : tuple of 3 floats
        Rotation of the animal about world x, y, z through the volume's centre, in
        degrees, right-handed; about x first, z last (R = Rz Ry Rx).
    snr : float, optional
        Mean LR foreground over the standard deviation of the noise in each of the two
        channels. None adds no noise.
    bias : float
        Standard deviation, over the foreground, of the logarithm of a smooth gain field.
    contrast : float
        Exponent on the intensities relative to their bright end (99.9 percentile of the
        foreground), applied to the animal before it is scanned. 1 changes nothing.
    seed : int
        Seed of noise and gain field, which draw from separate streams.
    acquire : {"kspace", "box"}
        Truncate k-space in three dimensions as a scanner does, or average blocks.
    grid : {"fourier", "voxel-centre"}
        LR voxel i sits at HR voxel ``factor * i``, or ``factor * i + (factor - 1) / 2``.

    Raises
    ------
    UsageError
        If a value is out of range or the options do not fit together.
    """

    factor: tuple[float, float, float] = (2.0, 2.0, 2.0)
    shift_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tilt_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    snr: float | None = None
    bias: float = 0.0
    contrast: float = 1.0
    seed: int = 0
    acquire: Literal["kspace", "box"] = "kspace"
    grid: Literal["fourier", "voxel-centre"] = "voxel-centre"

    def __post_init__(self) -> None:
        """Refuse what can not be simulated."""
        for name in ("factor", "shift_um", "tilt_deg"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or not np.isfinite(values).all():
                raise UsageError(f"{name} is three finite numbers; found {getattr(self, name)}")
            object.__setattr__(self, name, values)
        if min(self.factor) < 1:
            raise UsageError(f"factor is at least 1 along each axis; found {self.factor}")
        if self.snr is not None and not 0 < self.snr < np.inf:
            raise UsageError(f"snr is a positive number; found {self.snr}")
        if not 0 <= self.bias <= 2:
            raise UsageError(f"bias is a standard deviation between 0 and 2; found {self.bias}")
        if not 0.1 <= self.contrast <= 10:
            raise UsageError(f"contrast is an exponent from 0.1 to 10; found {self.contrast}")
        if self.seed < 0:
            raise UsageError(f"seed is not negative; found {self.seed}")
        if self.acquire not in ("kspace", "box") or self.grid not in ("fourier", "voxel-centre"):
            raise UsageError(f"unknown acquisition {self.acquire!r} or grid {self.grid!r}")
        if self.acquire == "box":
            if any(value != int(value) for value in self.factor):
                raise UsageError(
                    f"block averages need integer factors; found {self.factor}",
                    hint="use --acquire kspace",
                )
            if self.grid == "fourier":
                raise UsageError(
                    "the mean of a block belongs to the centre of the block",
                    hint="use --grid voxel-centre, or --acquire kspace",
                )


@dataclass(frozen=True, eq=False)
class Simulated:
    """An LR scan and the truth about it.

    Parameters
    ----------
    low_res : Volume
        The scan, float32 magnitudes.
    high_res : Volume
        The HR volume as used: cropped at the end of each axis to a multiple of the factor.
    low_to_high : (4, 4) ndarray
        LR voxel to HR voxel index. The crop keeps the first voxel, so the indices are
        those of the uncropped HR volume too.
    motion : (4, 4) ndarray
        Where the animal went, world RAS mm to world RAS mm.
    crop : tuple of 3 ints
        HR voxels kept along each axis.
    noise_sigma : float
        Standard deviation of the noise in each channel, scanner units; 0 without noise.
    config : SimulationConfig
        How it was made.
    """

    low_res: Volume
    high_res: Volume
    low_to_high: Affine
    motion: Affine
    crop: tuple[int, int, int]
    noise_sigma: float
    config: SimulationConfig


@dataclass(frozen=True, eq=False)
class Truth:
    """What ``truth.json`` says.

    Parameters
    ----------
    low_to_high : (4, 4) ndarray
        LR voxel to HR voxel index, 0-based voxel centres, i, j, k in stored order.
    low_res_shape, high_res_shape : tuple of 3 ints
        Matrix sizes; HR's is the one before cropping.
    low_res_affine, high_res_affine : (4, 4) ndarray
        Voxel to world RAS mm.
    config : SimulationConfig
        How the LR scan was made.
    noise_sigma : float
        Standard deviation of the noise in each channel, scanner units.
    """

    low_to_high: Affine
    low_res_shape: tuple[int, int, int]
    high_res_shape: tuple[int, int, int]
    low_res_affine: Affine
    high_res_affine: Affine
    config: SimulationConfig
    noise_sigma: float


def rigid_motion(
    shift_um: tuple[float, float, float],
    tilt_deg: tuple[float, float, float],
    centre: NDArray[np.float64],
) -> Affine:
    """Return the motion x' = R (x - c) + c + t with R = Rz Ry Rx.

    Parameters
    ----------
    shift_um : tuple of 3 floats
        Translation t along world x, y, z in micrometres.
    tilt_deg : tuple of 3 floats
        Angles about world x, y, z in degrees, right-handed.
    centre : (3,) ndarray
        Centre c of the rotation, world RAS mm.

    Returns
    -------
    (4, 4) ndarray
        World RAS mm to world RAS mm.

    Examples
    --------
    >>> rigid_motion((1000, 0, 0), (0, 0, 90), np.zeros(3)).round(6)[:3]
    array([[ 0., -1.,  0.,  1.],
           [ 1.,  0.,  0.,  0.],
           [ 0.,  0.,  1.,  0.]])
    """
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(tilt_deg)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    motion = np.eye(4)
    motion[:3, :3] = rotation
    motion[:3, 3] = centre + np.asarray(shift_um) / 1000 - rotation @ centre
    return motion


def simulate_low_res(high_res: Volume, config: SimulationConfig) -> Simulated:
    """Scan a volume again, moved and with larger voxels.

    In this order: contrast, motion (one cubic B-spline interpolation, zero outside),
    acquisition, gain field, noise, magnitude. The LR field of view stays where the HR's
    is, so the animal has moved in it: LR(x) = HR(M^-1 x).

    Parameters
    ----------
    high_res : Volume
        Any volume; it is not changed.
    config : SimulationConfig
        How to scan it.

    Returns
    -------
    Simulated
        LR scan and truth.

    Raises
    ------
    UsageError
        If the matrix is too small for the factor, or noise or gain is asked for and
        the volume has no foreground.
    """
    volume = high_res.scaled()
    sizes = [_matched_sizes(n, f) for n, f in zip(volume.shape, config.factor, strict=True)]
    crop = (sizes[0][0], sizes[1][0], sizes[2][0])
    low_shape = (sizes[0][1], sizes[1][1], sizes[2][1])
    kept = replace(volume, data=volume.data[: crop[0], : crop[1], : crop[2]])

    factor = np.array(config.factor)
    offset = (factor - 1) / 2 if config.grid == "voxel-centre" else np.zeros(3)
    low_grid = np.diag([*factor, 1.0])
    low_grid[:3, 3] = offset
    affine = volume.affine @ low_grid
    # About the centre of the whole volume: the motion does not depend on the factor.
    motion = rigid_motion(
        config.shift_um, config.tilt_deg, volume_centre(volume.affine, volume.shape)
    )
    low_to_high = np.linalg.inv(volume.affine) @ np.linalg.inv(motion) @ affine
    low_to_high[3] = 0, 0, 0, 1

    data: NDArray[np.float32] = volume.data
    if config.contrast != 1:
        data = _change_contrast(data, config.contrast)
    if any(config.shift_um) or any(config.tilt_deg):
        pull = np.linalg.inv(volume.affine) @ np.linalg.inv(motion) @ volume.affine
        data = _resample(data, pull, crop)
    data = data[: crop[0], : crop[1], : crop[2]]
    if config.acquire == "kspace":
        for axis in np.argsort(-factor, kind="stable"):
            data = truncate_kspace(data, int(axis), low_shape[axis], shift=float(offset[axis]))
        data = np.abs(data)
    else:
        data = _block_mean(data, config.factor)
    data = np.asfortranarray(data)

    sigma = 0.0
    if config.bias or config.snr:
        threshold = foreground_threshold(data)
        inside = data > threshold
        if not inside.any():
            raise UsageError(
                f"{high_res.provenance.path}: no foreground found, so noise and gain have no scale",
                hint="simulate without --snr and --bias",
            )
        if config.bias:
            data *= _gain_field(data.shape, inside, config)
        if config.snr:
            sigma = float(data[inside].mean(dtype=np.float64)) / config.snr
            _add_rician(data, sigma, np.random.default_rng([config.seed, 1]))
    source = high_res.provenance
    fields = {
        name: source.fields[name]
        for name in ("subject_id", "subject_type")
        if name in source.fields
    }
    fields["simulated"] = Sourced(asdict(config), "srmri simulate")
    low_res = Volume(data, affine, Provenance(path=source.path, format="memory", fields=fields))
    return Simulated(low_res, kept, check_affine(low_to_high), motion, crop, sigma, config)


def truncate_kspace(
    data: NDArray[np.float32], axis: int, size: int, *, shift: float = 0.0
) -> NDArray[np.float32]:
    """Keep the centre of k-space along one axis.

    One axis after another is three-dimensional truncation. Where the new matrix is
    even, the two halves of its highest frequency are averaged, so that a real image
    stays real.

    Parameters
    ----------
    data : (i, j, k) ndarray of float32
        Real image.
    axis : int
        Axis to shorten.
    size : int
        New length, at most the old one.
    shift : float
        Position of the first new voxel, in old voxels.

    Returns
    -------
    ndarray of float32
        Samples of the band-limited image at ``shift + i * old / size``; its mean is kept.
    """
    old = data.shape[axis]
    if size == old and shift == 0.0:
        return data
    frequencies = np.arange(size // 2 + 1)
    ramp = np.exp(2j * np.pi * frequencies * shift / old) * (size / old)
    shape = [1, 1, 1]
    shape[axis] = ramp.size
    factor = ramp.astype(np.complex64).reshape(shape)
    new_shape = list(data.shape)
    new_shape[axis] = size
    out = np.empty(new_shape, dtype=np.float32, order="F")
    # In slabs across another axis: the spectrum of the whole would not fit beside it.
    across = 2 if axis != 2 else 1
    for slab in _slabs(data.shape[across], across):
        spectrum = scipy.fft.rfft(data[slab], axis=axis, workers=_WORKERS)
        keep = [slice(None)] * 3
        keep[axis] = slice(0, ramp.size)
        spectrum = spectrum[tuple(keep)] * factor
        out[slab] = scipy.fft.irfft(spectrum, n=size, axis=axis, workers=_WORKERS)
    return out


def run_simulate(
    high_res: Volume,
    config: SimulationConfig,
    out: Path,
    *,
    format: Literal["paravision", "nifti"] = "paravision",
    subject_id: str | None = None,
    include_high_res: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Simulate an LR scan and write it with its truth.

    Parameters
    ----------
    high_res : Volume
        HR volume.
    config : SimulationConfig
        How to scan it.
    out : Path
        Folder: the ParaVision study itself (``subject``, ``1/``), or ``low_res.nii.gz``;
        in both cases with ``truth.json``.
    format : {"paravision", "nifti"}
        What to write.
    subject_id : str, optional
        By default the one of `high_res`.
    include_high_res : bool
        Write the HR volume too: scan 2 of the study, or ``high_res.nii.gz``.
    force : bool
        Replace an earlier simulation in `out`.

    Returns
    -------
    dict
        ``low_res`` (what to give as LR), ``truth``, ``shape``, ``voxel_spacing_mm``,
        ``noise_sigma`` and, when written, ``high_res``; ready for JSON.

    Raises
    ------
    UsageError
        If `out` is not empty and not an earlier simulation, or `force` is not given.
    """
    # The writers pull in nibabel's image classes; nothing else here does.
    from srmri_data.formats.nifti_writer import write_nifti
    from srmri_data.formats.paravision_writer import write_paravision_study

    if format not in ("paravision", "nifti"):
        raise UsageError(f"unknown format {format!r}; expected paravision or nifti")
    out = Path(out)
    truth_path = out / "truth.json"
    _make_room(out, truth_path, force=force)
    made = simulate_low_res(high_res, config)
    source = high_res.provenance
    name = subject_id or str(source.value("subject_id", "") or "simulated")
    result: dict[str, Any] = {}
    if format == "nifti":
        low_path = write_nifti(out / "low_res.nii.gz", made.low_res.data, made.low_res.affine)
        files = [low_path]
        if include_high_res:
            whole = high_res.scaled()
            files.append(write_nifti(out / "high_res.nii.gz", whole.data, whole.affine))
            result["high_res"] = str(files[-1])
    else:
        scans = [(1, made.low_res)]
        if include_high_res:
            scans.append((2, high_res))
            result["high_res"] = str(out / "2")
        write_paravision_study(scans, out, subject_id=name)
        low_path = out / "1" if include_high_res else out
        files = sorted(p for p in out.rglob("*") if p.is_file())
    write_json(truth_path, _truth_document(made, high_res, files, out))
    return result | {
        "low_res": str(low_path),
        "truth": str(truth_path),
        "shape": list(made.low_res.shape),
        "voxel_spacing_mm": list(made.low_res.spacing),
        "noise_sigma": made.noise_sigma,
    }


def read_truth(path: Path) -> Truth:
    """Read ``truth.json``.

    Parameters
    ----------
    path : Path
        The file `run_simulate` wrote.

    Returns
    -------
    Truth
        Its content, checked.

    Raises
    ------
    MissingInputError
        If there is no such file.
    FormatError
        If it is not a truth file, or one of an unknown version.
    """
    document = read_json(Path(path))
    if not isinstance(document, dict) or document.get("kind") != _TRUTH_KIND:
        raise FormatError(f"{path}: not a truth file of srmri simulate")
    found = document.get("schema_version")
    if found != SCHEMA_VERSION or isinstance(found, bool):
        raise FormatError(
            f"{path}: truth file of version {found!r}, this srmri reads version {SCHEMA_VERSION}",
            hint="simulate again, or use the version of srmri that wrote it",
        )
    try:
        low, high = document["low_res"], document["high_res"]
        return Truth(
            low_to_high=check_affine(document["low_to_high"], name=str(path)),
            low_res_shape=_read_shape(low["shape"]),
            high_res_shape=_read_shape(high["shape"]),
            low_res_affine=check_affine(low["affine"], name=str(path)),
            high_res_affine=check_affine(high["affine"], name=str(path)),
            config=SimulationConfig(**document["config"]),
            noise_sigma=float(document["noise_sigma"]),
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise FormatError(f"{path}: damaged truth file ({error})") from error


def voxels_sha256(data: VoxelArray) -> str:
    """Return the SHA-256 of voxels as little-endian float32, i fastest.

    Parameters
    ----------
    data : (i, j, k) ndarray
        Scanner units.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for k in range(data.shape[2]):
        digest.update(data[:, :, k].astype("<f4", copy=False).tobytes(order="F"))
    return digest.hexdigest()


def _matched_sizes(size: int, factor: float) -> tuple[int, int]:
    """HR voxels to keep and LR voxels to make along one axis."""
    ratio = Fraction(factor).limit_denominator(1000)
    if abs(float(ratio) - factor) > 1e-9 * factor or ratio.numerator > size:
        raise UsageError(
            f"{size} voxels can not be cropped to a multiple of the factor {factor}",
            hint="use a factor that is a simple fraction, such as 2, 1.5 or 2.5",
        )
    repeats = size // ratio.numerator
    return repeats * ratio.numerator, repeats * ratio.denominator


def _slabs(size: int, axis: int) -> Iterator[tuple[slice, slice, slice]]:
    for first in range(0, size, _SLAB):
        slab = [slice(None)] * 3
        slab[axis] = slice(first, min(size, first + _SLAB))
        yield slab[0], slab[1], slab[2]


def _change_contrast(data: NDArray[np.float32], exponent: float) -> NDArray[np.float32]:
    """Raise intensities to a power relative to the bright end of the tissue."""
    flat = data.reshape(-1, order="A")
    sample = flat[:: max(1, flat.size // 2_000_000)]
    inside = sample[foreground_mask(sample)]
    scale = np.float32(np.percentile(inside, 99.9) if inside.size else 1.0)
    out = np.empty(data.shape, dtype=np.float32, order="F")
    for slab in _slabs(data.shape[2], 2):
        relative = data[slab] / scale
        out[slab] = np.copysign(np.abs(relative) ** np.float32(exponent), relative) * scale
    return out


def _resample(
    data: NDArray[np.float32], pull: Affine, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Interpolate at ``pull @ index``: cubic B-spline, zero outside."""
    from scipy import ndimage

    # scipy would keep the coefficients in float64, twice the volume, for digits no scan has.
    coefficients = ndimage.spline_filter(data, _SPLINE_ORDER, np.float32, mode="mirror")
    out = np.empty(shape, dtype=np.float32, order="F")

    def fill(slab: tuple[slice, slice, slice]) -> None:
        target = out[slab]
        ndimage.affine_transform(
            coefficients,
            pull[:3, :3],
            offset=apply_affine(pull, [0.0, 0.0, slab[2].start]),
            output=target,
            output_shape=target.shape,
            order=_SPLINE_ORDER,
            mode="constant",
            cval=0.0,
            prefilter=False,
        )

    # The interpolation loop releases the interpreter lock.
    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(fill, _slabs(shape[2], 2)))
    return out


def _block_mean(
    data: NDArray[np.float32], factor: tuple[float, float, float]
) -> NDArray[np.float32]:
    for axis in range(3):
        step = int(factor[axis])
        if step > 1:
            split = (*data.shape[:axis], -1, step, *data.shape[axis + 1 :])
            data = data.reshape(split).mean(axis=axis + 1, dtype=np.float32)
    return np.array(data, dtype=np.float32)


def _gain_field(
    shape: tuple[int, ...], inside: NDArray[np.bool_], config: SimulationConfig
) -> NDArray[np.float32]:
    """Smooth positive field: exp of a random quadratic in position.

    Mean 0 and the asked standard deviation of the exponent hold over `inside`.
    """
    weights = np.random.default_rng([config.seed, 0]).standard_normal(9).astype(np.float32)
    x, y, z = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
    axes = [np.asarray(a, dtype=np.float32) for a in (x, y, z)]
    terms = [*axes, axes[0] * axes[1], axes[1] * axes[2], axes[2] * axes[0]]
    terms += [a * a for a in axes]
    exponent = np.zeros(shape, dtype=np.float32, order="F")
    for weight, term in zip(weights, terms, strict=True):
        exponent += weight * term
    over = exponent[inside].astype(np.float64)
    spread = over.std()
    if not spread > 0:
        raise UsageError("the foreground is too small to carry a gain field")
    exponent -= np.float32(over.mean())
    exponent *= np.float32(config.bias / spread)
    return np.asarray(np.exp(exponent, out=exponent))


def _add_rician(data: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> None:
    """Complex Gaussian noise and magnitude, in place."""
    for k in range(data.shape[2]):
        noise = rng.standard_normal((2, *data.shape[:2]), dtype=np.float32)
        noise *= np.float32(sigma)
        data[:, :, k] = np.hypot(data[:, :, k] + noise[0], noise[1])


def _make_room(out: Path, truth_path: Path, *, force: bool) -> None:
    """Refuse to mix with other files; an earlier simulation goes when forced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file, expected a folder", hint="choose another --out")
    if not any(out.iterdir()):
        return
    if not (force and truth_path.is_file()):
        raise UsageError(
            f"{out} is not empty",
            hint="choose another --out, or replace an earlier simulation with --force",
        )
    # A half-written successor must not be found beside the old truth, so that goes first.
    truth_path.unlink()
    for name in ("low_res.nii.gz", "high_res.nii.gz", "subject"):
        (out / name).unlink(missing_ok=True)
    for scan in ("1", "2"):
        shutil.rmtree(out / scan, ignore_errors=True)


def _truth_document(
    made: Simulated, high_res: Volume, files: list[Path], out: Path
) -> dict[str, Any]:
    source = high_res.provenance
    whole = high_res.scaled()
    return {
        "kind": _TRUTH_KIND,
        "schema_version": SCHEMA_VERSION,
        "low_to_high": made.low_to_high.tolist(),
        "low_to_high_maps": "LR voxel (i, j, k) to HR voxel (i, j, k), 0-based voxel centres",
        "low_res": {
            "shape": list(made.low_res.shape),
            "affine": made.low_res.affine.tolist(),
            "voxels_sha256": voxels_sha256(made.low_res.data),
            "files": [
                {"path": p.relative_to(out).as_posix(), "sha256": sha256_file(p)} for p in files
            ],
        },
        "high_res": {
            "shape": list(whole.shape),
            "affine": whole.affine.tolist(),
            "voxels_sha256": voxels_sha256(whole.data),
            "crop": [[0, stop] for stop in made.crop],
            "path": str(source.path),
            "files": [
                {"path": str(p), "sha256": sha256_file(p)} for p in source.files if p.is_file()
            ],
        },
        "motion": {"world_to_world_mm": made.motion.tolist()},
        "noise_sigma": made.noise_sigma,
        "seed": made.config.seed,
        "config": asdict(made.config),
        "srmri_version": version("srmri"),
    }


def _read_shape(values: Any) -> tuple[int, int, int]:
    i, j, k = values
    if not all(isinstance(n, int) and n > 0 for n in (i, j, k)):
        raise ValueError(f"matrix size {values!r}")
    return i, j, k
