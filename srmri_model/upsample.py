"""An LR volume to an HR volume that explains it, with its spread, residual and provenance."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srmri_data import ingest
from srmri_data.choices import ANATOMICAL, OutputType
from srmri_data.formats.nifti_writer import write_nifti
from srmri_data.geometry import voxel_spacing
from srmri_data.safe_io import sha256_file, write_json
from srmri_data.types import Affine
from srmri_model import weights
from srmri_model.samplers import Denoises
from srmri_model.upsampling.draw import Drawing, Progress, check_domain, prepare
from srmri_model.upsampling.measure import Measured, measure
from srmri_model.upsampling.memory import BASE_BYTES
from srmri_model.upsampling.page import write_page
from srmri_model.upsampling.parts import kept_parts, known_job
from srmri_model.upsampling.plan import UpsamplePlan, refuse
from srmri_model.upsampling.results import Result, combine
from srmri_model.upsampling.trust import Voxels

DISCLAIMER = "srmri model output - research use only"
"""Goes into the header of every volume."""


def run_upsample(
    plan: UpsamplePlan,
    *,
    force: bool = False,
    denoiser: Denoises | None = None,
    command: Sequence[str] = (),
    progress: Progress = lambda _stage, _done, _total: None,
    warn: Callable[[str], None] = lambda _text: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Make the HR volume of a plan and write everything about it.

    An interrupted run leaves its finished slices (with ``--planes 3`` its finished evaluations
    of the network) in a folder beside the output; the same call goes on with them and gives the
    same bits.

    Parameters
    ----------
    plan : UpsamplePlan
        What to do.
    force : bool
        Go on although the model does not fit the volume; begin anew where partial results
        belong to other settings.
    denoiser : callable, optional
        Takes the place of the checkpoint's network, on anatomical images in [0, 1].
    command : sequence of str
        How the run was started, for its records.
    progress : callable
        Called as ``progress(stage, done, total)``.
    warn : callable
        Called with what a careful user should know, as soon as it is known.
    clock : callable
        Seconds.

    Returns
    -------
    dict
        The sidecar.

    Raises
    ------
    InputError
        If the volume can not be used, or is not of the kind the model was trained on.
    SamplingError
        If sampling leaves the numbers.
    """
    warnings: list[str] = []

    def tell(texts: Sequence[str]) -> None:
        for text in texts:
            warnings.append(text)
            warn(text)

    tell([*plan.warnings, *plan.objections])
    record, frame = plan.low
    data = np.ascontiguousarray(ingest.load(record, frame=frame).scaled().data)
    measured = measure(plan, data)
    tell(measured.warnings)
    if plan.config.tile is None and (begun := known_job(plan.work)):
        # Memory may have changed since, but the result must not.
        plan = replace(plan, config=replace(plan.config, tile=begun["tile"]))
    drawing, memory, about_memory = prepare(
        plan,
        sigma_y=measured.sigma_y,
        tissue=measured.around_tissue,
        no_signal=measured.no_signal,
        denoiser=denoiser,
        clock=clock,
    )
    tell(about_memory)
    objection, refused = check_domain(drawing, measured)
    if objection:
        if refused:
            refuse((objection,), force=force)
        tell([objection])
    files = [path for path in record.readable().provenance.files if path.is_file()]
    weights_sha256 = sha256_file(plan.weights)
    input_sha256 = {path.name: sha256_file(path) for path in files}
    job = _job(plan, drawing, memory, weights_sha256, list(input_sha256.values()))
    with kept_parts(plan.work, job, anew=force) as parts:
        result = combine(drawing, measured, parts, progress)
        tell(result.warnings)
        trace = parts.trace
        sidecar = {
            "sampler": plan.config.sampler,
            "steps": drawing.settings.steps,
            "nfe": trace["nfe"],
            "nbe": trace["nbe"],
            "seconds": round(trace["seconds"], 3),
            "seed": plan.config.seed,
            "sigma_y": measured.sigma_y,
            "grid": plan.config.grid,
            **result.figures,
            "weights_sha256": weights_sha256,
            "warnings": warnings,
            "operator": plan.config.operator,
            "width": plan.config.width,
            "factors": list(plan.factors),
            "planes": plan.config.planes,
            "plane": plan.config.plane if plan.config.planes == "single" else list(ANATOMICAL),
            "neighbours": plan.network.neighbours if plan.config.planes == "3" else 0,
            "samples": plan.config.samples,
            "estimate": plan.config.estimate,
            "opposite_pairs": plan.config.samples > 1,
            "z_correlation": plan.config.z_correlation,
            "sampler_settings": asdict(drawing.settings),
            "intensity": {"zero": measured.intensity.low, "one": measured.intensity.high},
            "noise": None if measured.noise is None else asdict(measured.noise),
            "rician_remap": measured.remapped,
            "magnitudes": measured.no_signal is not None,
            "input": {"name": record.path.name, "sha256": input_sha256},
            "low_shape": list(plan.low_shape),
            "high_shape": list(plan.high_shape),
            "high_spacing": [round(mm, 6) for mm in voxel_spacing(plan.high_affine)],
            "tile": memory["tile"],
            "memory_estimate_bytes": BASE_BYTES + memory["total_bytes"],
            "batch": drawing.at_once,
            "workers": drawing.workers.count,
            "device": str(drawing.device),
            "precision": plan.config.precision,
            "dtype": plan.config.dtype,
            "model": {
                "file": plan.weights.name,
                "bundled": plan.weights.parent == weights.FOLDER,
                **{k: plan.metadata[k] for k in ("planes", "imported") if k in plan.metadata},
            },
            "versions": {
                "srmri": version("srmri"),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "command": list(command),
            "use": "research use only",
        }
        progress("writing", 0, 1)
        _write_volumes(plan, measured, result)
        write_page(plan, measured, result, sidecar)
        write_json(plan.paths["sidecar"], sidecar)
        progress("writing", 1, 1)
    return sidecar


def _job(
    plan: UpsamplePlan,
    drawing: Drawing,
    memory: Mapping[str, Any],
    weights_sha256: str,
    input_sha256: Sequence[str],
) -> dict[str, Any]:
    """Everything that decides the bits of a part."""
    free = ("batch", "dtype", "device", "samples", "estimate", "tile", "steps", "settings")
    settings = {name: v for name, v in asdict(plan.config).items() if name not in free}
    return {
        **settings,
        "sampler_settings": asdict(drawing.settings),
        "sigma_y": drawing.sigma_y,
        "tile": memory["tile"],
        "device": drawing.device.type,
        "opposite_pairs": True,
        "weights": weights_sha256,
        "input": list(input_sha256),
        "versions": [version("srmri"), torch.__version__],
    }


def _write_volumes(plan: UpsamplePlan, measured: Measured, result: Result) -> None:
    paths, span = plan.paths, np.float32(measured.span)
    low_affine = plan.low[0].readable().affine

    def write(name: str, data: Voxels, affine: Affine) -> None:
        stored, slope, intercept = as_stored(data, plan.config.dtype)
        write_nifti(
            paths[name],
            stored,
            affine,
            slope=slope,
            intercept=intercept,
            description=DISCLAIMER,
        )

    if "std" in paths and result.std is not None:
        write("std", result.std * span, plan.high_affine)
    else:
        # Of an earlier run under this name, which --force replaces.
        plan.out.with_name(plan.out.name + "_std.nii.gz").unlink(missing_ok=True)
    write("residual", result.residual * span, low_affine)
    write("volume", result.estimate * span + np.float32(measured.intensity.low), plan.high_affine)


def as_stored(data: Voxels, dtype: OutputType) -> tuple[NDArray[Any], float | None, float | None]:
    """Choose the numbers that are stored.

    Parameters
    ----------
    data : (i, j, k) ndarray
        Scanner units.
    dtype : {"float32", "int16", "uint16"}
        How to store them.

    Returns
    -------
    stored, slope, intercept : ndarray, float or None, float or None
        Scanner units are ``stored * slope + intercept``, to half a slope.

    Examples
    --------
    >>> stored, slope, intercept = as_stored(np.float32([[[0.0, 1.0]]]), "uint16")
    >>> stored.ravel().tolist(), intercept
    ([0, 65535], 0.0)
    """
    if dtype == "float32":
        return data, None, None
    low, high = float(data.min()), float(data.max())
    slope = (high - low) / 65535 or 1.0
    numbers = np.rint((data.astype(np.float64) - low) / slope)
    if dtype == "uint16":
        return numbers.astype(np.uint16), slope, low
    return (numbers - 32768).astype(np.int16), slope, low + 32768 * slope
