"""A planned export as a BIDS dataset: scans as raw data, what was made of them as derivatives.

References
----------
Gorgolewski et al., The brain imaging data structure, Sci. Data 3 (2016) 160044;
https://bids-specification.readthedocs.io, version 1.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srmri_data import ingest
from srmri_data.choices import AnatomicalSuffix
from srmri_data.errors import UsageError
from srmri_data.export import ExportPlan, PlannedPairs, PlannedVolume, Progress, refuse_identifiers
from srmri_data.formats.nifti_writer import write_volume
from srmri_data.pairing import versions
from srmri_data.run_folder import read_aligned
from srmri_data.safe_io import atomic_folder, atomic_path, write_json, write_text

BIDS_VERSION = "1.10.0"

_DERIVATIVES = "derivatives/srmri"
_SUFFIX_OF_SEQUENCE: dict[str, AnatomicalSuffix] = {
    "FLASH": "T2starw",
    "IgFLASH": "T2starw",
    "IntraGateFLASH": "T2starw",
    "MGE": "T2starw",
    "SWI": "T2starw",
    "RARE": "T2w",
    "T2_TurboRARE": "T2w",
    "MSME": "T2w",
    "MDEFT": "T1w",
    "MPRAGE": "T1w",
}
_README = """{title}

Low- and high-resolution MRI of the same subjects, made public by srmri. `acq-` names the voxel
size. `derivatives/srmri` holds the high-resolution scan on the planes of the low-resolution one,
and the table of corresponding slices (`*_pairs.tsv`).

Only header fields of an allow-list are in the sidecars. Subjects have pseudonyms; dates are
{dates}.

{statement}"""
_PAIRS_COLUMNS = (
    *("lr_slice", "hr_slice", "hr_position", "offset_um", "method", "status", "vote_pca"),
    *("vote_lpips", "vote_ssim", "n_votes", "spread", "margin", "confidence", "geom_position"),
    *("position_error", "similarity", "reviewed_by_n", "review_confidence"),
)


def bids_names(plan: ExportPlan, *, suffix: AnatomicalSuffix | None = None) -> dict[str, str]:
    """Name every scan as BIDS wants it.

    Parameters
    ----------
    plan : ExportPlan
        From `plan_export`.
    suffix : {"T2starw", "T2w", "T1w", "PDw"}, optional
        Contrast of all scans; by default it follows from ParaVision's sequence.

    Returns
    -------
    dict of str to str
        Volume to its path without extension, for instance
        ``sub-s0123456789/ses-01/anat/sub-s0123456789_ses-01_acq-25um_T2starw``.

    Raises
    ------
    UsageError
        If a sequence does not tell the contrast.
    """
    names: dict[str, str] = {}
    for volume in plan.volumes:
        ending = suffix or _SUFFIX_OF_SEQUENCE.get(str(volume.facts.get("sequence")))
        if ending is None:
            raise UsageError(
                f"the header of {volume.id} does not tell its contrast "
                f"(sequence {volume.facts.get('sequence', 'unknown')})",
                hint="say --suffix T2starw, T2w, T1w or PDw",
            )
        microns = [f"{1000 * mm:.0f}" for mm in volume.record.readable().spacing]
        acquisition = "x".join(microns if len(set(microns)) > 1 else microns[:1]) + "um"
        place = f"sub-{volume.subject}/ses-{volume.session}/anat"
        stem = f"sub-{volume.subject}_ses-{volume.session}_acq-{acquisition}"
        taken = sum(name.startswith(f"{place}/{stem}_") for name in names.values())
        number = f"_run-{taken + 1:02d}" if taken else ""
        names[volume.id] = f"{place}/{stem}{number}_{ending}"
    return names


def write_bids(
    plan: ExportPlan,
    out: Path,
    *,
    suffix: AnatomicalSuffix | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a BIDS dataset; the folder appears when it is complete.

    Parameters
    ----------
    plan : ExportPlan
        From `plan_export`.
    out : Path
        Folder to create.
    suffix : {"T2starw", "T2w", "T1w", "PDw"}, optional
        Contrast of all scans, where the sequence does not tell it.
    force : bool
        Replace an earlier export.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    dict
        ``out``, ``subjects``, ``scans`` and ``pairs`` (counts).

    Raises
    ------
    UsageError
        If `out` can not be replaced, or a contrast is not known.
    PrivacyError
        If something that identifies is found in what was written; nothing is left behind.
    """
    step = progress or (lambda *_: None)
    out = Path(out)
    names = bids_names(plan, suffix=suffix)
    with atomic_folder(out, lambda: _check_destination(out, force=force)) as folder:
        for n, volume in enumerate(plan.volumes):
            step("writing scans", n, len(plan.volumes))
            scan = ingest.load(volume.record, frame=volume.selection, dtype="stored")
            write_volume(folder / f"{names[volume.id]}.nii.gz", scan)
            write_json(folder / f"{names[volume.id]}.json", sidecar(volume))
        step("writing scans", len(plan.volumes), len(plan.volumes))
        for n, run in enumerate(plan.runs):
            step("writing pairs", n, len(plan.runs))
            _write_derivatives(run, folder / _DERIVATIVES, names)
        step("writing pairs", len(plan.runs), len(plan.runs))
        _write_dataset_files(plan, folder, names)
        step("looking for what identifies", 0, 1)
        refuse_identifiers(plan, folder)
        step("looking for what identifies", 1, 1)
    return {
        "out": str(out),
        "subjects": len(plan.splits),
        "scans": len(plan.volumes),
        "pairs": sum(len(run.chosen) for run in plan.runs),
    }


