"""Who is paired with what: the units of a cohort and the table a user can edit.

A *unit* is one LR and one HR scan of one subject, perhaps of one session. The
table, ``mapping.tsv``, is described in ``docs/many-subjects.md``.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from srmri_data.choices import SubjectPosition, SubjectType
from srmri_data.errors import FormatError, SrmriError
from srmri_data.planning import ScanRequest, find_scans
from srmri_data.safe_io import read_bounded, write_text

COLUMNS = (
    "subject",
    "session",
    "lr",
    "hr",
    "lr_scan",
    "lr_reco",
    "lr_package",
    "lr_frame",
    "hr_scan",
    "hr_reco",
    "hr_package",
    "hr_frame",
    "truth",
    "source",
)
"""Columns of ``mapping.tsv``; only ``lr`` and ``hr`` must be there."""

_NUMBERS = ("scan", "reco", "package")
_MAX_BYTES = 16 << 20
_MAX_LABEL = 64


@dataclass(frozen=True)
class Corrections:
    """What the user says about all scans against their headers.

    Parameters
    ----------
    subject_type : str, optional
        Kind of subject.
    low_position, high_position : str, optional
        How the subject lay in the LR and in the HR scan.
    """

    subject_type: SubjectType | None = None
    low_position: SubjectPosition | None = None
    high_position: SubjectPosition | None = None

    def request(self, role: str, path: Path, **choice: Any) -> ScanRequest:
        """Ask for a scan with these corrections.

        Parameters
        ----------
        role : {"lr", "hr"}
            Which of the two scans.
        path : Path
            Where it is.
        **choice
            Further fields of `ScanRequest`.

        Returns
        -------
        ScanRequest
            The request.
        """
        position = self.low_position if role == "lr" else self.high_position
        return ScanRequest(
            path, subject_type=self.subject_type, subject_position=position, **choice
        )


@dataclass(frozen=True)
class Unit:
    """One pair of scans to work on.

    Parameters
    ----------
    subject, session : str
        As the user or a header names them; a unit without sessions has an empty one.
    low, high : ScanRequest
        The two scans. The same path twice is a study whose roles are proposed.
    truth : Path, optional
        ``truth.json`` of a simulated LR scan.
    sources : mapping of str to str
        Where subject, session, LR and HR were read from.
    """

    subject: str
    session: str
    low: ScanRequest
    high: ScanRequest
    truth: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For instance ``sub-m01_ses-02``; safe as a file name."""
        return "_".join(self.folder.parts)

    @property
    def folder(self) -> PurePosixPath:
        """Folder of the unit below the cohort's, for instance ``sub-m01/ses-02``."""
        parts = [f"sub-{label(self.subject)}"]
        if self.session:
            parts.append(f"ses-{label(self.session)}")
        return PurePosixPath(*parts)

    @property
    def is_one_study(self) -> bool:
        """Whether both scans are asked of one place."""
        return self.low.path == self.high.path


@dataclass(frozen=True)
class Problem:
    """Something that could not be made a unit without guessing.

    Parameters
    ----------
    where : str
        Subject, folder or line of the table.
    reason : str
        What is the matter.
    candidates : tuple of Unit
        The units it could be; the user chooses in ``mapping.tsv``.
    """

    where: str
    reason: str
    candidates: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class CohortMap:
    """The units of a cohort, and what had to be left out.

    Parameters
    ----------
    origin : Path
        Table or folder it was made from.
    units : tuple of Unit
        In natural order of subject and session, every folder once.
    problems : tuple of Problem
        What was left out and why.
    """

    origin: Path
    units: tuple[Unit, ...]
    problems: tuple[Problem, ...] = ()


def label(text: str) -> str:
    """Turn a name from a header or table into a BIDS label.

    Parameters
    ----------
    text : str
        Any text; a leading ``sub-`` or ``ses-`` is dropped.

    Returns
    -------
    str
        ASCII letters and digits only, at most 64; empty when none is left.

    Examples
    --------
    >>> label("sub-m01"), label("../../etc/m 01"), label("…")
    ('m01', 'etcm01', '')
    """
    return re.sub(r"[^A-Za-z0-9]+", "", re.sub(r"^(sub|ses)-", "", text.strip()))[:_MAX_LABEL]


