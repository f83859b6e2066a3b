"""What will be written, worked out from headers and tables alone: no voxel is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srmri_data import ingest
from srmri_data.choices import DateRule, Plane
from srmri_data.dataset_schema import LAYOUT_VERSION, SPLITS, ConfigName, Split, columns_of
from srmri_data.deid import Pseudonyms, acquisition_date, public_fields
from srmri_data.deid.pseudonyms import default_key_path
from srmri_data.errors import PrivacyError, SplitError, UsageError
from srmri_data.formats.archive import split_archive
from srmri_data.ingest import ScanRecord
from srmri_data.pairing import plan_of_run
from srmri_data.planning import PairingPlan
from srmri_data.review_merge import merge_verdicts
from srmri_data.run_folder import REVIEW_DATABASE, Run, open_run, read_pairs
from srmri_data.safe_io import sha256_file
from srmri_data.slices import (
    IntensityMap,
    StackFrame,
    Trim,
    Window,
    stack_frame,
    trim_window,
)
from srmri_data.splits import assign_splits, read_splits
from srmri_data.store import ReviewStore

if TYPE_CHECKING:
    import pandas as pd

    from srmri_data.decisions import Event

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""

CHECKSUMS = "checksums.sha256"
# Rows are read a row group at a time: small ones let a training loader pick slices at random.
_GROUP_ROWS = 100
_GROUP_BYTES = 8 << 20
_SHARD_BYTES = 500 << 20
_ANIMALS = ("Quadruped", "OtherAnimal", "Phantom")
_HUMANS = ("Biped", "Human")
_STATUSES = ("auto", "decided", "rejected", "review")


@dataclass(frozen=True)
class ExportConfig:
    """What to publish, and under which words.

    Parameters
    ----------
    title : str
        Name of the dataset for people.
    repo : str, optional
        ``user/name`` on the Hub, for the card.
    version : str
        ``X.Y.Z``, for the card and the tag.
    license : str, optional
        SPDX identifier. Needed before anything is uploaded.
    species : str, optional
        For instance ``Mus musculus``. Needed where the headers do not say that it is an animal.
    human_statement : str, optional
        Needed for human data: consent, and what was done to faces.
    include_queued : bool
        Let undecided pairs leave, too; the card says so.
    preview : bool
        Add 8-bit previews.
    hr_only : tuple of Path
        Scans of subjects that have no LR scan, for ``slices_hr``.
    plane, trim : Plane and Trim
        Of the HR-only slices when there are no runs to follow.
    sources : Path, optional
        Folder that holds the scans of the runs now, when they have moved.
    splits : Path, optional
        ``splits.json`` to keep to, with pseudonyms or the names the scanner knows.
    key : Path, optional
        Secret of the pseudonyms; `default_key_path` otherwise.
    dates : {"drop", "shift"}
        Leave out when a scan was made, or say it moved into the past by a secret number of days,
        the same for all scans of a subject.
    """

    title: str = "Scanner-acquired LR-HR MRI pairs"
    repo: str | None = None
    version: str = "1.0.0"
    license: str | None = None
    species: str | None = None
    human_statement: str | None = None
    include_queued: bool = False
    preview: bool = False
    hr_only: tuple[Path, ...] = ()
    plane: Plane = "coronal"
    trim: Trim = field(default_factory=lambda: Trim(15, "slices"))
    sources: Path | None = None
    splits: Path | None = None
    key: Path | None = None
    dates: DateRule = "drop"

    def __post_init__(self) -> None:
        """Refuse what the card could not say."""
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise UsageError(f"version {self.version!r}: expected X.Y.Z, for instance 1.0.0")
        if not self.title.strip() or "\n" in self.title:
            raise UsageError("the title of a dataset is one line")


@dataclass(frozen=True, eq=False)
class PlannedVolume:
    """One scan that leaves.

    Parameters
    ----------
    id : str
        Public name, unique in the dataset.
    subject, session : str
        Pseudonym, and number within the subject.
    role : {"lr", "hr"}
        What it is used as.
    record : ScanRecord
        The scan itself.
    selection : mapping of str to int
        Frame of each frame group.
    facts : dict
        What may be said of its header (`public_fields`).
    source : str
        Keyed hash of its content: whoever has the key can find the scan again.
    intensity : IntensityMap or None
        Known for scans of runs.
    stacks : mapping of Plane to (StackFrame, Window)
        Slices to publish on their own.
    """

    id: str
    subject: str
    session: str
    role: str
    record: ScanRecord
    selection: Mapping[str, int]
    facts: Mapping[str, Any]
    source: str
    intensity: IntensityMap | None
    stacks: Mapping[Plane, tuple[StackFrame, Window]]

    @property
    def path(self) -> str:
        """Place of the image in the dataset."""
        return f"volumes/{self.subject}/{self.id}.nii.gz"

    def describe(self) -> dict[str, Any]:
        """Return what leaves of the scan besides its voxels.

        Returns
        -------
        dict
            JSON-able values.
        """
        header = self.record.readable()
        return {
            "id": self.id,
            "subject": self.subject,
            "session": self.session,
            "role": self.role,
            "path": self.path,
            "shape": list(header.shape),
            "spacing_mm": list(header.spacing),
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, eq=False)
class PlannedPairs:
    """The pairs of one run that leave.

    Parameters
    ----------
    id : str
        Public name, unique in the dataset.
    run : Run
        The run folder.
    plan : PairingPlan
        Its windows.
    low, high : PlannedVolume
        Its scans.
    pairs : DataFrame
        All its pairs, with what reviewers decided so far.
    events : tuple of Event
        The log of the review.
    chosen : tuple of int
        Rows of `pairs` that leave.
    """

    id: str
    run: Run
    plan: PairingPlan
    low: PlannedVolume
    high: PlannedVolume
    pairs: pd.DataFrame
    events: tuple[Event, ...]
    chosen: tuple[int, ...]

    def path(self, name: str) -> str:
        """Return the place of an image on LR's planes in the dataset.

        Parameters
        ----------
        name : {"aligned", "mask"}
            HR itself, or where it was measured.

        Returns
        -------
        str
            Relative to the dataset folder.
        """
        return f"volumes/{self.low.subject}/{self.id}_{name}.nii.gz"

    def describe(self) -> dict[str, Any]:
        """Return how the pairs were made and what became of them.

        Returns
        -------
        dict
            JSON-able values.
        """
        config, status = self.plan.config, self.pairs["status"].value_counts()
        return {
            "id": self.id,
            "method": config.method,
            "plane": config.plane,
            "trim": str(config.trim),
            "voters": list(config.voters),
            "status": {name: int(status.get(name, 0)) for name in _STATUSES},
            "exported": len(self.chosen),
            # Only of a simulated scan is the truth known.
            "simulated": self.run.provenance["truth"] is not None,
        }

    @property
    def aligned_shape(self) -> tuple[int, int]:
        """Rows and columns of HR on LR's planes."""
        frame, window = self.plan.low_frame, self.plan.low_window
        ratio = np.array(frame.spacing[1:]) / np.array(self.plan.high_frame.spacing[1:])
        rows, cols = np.rint(np.array(window.shape[1:]) * ratio).astype(int)
        return int(rows), int(cols)


