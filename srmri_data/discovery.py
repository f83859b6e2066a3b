"""From a tree of scans to the units of a cohort: subject, session and role, each with its source.

BIDS entities in names come first, then what the headers say. Nothing is guessed:
where more than one answer is possible the candidates are listed instead.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srmri_data import ingest
from srmri_data.errors import InputError, NoScanError
from srmri_data.formats.archive import split_archive
from srmri_data.ingest import ScanRecord
from srmri_data.mapping import CohortMap, Corrections, Problem, Unit, settled
from srmri_data.planning import ScanRequest
from srmri_data.volumes import Sourced

MAX_CANDIDATES = 24
"""Most candidates listed for one problem."""

_ENTITY = re.compile(r"(sub|ses|acq|res)-([A-Za-z0-9+]+)(?=_|\.|$)")
_SIZE = re.compile(r"(\d+(?:p\d+)?)(um|mm)(?![a-z])", re.IGNORECASE)
_WORDS = {"lr": "LR", "low": "LR", "lowres": "LR", "hr": "HR", "high": "HR", "highres": "HR"}
_DERIVED = ("derivatives", "sourcedata")
_RUN_FILES = ("summary.json", "provenance.json")
_VOXEL_SIZE = "voxel size in the headers"


@dataclass(frozen=True, eq=False)
class _Found:
    """A scan and what its place and header say about it."""

    record: ScanRecord
    study: Path
    entities: dict[str, str]
    subject: Sourced | None
    conflict: str = ""

    @property
    def session(self) -> str:
        return self.entities.get("ses", "")


@dataclass(frozen=True, eq=False)
class _Roles:
    """Which scans could be LR and HR, and what says so."""

    lows: Sequence[_Found]
    highs: Sequence[_Found]
    source: str

    @property
    def are_settled(self) -> bool:
        return len(self.lows) == len(self.highs) == 1


def discover_cohort(
    root: Path, *, leave_out: Sequence[Path] = (), corrections: Corrections | None = None
) -> CohortMap:
    """Find subjects, sessions and roles in a tree of scans.

    Parameters
    ----------
    root : Path
        BIDS dataset, or a folder of ParaVision studies (folders or archives) or
        images, to any depth.
    leave_out : sequence of Path
        Folders below `root` to pass over, such as earlier results.
    corrections : Corrections, optional
        Header corrections for every scan.

    Returns
    -------
    CohortMap
        Units, and problems with their candidates.

    Raises
    ------
    MissingInputError
        If there is no such folder.
    NoScanError
        If it holds no scan.

    Notes
    -----
    *Subject*: the ``sub-`` entity, else the subject of the header. *Session*: the
    ``ses-`` entity; without one, the studies of a subject become its sessions when
    each of them holds a pair of its own. *Role*: ``acq-`` or ``res-`` entities
    (``25um``, ``0p05mm``, ``lr``, ``highres``), else the voxel sizes of comparable
    scans (`srmri_data.ingest.propose_roles`).
    """
    corrections = corrections or Corrections()
    problems: list[Problem] = []
    found = _with_neighbours(_scans(root, leave_out, corrections, problems))
    if not found and not problems:
        raise NoScanError(
            f"{root}: no scan found",
            hint="expected a BIDS dataset, ParaVision studies, images, or a table (.tsv)",
        )
    groups: dict[tuple[str, str], list[_Found]] = {}
    for item in found:
        if item.conflict:
            problems.append(Problem(str(item.record.path), item.conflict))
        else:
            subject = item.subject.value if item.subject else ""
            groups.setdefault((subject, item.session), []).append(item)
    units: list[Unit] = []
    for (subject, session), items in groups.items():
        if not subject:
            problems += _nameless(items, corrections)
            continue
        made, wrong = _units(subject, session, items, corrections)
        units += made
        problems += wrong
    return settled(root, units, problems)


def _scans(
    root: Path, leave_out: Sequence[Path], corrections: Corrections, problems: list[Problem]
) -> Iterator[_Found]:
    places = [*([root] if split_archive(root) is None else []), *_archives(root)]
    passed_over = [path.resolve() for path in leave_out]
    is_run: dict[Path, bool] = {}
    for place in places:
        try:
            records = ingest.discover(place, subject_type=corrections.subject_type)
        except NoScanError:
            continue
        except InputError as error:
            if place == root:
                raise
            problems.append(Problem(str(place), error.message))
            continue
        for record in records:
            folder = record.path.parent
            if folder not in is_run:
                is_run[folder] = all((folder / name).is_file() for name in _RUN_FILES)
            resolved = record.path.resolve()
            if is_run[folder] or any(resolved.is_relative_to(path) for path in passed_over):
                continue
            parts = Path(os.path.relpath(record.path, root)).parts
            if not (parts and parts[0] in _DERIVED):
                yield _describe(record, (root.absolute().name, *parts))


def _archives(root: Path) -> Iterator[Path]:
    """List archives in a tree; links that lead out of it are left out, as everywhere."""
    if split_archive(root) is not None:
        yield root
        return
    inside = root.resolve()
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if split_archive(path) is not None and path.resolve().is_relative_to(inside):
                yield path


def _describe(record: ScanRecord, parts: tuple[str, ...]) -> _Found:
    entities: dict[str, str] = {}
    conflict = ""
    for part in parts:
        if not part.startswith(("sub-", "ses-")):
            continue
        for name, value in _ENTITY.findall(part):
            if entities.setdefault(name, value) != value and name in ("sub", "ses"):
                conflict = f"its path says both {name}-{entities[name]} and {name}-{value}"
    subject = None
    if "sub" in entities:
        subject = Sourced(entities["sub"], "BIDS entity sub")
    elif record.header is not None:
        entry = record.header.provenance.fields.get("subject_id")
        if entry is not None and str(entry.value).strip():
            subject = Sourced(" ".join(str(entry.value).split()), entry.source)
    study = record.path.parent
    if study.name == "pdata":
        study = study.parent.parent
    return _Found(record, study, entities, subject, conflict)


def _with_neighbours(found: Iterable[_Found]) -> list[_Found]:
    """Give scans that can not be read the subject the rest of their study names."""
    found = list(found)
    subjects: dict[Path, set[str]] = {}
    for item in found:
        if item.subject is not None:
            subjects.setdefault(item.study, set()).add(item.subject.value)
    settled_items = []
    for item in found:
        named = subjects.get(item.study, set())
        if item.subject is None and item.record.header is None and len(named) == 1:
            source = Sourced(next(iter(named)), "other scans of the study")
            item = _Found(item.record, item.study, item.entities, source, item.conflict)
        settled_items.append(item)
    return settled_items


def _roles(items: Sequence[_Found]) -> _Roles:
    """Find the candidates of both roles by names, else by voxel sizes."""
    by_name: dict[str, list[_Found]] = {"LR": [], "HR": []}
    sizes: list[tuple[float, _Found]] = []
    for item in items:
        text = item.entities.get("res", item.entities.get("acq", ""))
        size = _SIZE.search(text)
        if text.lower() in _WORDS:
            by_name[_WORDS[text.lower()]].append(item)
        elif size:
            micrometres = float(size[1].replace("p", ".")) * (1e3 if size[2].lower() == "mm" else 1)
            sizes.append((micrometres, item))
    if by_name["LR"] and by_name["HR"]:
        return _Roles(by_name["LR"], by_name["HR"], "BIDS entity acq or res")
    if len({size for size, _ in sizes}) > 1:
        finest = min(size for size, _ in sizes)
        return _Roles(
            [item for size, item in sizes if size > finest],
            [item for size, item in sizes if size == finest],
            "size in the BIDS entity acq or res",
        )
    item_of = {id(item.record): item for item in items}
    lows, highs = ingest.role_candidates([item.record for item in items])
    return _Roles([item_of[id(r)] for r in lows], [item_of[id(r)] for r in highs], _VOXEL_SIZE)


def _units(
    subject: str, session: str, items: Sequence[_Found], corrections: Corrections
) -> tuple[list[Unit], list[Problem]]:
    """Make the unit of a subject and session, or of each of its studies."""
    where = f"subject {subject!r}" + (f", session {session!r}" if session else "")
    roles = _roles(items)
    if roles.are_settled:
        session_source = "BIDS entity ses" if session else ""
        return [_unit(session, session_source, roles, corrections)], []
    studies: dict[Path, list[_Found]] = {}
    for item in items:
        studies.setdefault(item.study, []).append(item)
    per_study = {study: _roles(scans) for study, scans in studies.items()}
    taking_part = {item.study for item in (*roles.lows, *roles.highs)}
    if not session and taking_part and all(per_study[study].are_settled for study in taking_part):
        return [
            _unit(study.name, "name of the study's folder", per_study[study], corrections)
            for study in sorted(taking_part)
        ], []
    return [], [_problem(where, session, items, roles, corrections)]


def _nameless(items: Sequence[_Found], corrections: Corrections) -> Iterator[Problem]:
    """Report scans of which nobody knows the subject, study by study."""
    by_study = sorted(items, key=lambda item: str(item.study))
    for study, group in itertools.groupby(by_study, key=lambda item: item.study):
        scans = list(group)
        readable = [item for item in scans if item.record.header is not None]
        if readable:
            problem = _problem(str(study), scans[0].session, scans, _roles(scans), corrections)
            reason = f"its scans name no subject; {problem.reason}"
            if len(problem.candidates) == 1:
                reason = "its scans name no subject: write one into the row and take its # away"
            yield Problem(problem.where, reason, problem.candidates)
        else:
            yield Problem(str(study), "\n".join(["no scan can be read", *_listing(scans)]))


def _problem(
    where: str,
    session: str,
    items: Sequence[_Found],
    roles: _Roles,
    corrections: Corrections,
) -> Problem:
    if not roles.lows or not roles.highs:
        text = "no two comparable scans of different resolution among"
        return Problem(where, "\n".join([text, *_listing(items)]))
    pairs = list(itertools.product(roles.lows, roles.highs))
    plural = "s" if len(roles.lows) > 1 else ""
    text = f"{len(roles.lows)} scan{plural} could be LR and {len(roles.highs)} HR"
    if len(pairs) > MAX_CANDIDATES:
        text += f"; the first {MAX_CANDIDATES} of {len(pairs)} pairs are listed"
    candidates = tuple(
        _unit(session, "", _Roles([low], [high], roles.source), corrections)
        for low, high in pairs[:MAX_CANDIDATES]
    )
    return Problem(where, "\n".join([text, *_listing([*roles.lows, *roles.highs])]), candidates)


def _listing(items: Sequence[_Found]) -> Iterator[str]:
    for item in items[:MAX_CANDIDATES]:
        record = item.record
        if record.header is None:
            yield f"{record.path}  unreadable: {'; '.join(record.problems)}"
            continue
        matrix = "×".join(map(str, record.header.shape))
        spacing = "×".join(f"{step:.4g}" for step in record.header.spacing)
        what = " ".join(filter(None, (record.method, record.protocol)))
        yield f"{record.path}  {matrix}, {spacing} mm  {what}".rstrip()
    if len(items) > MAX_CANDIDATES:
        yield f"… and {len(items) - MAX_CANDIDATES} more"


def _unit(session: str, session_source: str, roles: _Roles, corrections: Corrections) -> Unit:
    (low,), (high,) = roles.lows, roles.highs
    sources = {"lr": roles.source, "hr": roles.source}
    if high.subject is not None:
        sources = {"subject": high.subject.source, **sources}
    if session_source:
        sources["session"] = session_source
    return Unit(
        subject=high.subject.value if high.subject else "",
        session=session,
        low=_request("lr", low.record, corrections),
        high=_request("hr", high.record, corrections),
        sources=sources,
    )


def _request(role: str, record: ScanRecord, corrections: Corrections) -> ScanRequest:
    choice: dict[str, Any] = {}
    if record.header is not None:
        if record.header.packages > 1:
            choice["package"] = record.package
        if record.header.format == "dicom":
            choice["scan"] = record.scan
    return corrections.request(role, record.path, **choice)


def open_cohort(
    source: Path, *, leave_out: Sequence[Path] = (), corrections: Corrections | None = None
) -> CohortMap:
    """Read a table of pairs or look through a tree of scans.

    Parameters
    ----------
    source : Path
        ``mapping.tsv``, or a folder or archive.
    leave_out : sequence of Path
        Folders of a tree to pass over.
    corrections : Corrections, optional
        Header corrections for every scan.

    Returns
    -------
    CohortMap
        The units.

    Raises
    ------
    MissingInputError, NoScanError, FormatError
        If there is nothing to pair.
    """
    from srmri_data.mapping import read_mapping

    is_table = source.suffix.lower() in (".tsv", ".txt") and not source.is_dir()
    if is_table:
        return read_mapping(source, corrections)
    return discover_cohort(source, leave_out=leave_out, corrections=corrections)