def settled(origin: Path, units: Iterable[Unit], problems: Sequence[Problem] = ()) -> CohortMap:
    """Make a cohort of units; those that would share a folder become problems.

    Parameters
    ----------
    origin : Path
        Table or folder they come from.
    units : iterable of Unit
        Proposed units.
    problems : sequence of Problem
        What is known to be wrong already.

    Returns
    -------
    CohortMap
        Units whose folders are distinct on any file system.
    """
    from srmri_data.formats import natural_key

    units = list(units)
    found = list(problems)
    names: dict[str, set[str]] = {}
    folders: dict[str, list[Unit]] = {}
    for unit in units:
        names.setdefault(label(unit.subject).casefold(), set()).add(unit.subject)
        folders.setdefault(str(unit.folder).casefold(), []).append(unit)
    kept = []
    for unit in units:
        who = f"subject {unit.subject!r}"
        alike = sorted(names[label(unit.subject).casefold()])
        twins = folders[str(unit.folder).casefold()]
        if not label(unit.subject):
            reason = f"{who} has no letter or digit to name a folder by"
        elif unit.session and not label(unit.session):
            reason = f"{who}: session {unit.session!r} has no letter or digit to name a folder by"
        elif len(alike) > 1:
            reason = (
                f"{' and '.join(map(repr, alike))} would share the folder {unit.folder.parts[0]}"
            )
        elif len(twins) > 1:
            reason = f"{len(twins)} pairs for {unit.name}: tell them apart by session"
        else:
            kept.append(unit)
            continue
        found.append(Problem(who, reason, (unit,)))
    kept.sort(key=lambda unit: natural_key(str(unit.folder)))
    return CohortMap(origin, tuple(kept), tuple(found))


def read_mapping(path: Path, corrections: Corrections | None = None) -> CohortMap:
    """Read an explicit table of pairs.

    Parameters
    ----------
    path : Path
        Tab-separated text with the columns of `COLUMNS`, of which ``lr`` and
        ``hr`` are needed. Paths are relative to its folder; lines that begin
        with ``#`` are left out. A row without a subject takes the one its HR
        (or else its LR) header names.
    corrections : Corrections, optional
        Header corrections for every scan.

    Returns
    -------
    CohortMap
        The units.

    Raises
    ------
    MissingInputError
        If there is no such file.
    FormatError
        If it is not such a table; the line is named.
    """
    corrections = corrections or Corrections()
    units, problems = [], []
    for where, row in _rows(path):
        unit = _unit(path, where, row, corrections)
        if unit.subject:
            units.append(unit)
            continue
        try:
            subject, source = _subject_of(unit)
        except SrmriError as error:
            problems.append(Problem(where, error.message, (unit,)))
            continue
        if subject:
            units.append(
                replace(unit, subject=subject, sources={**unit.sources, "subject": source})
            )
        else:
            reason = "no subject is given, and the headers of its scans name none"
            problems.append(Problem(where, reason, (unit,)))
    if not units and not problems:
        raise FormatError(f"{path}: the table has no rows")
    return settled(path, units, problems)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        text = read_bounded(path, _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text in UTF-8 ({error})") from error
    numbered = [
        (number, line)
        for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)
        if line.strip() and not line.startswith("#")
    ]
    if not numbered:
        raise FormatError(f"{path}: the table is empty")
    try:
        table = list(csv.reader([line for _, line in numbered], delimiter="\t", strict=True))
    except csv.Error as error:
        raise FormatError(f"{path}: not a tab-separated table ({error})") from error
    if len(table) != len(numbered):
        raise FormatError(f"{path}: a cell must not contain a line break")
    header = [cell.strip().lower() for cell in table[0]]
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or len(set(header)) < len(header) or not {"lr", "hr"} <= set(header):
        raise FormatError(
            f"{path}: line {numbered[0][0]} should name the columns, found {', '.join(header)}",
            hint=f"separated by tabs: lr and hr, and any of {', '.join(COLUMNS)}",
        )
    for (number, _), cells in zip(numbered[1:], table[1:], strict=True):
        where = f"{path.name}, line {number}"
        if len(cells) > len(header):
            raise FormatError(f"{path}: line {number} has {len(cells)} cells, not {len(header)}")
        values = (cell.strip() for cell in cells)
        yield where, dict.fromkeys(COLUMNS, "") | dict(zip(header, values, strict=False))


