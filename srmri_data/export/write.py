"""A planned dataset into a folder, which appears when it is complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from srmri_data import ingest
from srmri_data.dataset_card import card, croissant
from srmri_data.dataset_schema import LAYOUT_VERSION, columns_of
from srmri_data.deid import Pseudonyms
from srmri_data.deid.scan import scan_phi
from srmri_data.deid.words import telling
from srmri_data.errors import (
    FormatError,
    MissingInputError,
    PrivacyError,
    SplitError,
    UsageError,
)
from srmri_data.export.plan import (
    CHECKSUMS,
    ExportPlan,
    PlannedPairs,
    PlannedVolume,
    Progress,
    subjects_by_split,
)
from srmri_data.export.rows import Scanned, Table, pair_rows, slice_rows
from srmri_data.formats.nifti_writer import write_volume
from srmri_data.pairing import versions
from srmri_data.pixels import SixteenBit
from srmri_data.run_folder import read_aligned, read_certificate
from srmri_data.safe_io import atomic_folder, read_bounded, sha256_file, write_json, write_text
from srmri_data.slices import Window, intensity_map

_SETTINGS = (
    "method",
    "plane",
    "trim",
    "voters",
    "pca_components",
    "tolerance",
    "window_mm",
    "metric",
    "n_starts",
    "skip",
    "seed",
)


@dataclass(frozen=True)
class StagedDataset:
    """A complete dataset folder.

    Parameters
    ----------
    path : Path
        The folder.
    checksums : mapping of str to str
        SHA-256 of every file but the list itself, by its place in the folder.
    """

    path: Path
    checksums: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder that `write_export` wrote.

        Parameters
        ----------
        path : Path
            The folder.

        Returns
        -------
        StagedDataset
            With the checksums that are written down there; `verify` holds them against the files.

        Raises
        ------
        MissingInputError
            If it is no such folder.
        FormatError
            If the list is damaged.
        """
        path = Path(path)
        if not (path / CHECKSUMS).is_file():
            raise MissingInputError(
                f"{path}: not a staged dataset (no {CHECKSUMS})",
                hint="give a folder that `srmri export-hf` wrote",
            )
        text = read_bounded(path / CHECKSUMS, 64 << 20).decode("utf-8", errors="replace")
        checksums = {}
        for line in text.splitlines():
            digest, _, name = line.partition("  ")
            if len(digest) != 64 or not name:
                raise FormatError(f"{path / CHECKSUMS}: {line[:80]!r} is no checksum")
            checksums[name] = digest
        return cls(path, checksums)

    @property
    def tree_sha256(self) -> str:
        """One hash over all names and contents."""
        return sha256_file(self.path / CHECKSUMS)

    def verify(self) -> list[str]:
        """Hold every file against its checksum.

        Returns
        -------
        list of str
            Files that differ, are missing, or are not in the list.
        """
        present = {
            file.relative_to(self.path).as_posix()
            for file in self.path.rglob("*")
            if file.is_file()
        } - {CHECKSUMS}
        wrong = {
            name
            for name in present & set(self.checksums)
            if sha256_file(self.path / name) != self.checksums[name]
        }
        return sorted(wrong | (present ^ set(self.checksums)))