@dataclass(frozen=True)
class Shards:
    """One table of one split, cut into files.

    Parameters
    ----------
    config : {"pairs", "slices_hr"}
        Which table.
    split : Split
        Which split.
    rows : tuple of int
        Rows of each file.
    group_rows : int
        Rows of each row group.
    """

    config: ConfigName
    split: Split
    rows: tuple[int, ...]
    group_rows: int

    @property
    def paths(self) -> list[str]:
        """Place of each file in the dataset."""
        n = len(self.rows)
        return [f"data/{self.config}/{self.split}-{i:05d}-of-{n:05d}.parquet" for i in range(n)]


@dataclass(frozen=True, eq=False)
class ExportPlan:
    """Everything that will be written.

    Parameters
    ----------
    config : ExportConfig
        What was asked for.
    pseudonyms : Pseudonyms
        Names under the laboratory's key.
    splits : mapping of str to Split
        Split of each pseudonym.
    volumes : tuple of PlannedVolume
        Scans, in the order of writing.
    runs : tuple of PlannedPairs
        Pairs, in the order of writing.
    tables : tuple of Shards
        Parquet files.
    identifiers : frozenset of str
        Names that must not be found in what is written.
    warnings : tuple of str
        What to know before publishing.
    """

    config: ExportConfig
    pseudonyms: Pseudonyms
    splits: Mapping[str, Split]
    volumes: tuple[PlannedVolume, ...]
    runs: tuple[PlannedPairs, ...]
    tables: tuple[Shards, ...]
    identifiers: frozenset[str] = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """Every file of the dataset, sorted."""
        found = ["README.md", "croissant.json", "splits.json", "provenance.json", CHECKSUMS]
        found += [path for table in self.tables for path in table.paths]
        found += [volume.path for volume in self.volumes]
        for run in self.runs:
            found += [run.path("aligned"), run.path("mask")]
            found.append(f"votes/{run.id}.parquet")
            if run.events:
                found.append(f"reviews/{run.id}.jsonl")
        return sorted(found)

    def describe(self) -> dict[str, Any]:
        """Return the plan for `--dry-run`, as JSON-able values.

        Returns
        -------
        dict
            ``files``, ``splits``, ``rows`` per table and split, ``fields`` (the columns and the
            header facts that leave), ``volumes``, ``runs``, ``warnings``, and what the card says.
        """
        return {
            "layout_version": LAYOUT_VERSION,
            "title": self.config.title,
            "repo": self.config.repo,
            "version": self.config.version,
            "license": self.config.license,
            "species": self.config.species,
            "human_statement": self.config.human_statement,
            "include_queued": self.config.include_queued,
            "splits": subjects_by_split(self.splits),
            "rows": {
                name: {t.split: sum(t.rows) for t in self.tables if t.config == name}
                for name in ("pairs", "slices_hr")
            },
            "fields": {
                "pairs": list(columns_of("pairs", preview=self.config.preview)),
                "slices_hr": list(columns_of("slices_hr", preview=self.config.preview)),
                "acquisition": sorted({name for v in self.volumes for name in v.facts}),
            },
            "volumes": [volume.describe() for volume in self.volumes],
            "runs": [run.describe() for run in self.runs],
            "files": self.files,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan with all that says whose it is."""

    record: ScanRecord
    selection: Mapping[str, int]
    names: frozenset[str]
    content: str
    intensity: IntensityMap | None = None

    @property
    def order(self) -> tuple[str, str]:
        """Sessions follow each other in time, where the header knows it."""
        return str(acquisition_date(self.record.readable().provenance.fields)), self.content


@dataclass(frozen=True, eq=False)
class _PairedRun:
    """A run with its scans, before anything has a public name."""

    run: Run
    plan: PairingPlan
    low: _Scan
    high: _Scan


def plan_export(
    runs: Sequence[Path], *, config: ExportConfig, pseudonyms: Pseudonyms | None = None
) -> ExportPlan:
    """Work out everything that will be written, from headers and tables alone.

    Parameters
    ----------
    runs : sequence of Path
        Run folders, reviewed or not.
    config : ExportConfig
        What to publish.
    pseudonyms : Pseudonyms, optional
        Instead of those of ``config.key``.

    Returns
    -------
    ExportPlan
        The same for the same scans, decisions and key, whatever the order of `runs`.

    Raises
    ------
    SplitError
        If a scan comes under two names, or a subject is in two splits.
    PrivacyError
        If the species is not known, or human data come without a statement.
    UsageError
        If there is nothing to publish, or two runs pair the same scans in the same plane.
    MissingInputError, ChecksumError, FormatError
        As `open_run` and `Run.source_path`.
    """
    if not runs and not config.hr_only:
        raise UsageError("nothing to export", hint="give run folders, or scans with --hr-only")
    names = pseudonyms or Pseudonyms.from_file(config.key or default_key_path())
    warnings: list[str] = []
    paired = [_read_run(path, config, warnings) for path in runs]
    alone = [scan for path in config.hr_only for scan in _scans_in(path, warnings)]
    scans = [scan for run in paired for scan in (run.low, run.high)] + alone
    _check_species(scans, config)
    subjects = _subjects(scans, names)
    volumes = _volumes(paired, alone, subjects, names, config)
    planned = tuple(_planned_pairs(run, volumes, config, warnings) for run in paired)
    planned = tuple(sorted(planned, key=lambda run: run.id))
    repeated = {run.id for run in planned if sum(run.id == other.id for other in planned) > 1}
    if repeated:
        raise UsageError(
            f"two runs pair the same scans in the same plane ({sorted(repeated)[0]})",
            hint="give one of them",
        )
    given = None if config.splits is None else _given_splits(config.splits, subjects)
    with_pairs = {run.low.subject for run in planned}
    splits, notes = assign_splits(
        with_pairs, {v.subject for v in volumes.values()} - with_pairs, given=given
    )
    in_order = tuple(
        sorted(volumes.values(), key=lambda v: (SPLITS.index(splits[v.subject]), v.id))
    )
    notes += [
        f"{run.run.path.name}: no pair is accepted or decided yet"
        for run in planned
        if not run.chosen
    ]
    return ExportPlan(
        config=config,
        pseudonyms=names,
        splits=splits,
        volumes=in_order,
        runs=planned,
        tables=tuple(_tables(in_order, planned, splits)),
        identifiers=frozenset(_identifiers(paired, scans, planned)),
        warnings=(*warnings, *notes),
    )


def _read_run(path: Path, config: ExportConfig, warnings: list[str]) -> _PairedRun:
    opened = open_run(path)
    plan = plan_of_run(opened, config.sources)
    scans = []
    for role, record, selection in (
        ("lr", plan.low, plan.low_selection),
        ("hr", plan.high, plan.high_selection),
    ):
        source = opened.provenance["sources"][role]
        files = [(file["bytes"], file["sha256"]) for file in source["files"]]
        name = record.readable().provenance.value("subject_id")
        scans.append(
            _Scan(
                record,
                selection,
                frozenset([str(name)] if name else []),
                _content(record, selection, files),
                IntensityMap(**source["intensity"]),
            )
        )
    low, high = scans
    together = low.names | high.names
    if not together:
        warnings.append(f"{path.name}: no header names the subject; it is taken for one of its own")
        together = frozenset([f"run {path.name}"])
    # A run is about one animal, whatever its two headers call it.
    low, high = (
        _Scan(s.record, s.selection, together, s.content, s.intensity) for s in (low, high)
    )
    return _PairedRun(opened, plan, low, high)


def _scans_in(path: Path, warnings: list[str]) -> Iterator[_Scan]:
    record, selection = ingest.select(ingest.discover(path), option="--hr-only")
    provenance = record.readable().provenance
    name = provenance.value("subject_id")
    if not name:
        warnings.append(f"{path.name}: the header names no subject; its own file name is used")
        name = f"file {path.name}"
    files = [(file.stat().st_size, sha256_file(file)) for file in provenance.files]
    yield _Scan(record, selection, frozenset([str(name)]), _content(record, selection, files))


def _content(
    record: ScanRecord, selection: Mapping[str, int], files: Sequence[tuple[int, str]]
) -> str:
    """Return what a scan is, whatever it is called: the file of its voxels, and its part."""
    header = record.readable()
    inside = split_archive(record.path)
    part = [
        "" if inside is None else inside[1].as_posix(),
        header.package,
        sorted(selection.items()),
    ]
    return hashlib.sha256(f"{max(files)[1]} {json.dumps(part)}".encode()).hexdigest()


def _check_species(scans: Sequence[_Scan], config: ExportConfig) -> None:
    kinds = {s.record.readable().provenance.value("subject_type") for s in scans}
    words = (config.species or "").lower()
    human = bool(kinds & set(_HUMANS)) or words in ("human", "homo sapiens")
    if config.species is None and (human or not kinds <= set(_ANIMALS)):
        found = sorted(str(kind) for kind in kinds - set(_ANIMALS))
        raise PrivacyError(
            f"whose scans are these? The headers say {', '.join(found) or 'nothing'}",
            hint="say --species 'Mus musculus', or what it is",
        )
    if human and not config.human_statement:
        raise PrivacyError(
            "human scans leave only with a statement about consent and faces",
            hint="--human-statement 'Participants consented to open publication under …; faces "
            "were removed with …'. A head scan without defacing or brain extraction shows a face",
        )


def _subjects(scans: Sequence[_Scan], pseudonyms: Pseudonyms) -> dict[str, str]:
    """Name to pseudonym; names that share a run are one subject."""
    groups: list[set[str]] = []
    for scan in scans:
        touching = [group for group in groups if group & scan.names]
        groups = [group for group in groups if not group & scan.names]
        groups.append(set(scan.names).union(*touching))
    subjects = {name: pseudonyms.subject(min(group)) for group in groups for name in group}
    owner: dict[str, str] = {}
    for scan in scans:
        name = min(scan.names)
        first = owner.setdefault(scan.content, name)
        if subjects[first] != subjects[name]:
            raise SplitError(
                f"the same scan comes under two names, {first!r} and {name!r} ({scan.record.path})",
                hint="a subject must not be in two splits: leave one of them out",
            )
    return subjects


def _volumes(
    paired: Sequence[_PairedRun],
    alone: Sequence[_Scan],
    subjects: Mapping[str, str],
    pseudonyms: Pseudonyms,
    config: ExportConfig,
) -> dict[str, PlannedVolume]:
    """Give every scan a session and a public name: one session for each HR scan."""
    high = {scan.content: scan for scan in [*alone, *(run.high for run in paired)]}
    low: dict[str, list[_Scan]] = defaultdict(list)
    seen = set(high)
    for run in sorted(paired, key=lambda run: (*run.high.order, *run.low.order)):
        if run.low.content not in seen:
            seen.add(run.low.content)
            low[run.high.content].append(run.low)
    stacks: dict[str, dict[Plane, tuple[StackFrame, Window]]] = defaultdict(dict)
    for run in paired:
        settings = run.plan.config
        frame = run.plan.high_frame
        stacks[run.high.content][settings.plane] = _stack(frame, settings.trim)
    styles = {run.plan.config.plane: run.plan.config.trim for run in paired}
    for scan in alone:
        header = scan.record.readable()
        for plane, trim in (styles or {config.plane: config.trim}).items():
            frame = stack_frame(header.affine, header.shape, plane)
            stacks[scan.content].setdefault(plane, _stack(frame, trim))
    sessions: dict[str, list[_Scan]] = defaultdict(list)
    for scan in sorted(high.values(), key=lambda scan: scan.order):
        sessions[subjects[min(scan.names)]].append(scan)
    volumes = {}
    for subject, scans in sessions.items():
        for number, scan in enumerate(scans, start=1):
            parts = [("hr", scan)]
            for n, other in enumerate(low[scan.content]):
                parts.append((f"lr{n + 1}" if n else "lr", other))
            for label, part in parts:
                volumes[part.content] = PlannedVolume(
                    id=f"{subject}_{number:02d}_{label}",
                    subject=subject,
                    session=f"{number:02d}",
                    role=label[:2],
                    record=part.record,
                    selection=part.selection,
                    facts=_facts(part, pseudonyms, config),
                    source=pseudonyms.digest("scan", part.content),
                    intensity=part.intensity,
                    stacks=stacks[part.content] if label == "hr" else {},
                )
    return volumes


def _facts(scan: _Scan, pseudonyms: Pseudonyms, config: ExportConfig) -> dict[str, Any]:
    fields = scan.record.readable().provenance.fields
    facts, day = public_fields(fields), acquisition_date(fields)
    if config.dates == "shift" and day is not None:
        facts["shifted_date"] = pseudonyms.shifted(day, min(scan.names)).isoformat()
    return facts


def _stack(frame: StackFrame, trim: Trim) -> tuple[StackFrame, Window]:
    n_slices, n_rows, n_cols = frame.shape
    whole = Window((0, n_slices), (0, n_rows), (0, n_cols))
    return frame, trim_window(whole, frame, trim, name="HR")


def _planned_pairs(
    found: _PairedRun,
    volumes: Mapping[str, PlannedVolume],
    config: ExportConfig,
    warnings: list[str],
) -> PlannedPairs:
    low, high = volumes[found.low.content], volumes[found.high.content]
    path = found.run.path
    pairs = read_pairs(path)
    events: tuple[Event, ...] = ()
    if (path / REVIEW_DATABASE).is_file():
        with ReviewStore.open(path).frozen() as (logged, verdicts):
            spacing_um = float(found.run.summary["hr"]["slice_spacing_um"])
            pairs, events = merge_verdicts(pairs, verdicts, spacing_um), tuple(logged)
    leave = {"auto", "decided", *(["review"] if config.include_queued else [])}
    chosen = tuple(int(row) for row in np.flatnonzero(pairs["status"].isin(leave)))
    queued = int((pairs["status"] == "review").sum())
    if queued:
        what = "leave, too" if config.include_queued else "stay behind"
        warnings.append(f"{path.name}: {queued} undecided pairs {what}")
    link = "" if low.id.startswith(high.id.removesuffix("hr")) else f"_with_{high.id}"
    return PlannedPairs(
        id=f"{low.id}{link}_{found.plan.config.plane}",
        run=found.run,
        plan=found.plan,
        low=low,
        high=high,
        pairs=pairs,
        events=events,
        chosen=chosen,
    )


def _given_splits(path: Path, subjects: Mapping[str, str]) -> dict[str, Split]:
    given: dict[str, Split] = {}
    for name, split in read_splits(path).items():
        # An earlier splits.json has pseudonyms; one's own making has the scanner's names.
        pseudonym = subjects.get(name, name)
        if given.setdefault(pseudonym, split) != split:
            raise SplitError(f"{path}: one subject, as {name!r}, is in two splits")
    return given


def _tables(
    volumes: Sequence[PlannedVolume], runs: Sequence[PlannedPairs], splits: Mapping[str, Split]
) -> Iterator[Shards]:
    rows: dict[tuple[ConfigName, Split], list[tuple[int, int]]] = defaultdict(list)
    for run in runs:
        pixels = (
            int(np.prod(run.plan.low_window.shape[1:]))
            + int(np.prod(run.plan.high_window.shape[1:]))
            + int(np.prod(run.aligned_shape))
        )
        rows["pairs", splits[run.low.subject]].append((len(run.chosen), 2 * pixels))
    for volume in volumes:
        for _, window in volume.stacks.values():
            n_slices, n_rows, n_cols = window.shape
            rows["slices_hr", splits[volume.subject]].append((n_slices, 2 * n_rows * n_cols))
    for (config, split), parts in sorted(rows.items()):
        count = sum(n for n, _ in parts)
        if not count:
            continue
        most = max(size for _, size in parts)
        per_shard = max(1, _SHARD_BYTES // most)
        n_shards = -(-count // per_shard)
        edges = np.linspace(0, count, n_shards + 1).astype(int)
        yield Shards(
            config,
            split,
            tuple(int(n) for n in np.diff(edges)),
            min(_GROUP_ROWS, max(1, _GROUP_BYTES // most)),
        )


def _identifiers(
    paired: Sequence[_PairedRun], scans: Sequence[_Scan], planned: Sequence[PlannedPairs]
) -> Iterator[str]:
    """Names that the scans, their places and the review know, long enough to mean something."""
    for scan in scans:
        yield from (name for name in scan.names if len(name) > 3)
        yield str(scan.record.path.resolve().parent)
    yield from (str(run.run.path.resolve()) for run in paired)
    for event in (event for run in planned for event in run.events):
        yield from (text for text in (event.reviewer, event.note) if len(text) > 3)


def subjects_by_split(splits: Mapping[str, Split]) -> dict[str, list[str]]:
    """Return the subjects of every split.

    Parameters
    ----------
    splits : mapping of str to Split
        Split of each subject.

    Returns
    -------
    dict
        Sorted; a split may be empty.
    """
    return {split: sorted(s for s, own in splits.items() if own == split) for split in SPLITS}
