"""The run folder that `srmri pair` writes and every later stage reads.

The contract is ``docs/run-folder.md``; this module is its only implementation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srmri_data.errors import (
    ChecksumError,
    FormatError,
    MissingInputError,
    UsageError,
)
from srmri_data.formats import read_volume
from srmri_data.safe_io import atomic_folder, atomic_path, read_json, sha256_file
from srmri_data.volumes import Volume

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

REVIEW_DATABASE = "review.sqlite"

# Nullable types only where a value can be missing: a voter that was switched
# off, a truth that is not known, a confidence nobody stated.
PAIRS_DTYPES: dict[str, str] = {
    "lr_slice": "int32",
    "hr_slice": "int32",
    "hr_position": "float64",
    "ref_row": "float64",
    "ref_col": "float64",
    "offset_um": "float64",
    "vote_pca": "Int32",
    "vote_lpips": "Int32",
    "vote_ssim": "Int32",
    "n_votes": "int32",
    "spread": "int32",
    "margin": "float64",
    "confidence": "float64",
    "method": "string",
    "status": "string",
    "reason": "string",
    "empty": "bool",
    "truth_position": "Float64",
    "error_slices": "Float64",
    "auto_hr_slice": "int32",
    "auto_hr_position": "float64",
    "auto_offset_um": "float64",
    "auto_status": "string",
    "auto_reason": "string",
    "reviewed_by_n": "int32",
    "review_confidence": "Int32",
    "geom_position": "Float64",
    "position_error": "Float64",
    "similarity": "Float64",
    "path_slice": "Int32",
}

# The matcher's own decision, which a review never changes, and who looked.
_REVIEW_COLUMNS = tuple(name for name in PAIRS_DTYPES if name.startswith(("auto_", "review")))
_GEOMETRY_COLUMNS = ("geom_position", "position_error", "similarity", "path_slice")
"""Columns of `--method geometry`; absent from older tables, empty in `--method paper`."""

VOTES_DTYPES: dict[str, str] = {
    "lr_slice": "int32",
    "hr_slice": "int32",
    "voter": "string",
    "distance": "float32",
    "rank": "int32",
}


@contextmanager
def new_run(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Build a run folder aside and move it into place when it is complete.

    Parameters
    ----------
    out : Path
        Where the run folder shall be.
    force : bool
        Replace an existing run folder; anything else there is never touched.

    Yields
    ------
    Path
        Folder to write into. It vanishes when the block raises.

    Raises
    ------
    UsageError
        If `out` exists and `force` is not given, or `out` is not a run folder.
    """
    with atomic_folder(out, lambda: check_destination(out, force=force)) as run:
        yield run


def check_destination(out: Path, *, force: bool) -> None:
    """Refuse a destination that would overwrite something.

    Parameters
    ----------
    out : Path
        Where a run folder shall be.
    force : bool
        Whether an existing run folder may be replaced.

    Raises
    ------
    UsageError
        If `out` exists and may not be replaced.
    """
    if not os.path.lexists(out):
        return
    if (out / REVIEW_DATABASE).exists():
        # Pairs can be computed again; what people decided can not.
        raise UsageError(
            f"{out} has a review and is not replaced",
            hint=f"choose another --out, or move {REVIEW_DATABASE} away first",
        )
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if empty or (force and (out / "summary.json").is_file()):
        return
    if force:
        raise UsageError(f"{out} exists and is not a run folder", hint="choose another --out")
    raise UsageError(f"{out} exists already", hint="choose another --out, or add --force")