def write_export(
    plan: ExportPlan, out: Path, *, force: bool = False, progress: Progress | None = None
) -> StagedDataset:
    """Write a planned dataset; the folder appears when it is complete.

    Parameters
    ----------
    plan : ExportPlan
        From `plan_export`.
    out : Path
        Folder to create.
    force : bool
        Replace an earlier export.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    StagedDataset
        The folder with its checksums; the same plan gives the same bytes.

    Raises
    ------
    UsageError
        If `out` exists and is not an earlier export, or `force` is not given.
    SplitError
        If two subjects have the same voxels.
    PrivacyError
        If something that identifies is found in what was written; nothing is left behind.
    """
    step = progress or (lambda *_: None)
    out = Path(out)
    with atomic_folder(out, lambda: _check_destination(out, force=force)) as folder:
        facts = _write_data(plan, folder, step)
        write_json(
            folder / "splits.json",
            {
                "layout_version": LAYOUT_VERSION,
                "by": "subject",
                "subjects": subjects_by_split(plan.splits),
            },
        )
        write_json(folder / "provenance.json", _provenance(plan, facts))
        described = plan.describe()
        certificates = [c for c in (read_certificate(run.run.path) for run in plan.runs) if c]
        write_text(folder / "README.md", card(described, certificates))
        checksums = _checksums(folder, step)
        write_json(folder / "croissant.json", croissant(described, checksums))
        checksums["croissant.json"] = sha256_file(folder / "croissant.json")
        lines = [f"{digest}  {name}\n" for name, digest in sorted(checksums.items())]
        write_text(folder / CHECKSUMS, "".join(lines))
        names = set(checksums)
        missing = set(plan.files) ^ {CHECKSUMS, *names}
        if missing:
            raise AssertionError(f"plan and folder differ: {sorted(missing)}")
        step("looking for what identifies", 0, 1)
        refuse_identifiers(plan, folder)
        step("looking for what identifies", 1, 1)
    return StagedDataset.open(out)


def _checksums(folder: Path, step: Progress) -> dict[str, str]:
    names = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    checksums = {}
    for n, name in enumerate(names):
        checksums[name] = sha256_file(folder / name)
        step("checksums", n + 1, len(names))
    return checksums


def refuse_identifiers(plan: ExportPlan, folder: Path) -> None:
    """Look into the very bytes that would leave.

    Parameters
    ----------
    plan : ExportPlan
        Whose names are looked for.
    folder : Path
        What was written.

    Raises
    ------
    PrivacyError
        If something that identifies is found, or a text that nobody vouches for.
    """
    # A subject that is called as a word of the card would be found in every card.
    said = card({**plan.describe(), "title": "", "species": None, "human_statement": None}).lower()
    known = [name for name in telling(plan.identifiers) if name.lower() not in said]
    findings = scan_phi(folder, known=known).findings
    if findings:
        first = findings[0]
        raise PrivacyError(
            f"{len(findings)} things that identify somebody, or that nobody vouches for, would "
            f"leave; the first is {first.text!r} ({first.kind}) in {first.file}, {first.place}",
            hint="change --title, --species or --human-statement if it stands there; anything "
            "else is a fault of srmri: please report it, without the name",
        )


def _check_destination(out: Path, *, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CHECKSUMS).is_file():
        raise UsageError(f"{out} exists and is not an export", hint="choose another --out")
    if not force:
        raise UsageError(f"{out} exists already", hint="choose another --out, or add --force")


def _write_data(plan: ExportPlan, folder: Path, step: Progress) -> dict[str, dict[str, Any]]:
    """Write volumes and tables, one HR scan in memory at a time; return facts of each volume."""
    from os import cpu_count

    tables = {
        (t.config, t.split): Table(folder, t, columns_of(t.config, preview=plan.config.preview))
        for t in plan.tables
    }
    facts: dict[str, dict[str, Any]] = {}
    voxels: dict[str, str] = {}
    sharp = [volume for volume in plan.volumes if volume.role == "hr"]
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        for n, high in enumerate(sharp):
            step("writing scans", n, len(sharp))
            scan = _write_volume(high, folder, facts, voxels)
            split = plan.splits[high.subject]
            for run in (run for run in plan.runs if run.high is high):
                low = _write_volume(run.low, folder, facts, voxels)
                aligned, mask = read_aligned(run.run.path)
                for name, volume in (("aligned", aligned), ("mask", mask)):
                    write_volume(folder / run.path(name), volume)
                for row in pair_rows(
                    run,
                    plan,
                    low=low,
                    high=scan,
                    aligned=SixteenBit.of(aligned),
                    mask=mask.data,
                ):
                    tables["pairs", split].add(row, pool)
                if ("pairs", split) in tables:
                    tables["pairs", split].finish(pool)
                _write_trail(run, folder, plan.pseudonyms)
            for row in slice_rows(high, plan, scan):
                tables["slices_hr", split].add(row, pool)
            tables["slices_hr", split].finish(pool)
        step("writing scans", len(sharp), len(sharp))
    return facts