def _check_destination(out: Path, *, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / _DERIVATIVES / "dataset_description.json").is_file():
        raise UsageError(f"{out} exists and is not an export", hint="choose another --out")
    if not force:
        raise UsageError(f"{out} exists already", hint="choose another --out, or add --force")


def sidecar(volume: PlannedVolume) -> dict[str, Any]:
    """Return the JSON sidecar of a scan, in the units of BIDS: seconds, degrees, tesla, hertz.

    Parameters
    ----------
    volume : PlannedVolume
        A scan with its public facts.

    Returns
    -------
    dict
        Only what the header says.
    """
    facts = volume.facts
    found: dict[str, Any] = {
        "RepetitionTimeExcitation": _seconds(facts.get("repetition_time_ms")),
        "EchoTime": _seconds(facts.get("echo_time_ms")),
        "FlipAngle": facts.get("flip_angle_deg"),
        "MagneticFieldStrength": facts.get("field_strength_t"),
        "PixelBandwidth": facts.get("pixel_bandwidth_hz"),
        "PulseSequenceType": facts.get("sequence"),
    }
    dimensions = facts.get("encoded_dimensions")
    if dimensions in (2, 3):
        found["MRAcquisitionType"] = f"{dimensions:.0f}D"
    if dimensions == 2:
        found["SliceThickness"] = facts.get("slice_thickness_mm")
    if volume.record.readable().format == "paravision":
        found["Manufacturer"] = "Bruker"
    # A list would be one value per echo or flip angle; the file holds one of them.
    return {k: v for k, v in found.items() if v is not None and not isinstance(v, list)}


def _seconds(milliseconds: Any) -> float | None:
    if not isinstance(milliseconds, float):
        return None
    return round(milliseconds / 1000, 9)


def _write_derivatives(run: PlannedPairs, folder: Path, names: Mapping[str, str]) -> None:
    source = names[run.low.id]
    place, _, stem = source.rpartition("/")
    stem, _, ending = stem.rpartition("_")
    plane = run.plan.config.plane
    aligned, mask = read_aligned(run.run.path)
    sources = [f"bids:raw:{names[v.id]}.nii.gz" for v in (run.low, run.high)]
    image = f"{place}/{stem}_space-lowres{plane}_desc-aligned_{ending}"
    reference = {f"lowres{plane}": f"bids:raw:{source}.nii.gz"}
    write_volume(folder / f"{image}.nii.gz", aligned)
    write_json(
        folder / f"{image}.json",
        {"SkullStripped": False, "SpatialReference": reference, "Sources": sources},
    )
    shown = f"{place}/{stem}_space-lowres{plane}_desc-measured_mask"
    write_volume(folder / f"{shown}.nii.gz", mask)
    write_json(
        folder / f"{shown}.json",
        {"Type": "ROI", "SpatialReference": reference, "Sources": sources},
    )
    table = run.pairs.iloc[list(run.chosen)][list(_PAIRS_COLUMNS)]
    with atomic_path(folder / f"{place}/{stem}_desc-{plane}_pairs.tsv") as path:
        table.to_csv(
            path, sep="\t", index=False, na_rep="n/a", float_format="%.6f", lineterminator="\n"
        )


def _write_dataset_files(plan: ExportPlan, folder: Path, names: Mapping[str, str]) -> None:
    config = plan.config
    by = [{"Name": "srmri", "Version": versions().get("srmri", "unknown")}]
    about: dict[str, Any] = {"Name": config.title, "BIDSVersion": BIDS_VERSION}
    if config.license:
        about["License"] = config.license
    write_json(
        folder / "dataset_description.json", {**about, "DatasetType": "raw", "GeneratedBy": by}
    )
    write_json(
        folder / _DERIVATIVES / "dataset_description.json",
        {
            **about,
            "DatasetType": "derivative",
            "GeneratedBy": by,
            "SourceDatasets": [{"URL": "../.."}],
            "DatasetLinks": {"raw": "../.."},
        },
    )
    write_text(folder / _DERIVATIVES / ".bidsignore", "*_pairs.tsv\n")
    readme = _README.format(
        title=config.title,
        dates="left out" if config.dates == "drop" else "moved far into the past",
        statement=config.human_statement or "",
    )
    write_text(folder / "README", readme.strip() + "\n")
    rows = [f"sub-{s}\t{config.species or 'n/a'}\t{plan.splits[s]}\n" for s in sorted(plan.splits)]
    write_text(folder / "participants.tsv", "participant_id\tspecies\tsplit\n" + "".join(rows))
    write_json(
        folder / "participants.json",
        {
            "species": {"Description": "Binomial species name"},
            "split": {
                "Description": "What the subject is for in machine learning",
                "Levels": {
                    "train": "to fit models",
                    "validation": "to choose between models",
                    "test": "for the final figures",
                },
            },
        },
    )
    _write_times(plan, folder, names)


def _write_times(plan: ExportPlan, folder: Path, names: Mapping[str, str]) -> None:
    """Write ``scans.tsv`` of every session whose scans have a (shifted) date."""
    rows: dict[tuple[str, str], list[str]] = {}
    for volume in plan.volumes:
        if "shifted_date" in volume.facts:
            file = "/".join(names[volume.id].split("/")[-2:])
            row = f"{file}.nii.gz\t{volume.facts['shifted_date']}T00:00:00\n"
            rows.setdefault((volume.subject, volume.session), []).append(row)
    for (subject, session), lines in rows.items():
        name = f"sub-{subject}/ses-{session}/sub-{subject}_ses-{session}_scans.tsv"
        write_text(folder / name, "filename\tacq_time\n" + "".join(lines))