def with_review_columns(pairs: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of later stages and versions to pairs that do not have them.

    Parameters
    ----------
    pairs : DataFrame
        Pairs, perhaps written before there was a review stage.

    Returns
    -------
    DataFrame
        The same with all columns of `PAIRS_DTYPES`; those it had are unchanged.
    """
    import pandas as pd

    added: dict[str, Any] = {
        name: pairs[name.removeprefix("auto_")]
        for name in _REVIEW_COLUMNS
        if name.startswith("auto_")
    }
    added |= {"reviewed_by_n": 0, "review_confidence": pd.NA}
    added |= dict.fromkeys(_GEOMETRY_COLUMNS, pd.NA)
    return pairs.assign(**{name: value for name, value in added.items() if name not in pairs})


def write_pairs(run: Path, pairs: pd.DataFrame) -> None:
    """Write ``pairs.csv`` and ``pairs.parquet``.

    Parameters
    ----------
    run : Path
        Run folder.
    pairs : DataFrame
        One row per LR slice, the columns of `PAIRS_DTYPES`.
    """
    table = pairs[list(PAIRS_DTYPES)].astype(PAIRS_DTYPES)
    with atomic_path(run / "pairs.csv") as path:
        table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
    with atomic_path(run / "pairs.parquet") as path:
        table.to_parquet(path, index=False)


def write_votes(run: Path, votes: Mapping[str, np.ndarray]) -> None:
    """Write ``votes.parquet``.

    Parameters
    ----------
    run : Path
        Run folder.
    votes : mapping of str to (n,) ndarray
        The columns of `VOTES_DTYPES`, one row per LR slice, HR candidate and voter.
    """
    import pandas as pd

    with atomic_path(run / "votes.parquet") as path:
        pd.DataFrame(dict(votes)).astype(VOTES_DTYPES).to_parquet(path, index=False)


@dataclass(frozen=True)
class Run:
    """A run folder that was opened and understood.

    Parameters
    ----------
    path : Path
        The folder.
    summary : dict
        ``summary.json``.
    provenance : dict
        ``provenance.json``.
    """

    path: Path
    summary: dict[str, Any]
    provenance: dict[str, Any]

    def source_path(self, role: str, sources: Path | None = None) -> Path:
        """Find the scan a volume of this run was read from, and check its content.

        Parameters
        ----------
        role : {"lr", "hr"}
            Which volume.
        sources : Path, optional
            Folder to look in when the scans have moved; the more of the recorded
            path is found below it, the better.

        Returns
        -------
        Path
            The scan; all its files have the recorded SHA-256.

        Raises
        ------
        MissingInputError
            If the scan is neither at its recorded place nor under `sources`.
        ChecksumError
            If it was found with another content.
        """
        entry = self.provenance["sources"][role]
        recorded = Path(entry["path"])
        candidates = [self.path / recorded]
        if sources is not None:
            parts = [part for part in recorded.parts if part not in ("..", "/")]
            candidates = [sources.joinpath(*parts[n:]) for n in range(len(parts) + 1)]
        files = [(Path(file["path"]), file["sha256"]) for file in entry["files"]]
        changed = None
        for path in candidates:
            # By name, not by walking: a path may lead through a zip archive.
            found = [Path(os.path.normpath(path / name)) for name, _ in files]
            if not all(file.is_file() for file in found):
                continue
            wrong = [
                file
                for file, (_, digest) in zip(found, files, strict=True)
                if sha256_file(file) != digest
            ]
            if not wrong:
                return path.resolve()
            changed = changed or wrong[0]
        if changed is not None:
            raise ChecksumError(
                f"{changed}: the content changed since the run was made",
                hint="point --sources to the folder with the original scans",
            )
        raise MissingInputError(
            f"{candidates[0]}: the {role.upper()} scan of run {self.path} is not there",
            hint="point --sources to the folder that holds the scans now",
        )


def read_votes(run: Path) -> pd.DataFrame:
    """Return ``votes.parquet`` of a run folder, also of one still being built.

    Parameters
    ----------
    run : Path
        Run folder.

    Returns
    -------
    DataFrame
        One row per LR slice, HR candidate and voter.

    Raises
    ------
    MissingInputError
        If it is not there.
    FormatError
        If it is damaged or a column is missing.
    """
    return _read_table(run / "votes.parquet", VOTES_DTYPES)


def read_aligned(run: Path) -> tuple[Volume, Volume]:
    """Return HR on LR's planes, and where it was measured.

    Parameters
    ----------
    run : Path
        Run folder.

    Returns
    -------
    aligned, mask : Volume
        Stored numbers, axes (col, row, slice), one slice per row of ``pairs``.

    Raises
    ------
    MissingInputError, FormatError
        If one of them is not there or damaged.
    """
    aligned, mask = (
        read_volume(run / f"{name}.nii.gz", dtype="stored")
        for name in ("hr_aligned", "hr_aligned_mask")
    )
    return aligned, mask


def read_certificate(run: Path) -> dict[str, Any] | None:
    """Return ``certificate.json`` of a run folder, which not every run has.

    Parameters
    ----------
    run : Path
        Run folder.

    Returns
    -------
    dict or None
        The certificate; None without one.

    Raises
    ------
    FormatError
        If it is damaged, or written by a version this one does not understand.
    """
    path = run / "certificate.json"
    if not path.is_file():
        return None
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        found = document.get("schema_version") if isinstance(document, dict) else "something else"
        raise FormatError(
            f"{path}: schema version {SCHEMA_VERSION} was expected, {found} found",
            hint="update srmri, or certify the run again",
        )
    return document


def read_pairs(run: Path) -> pd.DataFrame:
    """Return ``pairs.parquet`` of a run folder.

    Parameters
    ----------
    run : Path
        Run folder.

    Returns
    -------
    DataFrame
        One row per LR slice.

    Raises
    ------
    MissingInputError
        If it is not there.
    FormatError
        If it is damaged or a column is missing.
    """
    later = (*_REVIEW_COLUMNS, *_GEOMETRY_COLUMNS)
    needed = {name: dtype for name, dtype in PAIRS_DTYPES.items() if name not in later}
    table = with_review_columns(_read_table(run / "pairs.parquet", needed))
    return table.astype(PAIRS_DTYPES)


def _read_table(path: Path, dtypes: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise MissingInputError(f"{path}: no such file", hint="run `srmri pair` again")
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises a family of its own
        raise FormatError(f"{path}: damaged parquet file ({error})") from error
    missing = [column for column in dtypes if column not in table]
    if missing:
        raise FormatError(f"{path}: column {missing[0]!r} is missing")
    return table.astype(dict(dtypes))


def open_run(path: Path) -> Run:
    """Open a run folder.

    Parameters
    ----------
    path : Path
        Folder written by `srmri pair`.

    Returns
    -------
    Run
        Its summary and provenance; `read_pairs` and `read_votes` read the tables.

    Raises
    ------
    MissingInputError
        If it is not a run folder.
    FormatError
        If it was written by a version this one does not understand.
    """
    path = Path(path)
    if not (path / "summary.json").is_file():
        raise MissingInputError(
            f"{path}: not a run folder (no summary.json)", hint="give a folder `srmri pair` wrote"
        )
    documents = []
    for name in ("summary.json", "provenance.json"):
        document = read_json(path / name)
        found = document.get("schema_version") if isinstance(document, dict) else None
        if found != SCHEMA_VERSION or isinstance(found, bool):
            raise FormatError(
                f"{path / name}: schema_version {found!r}, this srmri reads {SCHEMA_VERSION}",
                hint="use the srmri version that wrote the run, or make the run again",
            )
        documents.append(document)
    return Run(path, *documents)