def _unit(path: Path, where: str, row: Mapping[str, str], corrections: Corrections) -> Unit:
    requests = {}
    for role in ("lr", "hr"):
        if not row[role]:
            raise FormatError(f"{path}: {where.rpartition(', ')[2]} names no {role} scan")
        requests[role] = corrections.request(
            role,
            _below(path, row[role]),
            **{name: _number(path, where, f"{role}_{name}", row) for name in _NUMBERS},
            frame=_frame(path, where, row[f"{role}_frame"]),
        )
    sources = {name: where for name in ("subject", "session", "lr", "hr") if row[name]}
    if row["source"]:
        sources["proposed"] = row["source"]
    return Unit(
        subject=row["subject"],
        session=row["session"],
        low=requests["lr"],
        high=requests["hr"],
        truth=_below(path, row["truth"]) if row["truth"] else None,
        sources=sources,
    )


def _below(path: Path, name: str) -> Path:
    if "\x00" in name:
        raise FormatError(f"{path}: a path must not contain a NUL character")
    return Path(os.path.normpath(path.parent / name))


def _number(path: Path, where: str, column: str, row: Mapping[str, str]) -> int | None:
    text = row[column]
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise FormatError(f"{path}: {where.rpartition(', ')[2]}: {column} {text!r} is no number")
    return int(text) if text else None


def _frame(path: Path, where: str, text: str) -> dict[str, int]:
    frame = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if not (name.strip() and number.isascii() and number.isdigit() and len(number) < 10):
            raise FormatError(
                f"{path}: {where.rpartition(', ')[2]}: frame {text!r} is not of the form "
                "NAME=NUMBER, counted from 1"
            )
        frame[name.strip().lower()] = int(number)
    return frame


def _subject_of(unit: Unit) -> tuple[str, str]:
    """Name the subject by the headers; HR's goes first."""
    low, high = find_scans(unit.low, unit.high, propose=unit.is_one_study)
    for record, _ in (high, low):
        entry = record.readable().provenance.fields.get("subject_id")
        if entry is not None and str(entry.value).strip():
            return str(entry.value).strip(), f"{entry.source} of {record.path}"
    return "", ""


def mapping_text(cohort: CohortMap, folder: Path) -> str:
    """Write a cohort as the table `read_mapping` reads.

    Parameters
    ----------
    cohort : CohortMap
        Units become rows. Problems become comments, their candidates rows
        behind a ``#``: to choose one, take its ``#`` away.
    folder : Path
        Folder the table will be in; paths are written relative to it.

    Returns
    -------
    str
        Tab-separated text.
    """
    lines = ["\t".join(COLUMNS)]
    lines += [_line(unit, folder) for unit in cohort.units]
    for problem in cohort.problems:
        # Reasons have lines of their own, and names in them come from headers.
        reason = [" ".join(line.split()) for line in problem.reason.splitlines()]
        lines += ["#", f"# {' '.join(problem.where.split())}: {reason[0]}"]
        lines += [f"#   {line}" for line in reason[1:]]
        lines += [f"#{_line(unit, folder)}" for unit in problem.candidates]
    return "\n".join(lines) + "\n"


def write_mapping(cohort: CohortMap, path: Path) -> None:
    """Write ``mapping.tsv`` atomically.

    Parameters
    ----------
    cohort : CohortMap
        What to write.
    path : Path
        Destination.
    """
    write_text(path, mapping_text(cohort, path.parent))


def _line(unit: Unit, folder: Path) -> str:
    def relative(path: Path) -> str:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()

    row: dict[str, Any] = {
        "subject": unit.subject,
        "session": unit.session,
        "truth": relative(unit.truth) if unit.truth else "",
        "source": "; ".join(f"{name}: {text}" for name, text in unit.sources.items()),
    }
    for role, request in (("lr", unit.low), ("hr", unit.high)):
        row[role] = relative(request.path)
        row |= {f"{role}_{name}": getattr(request, name) for name in _NUMBERS}
        row[f"{role}_frame"] = ",".join(f"{k}={n}" for k, n in request.frame.items())
    # A line is a row: what a header put into a name can not end it, nor comment it out.
    values = ("" if row[name] is None else str(row[name]) for name in COLUMNS)
    cells = [re.sub(r"[\r\n]+", " ", value) for value in values]
    text = io.StringIO()
    is_comment = cells[0].startswith("#")
    csv.writer(
        text,
        delimiter="\t",
        lineterminator="",
        quoting=csv.QUOTE_ALL if is_comment else csv.QUOTE_MINIMAL,
    ).writerow(cells)
    return text.getvalue()