def _write_volume(
    planned: PlannedVolume,
    folder: Path,
    facts: dict[str, dict[str, Any]],
    voxels: dict[str, str],
) -> Scanned:
    """Read a scan, write it as NIfTI unless that was done, and return its pixels."""
    volume = ingest.load(planned.record, frame=planned.selection, dtype="stored")
    found = SixteenBit.of(volume)
    intensity = planned.intensity or intensity_map(volume.scaled().data)
    if planned.id not in facts:
        write_volume(folder / planned.path, volume)
        digest = _voxels_sha256(found)
        owner = voxels.setdefault(digest, planned.subject)
        if owner != planned.subject:
            raise SplitError(
                f"{planned.record.path}: subjects {owner} and {planned.subject} have the same "
                "voxels",
                hint="a subject must not be in two splits: leave one of them out",
            )
        facts[planned.id] = {
            "shape": list(volume.shape),
            "affine": volume.affine.tolist(),
            "orientation": volume.orientation,
            "spacing_mm": list(volume.spacing),
            "scale": found.scale,
            "offset": found.offset,
            "lossless": found.lossless,
            "intensity": asdict(intensity),
            "pixels_sha256": digest,
        }
    return Scanned(found, intensity)


def _voxels_sha256(found: SixteenBit) -> str:
    """Hash of the pixels in RAS-free stored order: equal however the file is called."""
    digest = hashlib.sha256(repr(found.volume.shape).encode())
    for k in range(found.volume.shape[2]):
        plane = found.pixels(found.volume.data[:, :, k])
        digest.update(plane.astype("<u2", copy=False).tobytes())
    return digest.hexdigest()


def _write_trail(run: PlannedPairs, folder: Path, pseudonyms: Pseudonyms) -> None:
    """Write every voter's distances, and the review without anybody's name or words."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from srmri_data.deid.trail import public_event
    from srmri_data.run_folder import read_votes

    votes = read_votes(run.run.path)
    path = folder / "votes" / f"{run.id}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(votes[name]) for name in votes}).replace_schema_metadata(None)
    pq.write_table(table, path, compression="ZSTD", store_schema=False)
    if run.events:
        lines = [
            json.dumps(public_event(event, pseudonyms), ensure_ascii=False) + "\n"
            for event in run.events
        ]
        write_text(folder / "reviews" / f"{run.id}.jsonl", "".join(lines))


def _provenance(plan: ExportPlan, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "layout_version": LAYOUT_VERSION,
        "versions": versions(),
        "volumes": {
            v.id: {
                "subject": v.subject,
                "session": v.session,
                "role": v.role,
                "path": v.path,
                "source_hmac_sha256": v.source,
                "acquisition": dict(v.facts),
                **facts[v.id],
                "stacks": {
                    plane: {
                        "to_voxel": frame.to_voxel.tolist(),
                        "slices": list(window.slices),
                    }
                    for plane, (frame, window) in sorted(v.stacks.items())
                },
            }
            for v in plan.volumes
        },
        "runs": {run.id: _run_facts(run) for run in plan.runs},
    }


def _run_facts(run: PlannedPairs) -> dict[str, Any]:
    comparison, summary = run.plan, run.run.summary
    settings, described = run.run.provenance["config"], run.describe()
    registration = summary.get("registration")
    return {
        "low_res": run.low.id,
        "high_res": run.high.id,
        "settings": {name: settings[name] for name in _SETTINGS if name in settings},
        "registration": None
        if registration is None
        else {
            name: registration[name]
            for name in ("matrix", "score", "ceiling", "quality", "n_starts")
            if name in registration
        },
        "low_res_window": _window(comparison.low_window),
        "high_res_window": _window(comparison.high_window),
        "low_res_to_voxel": comparison.low_frame.to_voxel.tolist(),
        "high_res_to_voxel": comparison.high_frame.to_voxel.tolist(),
        "pairs": described["status"],
        "exported": described["exported"],
        "decisions_sha256": summary.get("decisions_sha256"),
    }


def _window(window: Window) -> dict[str, list[int]]:
    return {name: list(getattr(window, name)) for name in ("slices", "rows", "cols")}
