"""Command line of srmri: parse, call one function, print.

Exit codes are mapped in `_Group.invoke`, nowhere else. Heavy modules are
imported inside the commands, so that ``srmri --help`` answers at once.
"""

from __future__ import annotations

import functools
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_type_hints

import typer
from rich.console import Console
from typer.core import TyperGroup

from srmri_data.choices import (
    Acquisition,
    AnatomicalSuffix,
    DateRule,
    Decay,
    Engine,
    Estimate,
    Gated,
    Grid,
    HeldOut,
    Method,
    OperatorKind,
    OptimiserName,
    OutputFormat,
    OutputType,
    Plane,
    Precision,
    RegistrationMetric,
    SamplerName,
    SlicePlanes,
    SubjectPosition,
    SubjectType,
    SupervisedName,
    SupervisedPreset,
    TrainableModel,
    TrainingPlane,
)
from srmri_data.errors import ExitCode, SrmriError, UsageError

if TYPE_CHECKING:
    from srmri_data.export import ExportConfig
    from srmri_data.mapping import Problem
    from srmri_data.planning import PairingConfig, PairingPlan, ScanRequest, Selected
    from srmri_data.push_plan import PushConfig
    from srmri_model.train import Status as TrainingStatus
    from srmri_model.training.config import TrainConfig
    from srmri_model.training.supervised_config import SupervisedConfig

    HubOptions = dict[str, Any]
    FindScans = Callable[[], tuple[Selected, Selected]]

EXIT_CODES = (
    "Exit codes: 0 done · 1 bug · 2 usage · 3 bad input · 4 some subjects failed · "
    "5 review needed (--fail-on-queue) · 6 hub or sign-in · 130 interrupted"
)


class _Group(TyperGroup):
    """The one place where errors become messages and exit codes."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        # A page of names needs no panels, and loading what draws them takes as long as all else.
        super(TyperGroup, self).format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SrmriError as error:
            console = _stderr()
            console.print(f"error: {error.message}", style="bold red", markup=False)
            if error.hint:
                console.print(f"hint:  {error.hint}", style="yellow", markup=False)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _stderr().print("interrupted; nothing was left half written", style="yellow")
            raise typer.Exit(ExitCode.INTERRUPTED) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)


def main() -> None:
    """Run the command line; the console script's entry point."""
    # A polite kill ends like Ctrl-C: what was being written is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for stream in (sys.stdout, sys.stderr):
        # A terminal without µ or × gets a question mark, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


def _stderr() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show stages as bars on stderr; yields ``progress(stage, done, total)``."""
    with _bars(quiet) as (step, _):
        yield step


@contextmanager
def _bars(quiet: bool) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[], None]]]:
    """Show stages as `_progress` does; yields what ends the bars, too."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_stderr(), disable=quiet) as bars:
        tasks: dict[str, Any] = {}

        def step(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield step, bars.stop


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output of this command.")]
Type = Annotated[
    SubjectType | None,
    typer.Option(help="Kind of subject, if not as declared.", rich_help_panel="Header corrections"),
]
Position = Annotated[
    SubjectPosition | None,
    typer.Option(help="How it lay, if not as declared.", rich_help_panel="Header corrections"),
]


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"srmri {version('srmri')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pair MRI scans of one animal at two resolutions, slice by slice.

    Start with `srmri demo`, the whole way on a built-in mouse brain; then, on your own
    scans, `srmri inspect STUDY` and `srmri pair --lr STUDY/7 --hr STUDY/8`.
    """


@app.command(
    epilog="Examples: srmri inspect 20240105_mouse.zip · srmri inspect STUDY/8/pdata/2 --json"
)
def inspect(
    path: Annotated[Path, typer.Argument(help="Study, scan, pdata/N, zip, image file or folder.")],
    json_output: Json = False,
    subject_type: Type = None,
    subject_position: Position = None,
) -> None:
    """List the scans in a place: geometry, slices per plane, likely role, problems.

    A bad scan is listed with its reason. Exit code 0 when any scan is listed, 3 when none is found.
    """
    from srmri_data import ingest

    records = ingest.discover(path, subject_type=subject_type, subject_position=subject_position)
    if json_output:
        _print_json({"path": str(path), "scans": [record.to_json() for record in records]})
        return
    _print_scans([record.to_json() for record in records])


def _print_scans(scans: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for facts in scans:
        title = Text(_scan_name(facts), style="bold")
        if facts["role"]:
            colour = "green" if facts["role"] == "HR" else "cyan"
            title.append(f"  likely {facts['role']}", style=f"bold {colour}")
        console.print(title)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in _scan_facts(facts):
            table.add_row("  " + label, Text(value))
        for problem in facts["problems"]:
            table.add_row("  problem", Text(problem, style="yellow"))
        console.print(table)
    readable = sum(facts["readable"] for facts in scans)
    console.print(f"{len(scans)} images listed, {readable} readable", style="dim")


def _scan_name(facts: dict[str, Any]) -> str:
    numbers = [f"{name} {facts[name]}" for name in ("scan", "reco") if facts.get(name) is not None]
    if facts.get("packages", 1) > 1:
        numbers.append(f"package {facts['package']}")
    method = facts.get("method")
    return " · ".join([*(numbers or [Path(facts["path"]).name]), *([method] if method else [])])


def _scan_facts(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if facts.get("matrix"):
        yield (
            "voxels",
            " × ".join(str(n) for n in facts["matrix"])
            + "  of  "
            + " × ".join(f"{mm:.4g}" for mm in facts["spacing"])
            + f" mm  {facts['orientation']}",
        )
        for name, size in (facts.get("frame_groups") or {}).items():
            yield "frames", f"{name} 1…{size}"
        yield "stored as", f"{facts['dtype']}, slopes {facts['slopes']}"
        sizes = [
            f"{plane} {size['count']} of {size['rows']}×{size['cols']}"
            for plane, size in facts["planes"].items()
        ]
        yield "slices", "   ".join(sizes[:2]) + "\n" + "   ".join(sizes[2:])
    subject = [
        str(facts[name])
        for name in ("subject_id", "subject_type", "subject_position")
        if facts.get(name)
    ]
    if subject:
        yield "subject", " · ".join(subject)


def _frame(pairs: list[str]) -> dict[str, int]:
    selection = {}
    for text in pairs:
        name, _, number = text.partition("=")
        if not name or not number.isdigit() or int(number) < 1:
            raise UsageError(
                f"frame {text!r} is not of the form NAME=NUMBER, counted from 1",
                hint="for instance --lr-frame echo=1",
            )
        selection[name.lower()] = int(number)
    return selection


def _scan_option(role: str, what: str) -> Any:
    return typer.Option(
        f"--{role}-{what}",
        metavar="N",
        help=f"{what.capitalize()} number of the {role.upper()} scan.",
        rich_help_panel="Choosing the scans",
    )


def _frame_option(role: str) -> Any:
    return typer.Option(
        f"--{role}-frame",
        metavar="NAME=N",
        help="Frame of a frame group, counted from 1: echo=1. Repeatable.",
        rich_help_panel="Choosing the scans",
    )


def _pairing_config(
    plane: Annotated[
        Plane,
        typer.Option(help="Plane of the slices; 'acquired' is the stored slice axis."),
    ] = "coronal",
    trim: Annotated[
        str,
        typer.Option(help="Leave out at each end: slices per volume, or a length (0.375mm)."),
    ] = "15",
    voters: Annotated[
        str, typer.Option(help="Comma-separated: pca, lpips, ssim.")
    ] = "pca,lpips,ssim",
    method: Annotated[
        Method,
        typer.Option(
            help="'geometry': register, then vote on aligned slices as a check. "
            "'paper': most votes on unaligned slices; ties go to review."
        ),
    ] = "geometry",
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            help="HR slices a vote may lie from the registration and still agree.",
            rich_help_panel="Method geometry",
        ),
    ] = 1.0,
    window: Annotated[
        float,
        typer.Option(
            help="How far the animal may have moved from where the headers put it, mm.",
            rich_help_panel="Method geometry",
        ),
    ] = 1.0,
    metric: Annotated[
        RegistrationMetric,
        typer.Option(
            help="What the registration compares images by.", rich_help_panel="Method geometry"
        ),
    ] = "auto",
    starts: Annotated[
        int,
        typer.Option(
            min=1,
            help="Perturbed starts of the registration.",
            rich_help_panel="Method geometry",
        ),
    ] = 6,
    skip: Annotated[
        str,
        typer.Option(
            help="Comma-separated stages to leave out: register, match, gain, path.",
            rich_help_panel="Method geometry",
        ),
    ] = "",
    allow_subject_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-subject-mismatch",
            help="Go on when the headers name different subjects.",
            rich_help_panel="Header corrections",
        ),
    ] = False,
    pca_components: Annotated[
        int | None,
        typer.Option(
            min=1, help="Components PCA keeps. Default: min(50, n - 1).", rich_help_panel="Voters"
        ),
    ] = None,
    lpips_trunk: Annotated[
        Path | None,
        typer.Option(
            envvar="SRMRI_LPIPS_TRUNK",
            help="AlexNet weights for LPIPS.",
            rich_help_panel="Voters",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
) -> PairingConfig:
    """Read the options that decide how two volumes are paired."""
    from srmri_data.planning import PairingConfig
    from srmri_data.slices import Trim

    return PairingConfig(
        method=method,
        plane=plane,
        trim=Trim.parse(trim),
        voters=tuple(name.strip().lower() for name in voters.split(",")),
        pca_components=pca_components,
        lpips_trunk=lpips_trunk,
        allow_subject_mismatch=allow_subject_mismatch,
        tolerance=tolerance,
        window_mm=window,
        metric=metric,
        n_starts=starts,
        skip=tuple(name.strip() for name in skip.split(",") if name.strip()),
        seed=seed,
    )


def _chosen_scans(
    lr: Annotated[
        Path | None,
        typer.Option(help="LR scan: study, scan, pdata/N, zip or image file."),
    ] = None,
    hr: Annotated[
        Path | None,
        typer.Option(help="HR scan: study, scan, pdata/N, zip or image file."),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(help="One study that holds both; the roles are proposed."),
    ] = None,
    lr_scan: Annotated[int | None, _scan_option("lr", "scan")] = None,
    lr_reco: Annotated[int | None, _scan_option("lr", "reco")] = None,
    lr_package: Annotated[int | None, _scan_option("lr", "package")] = None,
    lr_frame: Annotated[list[str] | None, _frame_option("lr")] = None,
    hr_scan: Annotated[int | None, _scan_option("hr", "scan")] = None,
    hr_reco: Annotated[int | None, _scan_option("hr", "reco")] = None,
    hr_package: Annotated[int | None, _scan_option("hr", "package")] = None,
    hr_frame: Annotated[list[str] | None, _frame_option("hr")] = None,
    subject_type: Type = None,
    lr_subject_position: Position = None,
    hr_subject_position: Position = None,
) -> FindScans:
    """Read the options that say which scans are meant; they are looked for when it is called."""
    from srmri_data.planning import ScanRequest, find_scans

    if study is not None and (lr is not None or hr is not None):
        raise UsageError("--study takes both scans from one study; leave out --lr and --hr")

    def request(
        path: Path | None,
        numbers: tuple[int | None, int | None, int | None],
        frame: list[str] | None,
        position: SubjectPosition | None,
    ) -> ScanRequest | None:
        if path is None:
            return None
        scan, reco, package = numbers
        return ScanRequest(path, scan, reco, package, _frame(frame or []), subject_type, position)

    low = request(lr or study, (lr_scan, lr_reco, lr_package), lr_frame, lr_subject_position)
    high = request(hr or study, (hr_scan, hr_reco, hr_package), hr_frame, hr_subject_position)
    return functools.partial(find_scans, low, high, propose=study is not None)


def _with_options(**readers: Callable[..., Any]) -> Callable[..., Callable[..., None]]:
    """Give a command the options of other functions in place of the parameters so named."""

    def parameters(function: Callable[..., Any]) -> list[Parameter]:
        # Only the annotations that become options have to exist at run time.
        absent = dict.fromkeys(("PairingConfig", "FindScans", "ExportConfig", "HubOptions"), object)
        hints = get_type_hints(function, localns=absent, include_extras=True)
        return [
            parameter.replace(annotation=hints[name])
            for name, parameter in signature(function).parameters.items()
        ]

    shared = {name: parameters(reader) for name, reader in readers.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_read(**values: Any) -> None:
            read = {
                name: readers[name](**{option.name: values.pop(option.name) for option in options})
                for name, options in shared.items()
            }
            command(**read, **values)

        merged: list[Parameter] = []
        for parameter in parameters(command):
            merged += shared.get(parameter.name, [parameter])
        merged = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in merged]
        with_read.__signature__ = Signature(merged)  # type: ignore[attr-defined]
        with_read.__annotations__ = {option.name: option.annotation for option in merged}
        return with_read

    return decorate


@app.command(
    epilog="Examples: srmri pair --lr STUDY/7 --hr STUDY/8 · "
    "srmri pair --study STUDY --plane acquired · "
    "srmri pair --lr lr.nii.gz --hr hr.nii.gz --trim 0 --json"
)
@_with_options(scans=_chosen_scans, config=_pairing_config)
def pair(
    *,
    scans: FindScans,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: pairing_reports/NAME.")
    ] = None,
    config: PairingConfig,
    truth: Annotated[
        Path | None, typer.Option(help="truth.json of a simulated LR scan: adds accuracy.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, write nothing.")
    ] = False,
    fail_on_queue: Annotated[
        bool, typer.Option("--fail-on-queue", help="Exit 5 when pairs wait for review.")
    ] = False,
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the HR slice that shows the same anatomy as each LR slice.

    Writes a run folder: pairs.csv and .parquet, votes, HR resliced on LR's planes, provenance,
    and a report, index.html. Pairs the voters disagree on are queued for review.
    """
    from srmri_data.planning import plan_pairing

    plan = plan_pairing(*scans(), config)
    out = out or Path("pairing_reports") / plan.run_name
    known = None
    if truth is not None:
        from srmri_data.simulate import read_truth

        known = read_truth(truth)
    if dry_run:
        _print_plan(plan, out, json_output=json_output)
        return
    # Imported when the headers have passed: bad input is refused at once.
    from srmri_data.pairing import run_pairing

    with _progress(quiet) as progress:
        summary = run_pairing(
            plan,
            out,
            truth=known,
            force=force,
            command=["srmri", *sys.argv[1:]],
            progress=progress,
        )
    if json_output:
        _print_json(summary)
    else:
        _print_summary(summary, out)
    if fail_on_queue and summary["queued"]:
        raise typer.Exit(ExitCode.REVIEW_NEEDED)


def _print_plan(plan: PairingPlan, out: Path, *, json_output: bool) -> None:
    description = plan.describe()
    if json_output:
        _print_json({"out": str(out), **description})
        return
    console = Console(highlight=False)
    console.print(
        f"would pair {description['n_lr']} LR with {description['n_hr']} HR slices "
        f"({plan.config.plane}) into {out}",
        style="bold",
        markup=False,
    )
    _print_checks(console, description["checks"])


def _print_checks(console: Console, checks: list[dict[str, str]]) -> None:
    for check in checks:
        mark, style = ("ok  ", "green") if check["level"] == "ok" else ("note", "yellow")
        console.print(f"  [{style}]{mark}[/] {check['name']}: ", end="")
        console.print(check["text"], markup=False, soft_wrap=True)


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    console = Console(highlight=False)
    console.print(
        f"{summary['n_pairs']} of {summary['n_lr']} slices paired, {summary['queued']} "
        f"queued for review  ({summary['seconds']:.1f} s)",
        style="bold",
        markup=False,
    )
    _print_checks(console, summary["checks"])
    if "exact" in summary:
        console.print(
            f"  against the truth: exact {summary['exact']:.1%}, mean error "
            f"{summary['mae_slices']:.2f} slices ({summary['mae_um']:.0f} µm), "
            f"{summary['blunders']} blunders, {summary['wrongly_accepted']} wrongly accepted",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"report: {out / 'index.html'}", markup=False, soft_wrap=True)


def _slurm(help_text: str, **limits: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel="SLURM (--engine slurm)", **limits)


@app.command(
    "pair-all",
    epilog="Examples: srmri pair-all STUDIES --dry-run · srmri pair-all mapping.tsv --workers 4 · "
    "srmri pair-all mapping.tsv --engine slurm --slurm-partition gpu · "
    "srmri pair-all pairing_reports/mapping --status",
)
@_with_options(config=_pairing_config)
def pair_all(
    *,
    source: Annotated[
        Path,
        typer.Argument(
            help="mapping.tsv, BIDS dataset or tree of studies; with --status a cohort's folder."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the cohort. Default: pairing_reports/NAME.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=1, help="Subjects at a time, on this computer.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of each worker. Default: processors / workers."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="Work on the K-th of N equal shares only.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and write mapping.tsv to edit.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show how far a cohort is; do nothing.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed, though unchanged.")
    ] = False,
    fail_on_queue: Annotated[
        bool, typer.Option("--fail-on-queue", help="Exit 5 when pairs wait for review.")
    ] = False,
    config: PairingConfig,
    subject_type: Type = None,
    lr_subject_position: Position = None,
    hr_subject_position: Position = None,
    engine: Annotated[
        Engine,
        typer.Option(
            help="Local processes, SLURM job arrays, or the same path as SLURM on this computer."
        ),
    ] = "local",
    slurm_partition: Annotated[str | None, _slurm("Partition.")] = None,
    slurm_time: Annotated[int, _slurm("Minutes per subject.", min=1)] = 60,
    slurm_mem: Annotated[float, _slurm("GB per array task.", min=0.1)] = 8.0,
    slurm_cpus: Annotated[int, _slurm("Processors per array task.", min=1)] = 1,
    slurm_parallel: Annotated[int, _slurm("Array tasks at a time.", min=1)] = 32,
    slurm_subjects: Annotated[
        int, _slurm("Subjects per array task, one after another.", min=1)
    ] = 1,
    slurm_option: Annotated[
        list[str] | None, _slurm("Any other sbatch option, as account=NAME. Repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Pair everything again.")] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pair many subjects, and report on all of them.

    Subjects, sessions and roles come from a table, from BIDS names or from the headers; what is
    not clear is listed and left out. What is done and unchanged is skipped, so the same command
    continues an interrupted run. Exit code 4 names the subjects that were left out or failed.
    """
    from srmri_data import cohort as cohorts
    from srmri_data.discovery import open_cohort
    from srmri_data.jobs import Shard
    from srmri_data.mapping import Corrections

    if status:
        out = out or cohorts.default_folder(source)
        document = cohorts.refresh(out)
        if json_output:
            _print_json(document)
        else:
            _print_cohort(document, out)
        return
    share = None if shard is None else Shard.parse(shard)
    cluster = None
    if engine != "local":
        from srmri_data.cluster import ClusterOptions

        cluster = ClusterOptions(
            engine="slurm" if engine == "slurm" else "local",
            partition=slurm_partition,
            minutes=slurm_time,
            memory_gb=slurm_mem,
            processors=slurm_cpus,
            parallel=slurm_parallel,
            units_per_task=slurm_subjects,
            extra=_settings(slurm_option or []),
        )
    out = out or cohorts.default_folder(source)
    corrections = Corrections(subject_type, lr_subject_position, hr_subject_position)
    cohort = open_cohort(source, leave_out=[out], corrections=corrections)
    if dry_run:
        table = cohorts.propose_mapping(cohort, out, force=force)
        preview = cohorts.preview(cohort, config)
        _print_preview(cohort.problems, preview, table, json_output=json_output)
        if cohort.problems or any(row["error"] for row in preview):
            raise typer.Exit(ExitCode.PARTIAL)
        return
    with _progress(quiet) as progress:
        document = cohorts.run_cohort(
            cohort,
            out,
            config,
            shard=share,
            workers=workers,
            threads=threads,
            cluster=cluster,
            retry_failed=retry_failed,
            force=force,
            command=["srmri", *sys.argv[1:]],
            progress=progress,
        )
    if json_output:
        _print_json(document)
    else:
        _print_cohort(document, out)
        if unchanged := document["this_run"]["unchanged"]:
            typer.echo(f"{len(unchanged)} unchanged since they were last tried, left as they are")
        typer.echo(f"report: {out / 'index.html'}")
    if document["this_run"]["not_done"] or cohort.problems:
        raise typer.Exit(ExitCode.PARTIAL)
    if fail_on_queue and document["counts"]["queued"]:
        raise typer.Exit(ExitCode.REVIEW_NEEDED)


def _settings(pairs: list[str], option: str = "--slurm-option") -> dict[str, str]:
    settings = {}
    for text in pairs:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{option} {text!r} is not of the form NAME=VALUE")
        settings[name.lstrip("-").replace("-", "_")] = value
    return settings


def _table(*columns: tuple[str, str]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _print_preview(
    problems: Sequence[Problem],
    preview: list[dict[str, Any]],
    mapping: Path | None,
    *,
    json_output: bool,
) -> None:
    if json_output:
        left_out = [{"where": problem.where, "reason": problem.reason} for problem in problems]
        _print_json({"mapping": mapping and str(mapping), "units": preview, "problems": left_out})
        return
    from rich.text import Text

    table = _table(
        ("unit", "left"), ("LR", "left"), ("HR", "left"), ("slices", "left"), ("", "left")
    )
    for row in preview:
        wrong = row["error"]
        note = wrong["message"] if wrong else "; ".join(row["warnings"])
        table.add_row(
            Text(row["unit"], style="bold"),
            Text(row["lr"]),
            Text(row["hr"]),
            f"{row['n_lr']} × {row['n_hr']}" if not wrong else "",
            Text(note, style="red" if wrong else "yellow"),
        )
    console = Console(highlight=False)
    console.print(table)
    for source in sorted({text for row in preview for text in _sources(row)}):
        console.print("  " + source, style="dim", markup=False)
    _print_problems(console, problems)
    fine = sum(row["error"] is None for row in preview)
    console.print(f"{fine} can be paired, {len(preview) - fine + len(problems)} can not")
    if mapping is not None:
        console.print(
            f"table to edit: {mapping}, then: srmri pair-all {mapping}",
            markup=False,
            soft_wrap=True,
        )


def _sources(row: dict[str, Any]) -> Iterator[str]:
    for name, text in row["sources"].items():
        yield f"{name} from {text}" if name != "proposed" else text


def _print_problems(console: Console, problems: Sequence[Problem]) -> None:
    for problem in problems:
        console.print(f"left out: {problem.where}: ", style="yellow", markup=False, end="")
        console.print(problem.reason, markup=False, soft_wrap=True)


def _print_cohort(document: dict[str, Any], out: Path) -> None:
    from rich.text import Text

    from srmri_data.mapping import Problem

    styles = {"done": "green", "failed": "red"}
    table = _table(
        ("unit", "left"),
        ("state", "left"),
        ("paired", "right"),
        ("queued", "right"),
        ("seconds", "right"),
        ("", "left"),
    )
    for row in document["units"]:
        known = row["run"] is not None
        note = row["error"]["message"] if row["error"] else ""
        if row["outlier_in"]:
            note = "unusual: " + ", ".join(row["outlier_in"])
        table.add_row(
            Text(row["unit"], style="bold"),
            Text(row["state"], style=styles.get(row["state"], "yellow")),
            f"{row['n_pairs']} of {row['n_lr']}" if known else "",
            str(row["queued"]) if known else "",
            f"{row['seconds']:.0f}" if known else "",
            Text(note, style="red" if row["error"] else "yellow"),
        )
    console = Console(highlight=False)
    console.print(table)
    _print_problems(console, [Problem(p["where"], p["reason"]) for p in document["problems"]])
    counts = document["counts"]
    words = [f"{counts['done']} of {counts['units']} paired in {out}"]
    words += [
        f"{counts[name]} {name.replace('_', ' ')}"
        for name in ("failed", "running", "interrupted", "waiting", "left_out")
        if counts[name]
    ]
    console.print(", ".join(words), style="bold", markup=False, soft_wrap=True)


@app.command(
    epilog="Examples: srmri certify pairing_reports/m01 · "
    "srmri certify --lr STUDY/7 --hr STUDY/8 --runs 5 --out certificate"
)
@_with_options(scans=_chosen_scans, config=_pairing_config)
def certify(
    *,
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Argument(help="Run folder: its scans and settings are used.")
    ] = None,
    scans: FindScans,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder, without RUN. Default: pairing_reports/NAME_certificate."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Simulated scans for each of the cases.")] = 3,
    sources: Annotated[
        Path | None,
        typer.Option(help="With RUN: folder that holds the scans now, when they have moved."),
    ] = None,
    config: PairingConfig,
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how accurate pairing is on scans like yours.

    Simulates LR scans with known truth from your own HR scan, with the motion and noise of your
    own pair, pairs them, and writes certificate.json. With RUN it goes into that run's report.
    """
    given = _given(context)
    if "method" in given:
        raise UsageError("a certificate compares both methods; leave out --method")
    if run is not None:
        # What a run says itself is refused, not left unheard.
        own = {"run", "runs", "seed", "sources", "force", "json_output", "quiet"}
        for name in given - own:
            raise UsageError(
                f"a run brings its own scans and settings; leave out --{name.replace('_', '-')}",
                hint="or leave out the run, and give --lr and --hr",
            )
        from srmri_data.certify import certify_run

        with _progress(quiet) as progress:
            certificate = certify_run(
                run, sources=sources, n_runs=runs, seed=config.seed, progress=progress
            )
        out = run
    else:
        if sources is not None:
            raise UsageError("--sources finds the scans of a RUN; give --lr and --hr themselves")
        from srmri_data.planning import plan_pairing

        plan = plan_pairing(*scans(), config)
        out = out or Path("pairing_reports") / f"{plan.run_name}_certificate"
        # Imported when the headers have passed: bad input is refused at once.
        from srmri_data.certify import certify_pair

        with _progress(quiet) as progress:
            certificate = certify_pair(
                plan, out, n_runs=runs, seed=config.seed, force=force, progress=progress
            )
    if json_output:
        _print_json(certificate)
    else:
        _print_certificate(certificate, out / "certificate.json")


def _given(context: typer.Context) -> set[str]:
    """Options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _print_certificate(certificate: dict[str, Any], path: Path) -> None:
    from rich.table import Table

    console = Console(highlight=False)
    motion = certificate["motion"]
    far = sum(value**2 for value in motion["shift_um"]) ** 0.5
    turn = sum(value**2 for value in motion["tilt_deg"]) ** 0.5
    console.print(
        f"{certificate['n_runs']} simulated scans per case, like yours: moved {far:.0f} µm, "
        f"turned {turn:.1f}°, SNR {certificate['snr']:.0f}  ({certificate['seconds']:.1f} s)",
        style="bold",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("case", no_wrap=True)
    for name in ("exact", "error", "p95", "blunders", "accepted", "wrong"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in certificate["cases"]:
        is_ours = row["method"] == "geometry"
        table.add_row(
            row["title"] if is_ours else "  paper's vote",
            f"{row['exact']:.1%}",
            f"{row['mae_slices']:.2f} ({row['mae_um']:.0f} µm)",
            f"{row['p95_slices']:.2f} ({row['p95_um']:.0f} µm)",
            str(row["blunders"]),
            f"{row['accepted']:.0%}",
            str(row["wrongly_accepted"]),
            style=None if is_ours else "dim",
        )
    console.print(table)
    console.print(
        "error and p95 in HR slices; wrong: accepted and off by more than one; the confidence "
        f"is off by {certificate['ece']:.1%} on average (expected calibration error)",
        style="dim",
        soft_wrap=True,
    )
    for note in certificate["notes"]:
        console.print("  [yellow]note[/] ", end="")
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"certificate: {path}", markup=False, soft_wrap=True)


@app.command(epilog="Example: srmri report pairing_reports/m01 --sources /archive/2024")
def report(
    run: Annotated[Path, typer.Argument(help="Run folder written by srmri pair.")],
    sources: Annotated[
        Path | None, typer.Option(help="Folder that holds the scans now, when they have moved.")
    ] = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw the report of a run again, from its tables and its scans.

    The scans are found at their recorded place or under --sources, and their SHA-256 is checked.
    """
    from srmri_data.pairing import redraw_report

    with _progress(quiet) as progress:
        page = redraw_report(run, sources=sources, progress=progress)
    if json_output:
        _print_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")


@app.command(
    epilog="Examples: srmri review pairing_reports/m01 · srmri review RUN --list · "
    "srmri review RUN --decide 41=83 --reviewer ann --confidence 3 · srmri review RUN --export"
)
def review(
    run: Annotated[Path, typer.Argument(help="Run folder written by srmri pair.")],
    show_list: Annotated[
        bool, typer.Option("--list", help="List the queue and what was answered.")
    ] = False,
    export: Annotated[
        bool, typer.Option("--export", help="Write reviews.jsonl and merge the decisions.")
    ] = False,
    decide: Annotated[
        list[str] | None,
        typer.Option(metavar="LR=HR", help="Decide one slice: LR=HR, LR=none, LR=unsure."),
    ] = None,
    reviewer: Annotated[str | None, typer.Option(help="Who decides.")] = None,
    confidence: Annotated[
        int | None, typer.Option(min=1, max=4, help="With --decide: 1 guess to 4 certain.")
    ] = None,
    note: Annotated[str, typer.Option(help="With --decide: free text.")] = "",
    accept_clear: Annotated[
        bool,
        typer.Option(
            "--accept-clear",
            help="Accept all items whose voters differ by one slice and agree with geometry.",
        ),
    ] = False,
    adjudicate: Annotated[
        bool,
        typer.Option(
            "--adjudicate",
            help="Settle what reviewers disagree on: on the page, with --decide, or --list it.",
        ),
    ] = False,
    sources: Annotated[
        Path | None, typer.Option(help="Folder that holds the scans now, when they have moved.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 takes any.", rich_help_panel="Page")
    ] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on.", rich_help_panel="Page")
    ] = "127.0.0.1",
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Let other computers in, with the token. An SSH tunnel is safer.",
            rich_help_panel="Page",
        ),
    ] = False,
    no_browser: Annotated[
        bool,
        typer.Option("--no-browser", help="Do not open a browser.", rich_help_panel="Page"),
    ] = False,
    no_blind: Annotated[
        bool,
        typer.Option(
            "--no-blind",
            help="Show the voters' picks before the decision.",
            rich_help_panel="Page",
        ),
    ] = False,
    catch: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Mix in simulated pairs with known truth, this many per item.",
            rich_help_panel="Page",
        ),
    ] = 0.0,
    repeat: Annotated[
        float,
        typer.Option(min=0, max=1, help="Ask again, this many per item.", rich_help_panel="Page"),
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seed of the orders and trials of a review that begins. Default: random.",
            rich_help_panel="Page",
        ),
    ] = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Settle the undecided pairs by eye, in the browser or at the terminal.

    Without --list, --export, --decide or --accept-clear it serves a page to this computer only
    and prints its address; every decision is saved at once. Ctrl-C stops it.
    """
    from srmri_data import review_merge

    if show_list + export + bool(decide) + accept_clear > 1:
        raise UsageError("choose one of --list, --export, --decide and --accept-clear")
    if decide or accept_clear:
        if reviewer is None:
            raise UsageError(f"{'--decide' if decide else '--accept-clear'} needs --reviewer NAME")
        events = [] if decide else review_merge.accept_clear(run, reviewer=reviewer)
        events += [
            review_merge.decide_at_terminal(
                run,
                decision,
                reviewer=reviewer,
                confidence=confidence,
                note=note,
                adjudicates=adjudicate,
            )
            for decision in decide or ()
        ]
        if json_output:
            _print_json([asdict(event) for event in events])
        else:
            for event in events:
                typer.echo(f"LR {event.lr_slice}: {event.choice} ({event.reviewer})")
            if not events:
                typer.echo("nothing is that clear")
    elif export:
        counts = review_merge.export_reviews(run)
        if json_output:
            _print_json(counts)
        else:
            typer.echo(
                f"{counts['decided']} decided, {counts['rejected']} rejected, "
                f"{counts['queued']} still queued; log: {run / 'reviews.jsonl'}; "
                "`srmri report` draws it"
            )
    elif show_list:
        _print_reviews(review_merge.list_reviews(run, disputed=adjudicate), json_output=json_output)
    else:
        serve, config = _review_page()
        with _progress(quiet or json_output) as progress:
            serve(
                run,
                port=port,
                sources=sources,
                open_browser=not no_browser,
                json_output=json_output,
                allow_remote=allow_remote,
                host=host,
                reviewer=reviewer,
                config=config(
                    blind=not no_blind, catch=catch, repeat=repeat, adjudicate=adjudicate
                ),
                seed=seed,
                progress=progress,
            )


def _review_page() -> tuple[Callable[..., None], Callable[..., Any]]:
    try:
        from srmri_data.review import SittingConfig, serve
    except ImportError as error:
        raise UsageError(
            f"the review page needs a package that is missing ({error.name})",
            hint="pip install 'srmri[review]', or decide with --list and --decide",
        ) from error
    return serve, SittingConfig


def _print_reviews(listed: dict[str, list[dict[str, Any]]], *, json_output: bool) -> None:
    if json_output:
        _print_json(listed)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column, justify in (
        ("LR", "right"),
        ("HR", "right"),
        ("status", "left"),
        ("reviewers", "right"),
        ("reason", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for row in listed["items"]:
        style = {"decided": "green", "rejected": "red"}.get(row["status"], "yellow")
        table.add_row(
            str(row["lr_slice"]),
            str(row["hr_slice"]),
            Text(row["status"], style=style),
            str(row["n_reviewers"]),
            Text(row["reason"]),
        )
    console = Console(highlight=False)
    console.print(table)
    waiting = [row for row in listed["items"] if row["status"] == "review"]
    clear = sum(row["clear"] is not None and not row["n_reviewers"] for row in waiting)
    console.print(
        f"{len(waiting)} of {len(listed['items'])} wait for a decision"
        + (f"; --accept-clear would settle {clear}" if clear else ""),
        style="dim",
    )
    if listed["reviewers"]:
        console.print(_reviewers_table(listed["reviewers"]))
        console.print("exact and mean error: on catch trials; same again: on repeats", style="dim")


def _reviewers_table(reviewers: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    def share(value: float | None, count: int) -> str:
        return "–" if value is None else f"{value:.0%} of {count}"

    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("reviewer")
    for column in ("answers", "exact", "mean error", "same again", "agreement"):
        table.add_column(column, justify="right")
    for row in reviewers:
        error = row["mean_error_um"]
        table.add_row(
            Text(row["reviewer"]),
            str(row["answered"]),
            share(row["exact"], row["catch_trials"]),
            "–" if error is None else f"{error:.0f} µm",
            share(row["same_again"], row["repeats"]),
            share(row["agreement"], row["shared"]),
        )
    return table


@app.command(
    epilog="Example: srmri simulate hr.nii.gz --out lr --shift-um 83 -30 20 --tilt-deg 1 0 -0.5 "
    "--snr 20"
)
def simulate(
    hr: Annotated[Path, typer.Argument(help="HR scan: study, scan, pdata/N, zip or image file.")],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    factor: Annotated[
        str, typer.Option(help="LR over HR voxel size: one number, or three as 2,2,4.")
    ] = "2",
    shift_um: Annotated[
        tuple[float, float, float],
        typer.Option(metavar="X Y Z", help="Motion of the animal, world RAS, micrometres."),
    ] = (0.0, 0.0, 0.0),
    tilt_deg: Annotated[
        tuple[float, float, float],
        typer.Option(
            metavar="A B C",
            help="Rotation about x, y, z through the volume's centre, in degrees; order Z·Y·X.",
        ),
    ] = (0.0, 0.0, 0.0),
    snr: Annotated[
        float | None,
        typer.Option(min=0.0, help="Mean LR foreground over sigma. Default: no noise."),
    ] = None,
    bias: Annotated[
        float, typer.Option(min=0.0, help="Standard deviation of the log of a smooth gain field.")
    ] = 0.0,
    contrast: Annotated[
        float, typer.Option(help="Contrast change; 1 leaves the contrast as it is.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of noise and gain field.")] = 0,
    acquire: Annotated[
        Acquisition, typer.Option(help="Truncate k-space, as a scanner does, or average blocks.")
    ] = "kspace",
    grid: Annotated[
        Grid,
        typer.Option(help="LR voxel i centred on HR voxel f·i (fourier) or f·i + (f-1)/2."),
    ] = "voxel-centre",
    output_format: Annotated[
        OutputFormat, typer.Option("--format", help="ParaVision study or one .nii.gz.")
    ] = "paravision",
    scan: Annotated[int | None, _scan_option("hr", "scan")] = None,
    reco: Annotated[int | None, _scan_option("hr", "reco")] = None,
    package: Annotated[int | None, _scan_option("hr", "package")] = None,
    frame: Annotated[list[str] | None, _frame_option("hr")] = None,
    subject_type: Type = None,
    subject_position: Position = None,
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an LR scan with known truth from any HR scan.

    Writes the scan and truth.json, the full LR-voxel to HR-voxel map.
    """
    from srmri_data import ingest
    from srmri_data.planning import ScanRequest, find_scan
    from srmri_data.simulate import SimulationConfig, run_simulate

    x, y, z = (_factor(factor) * 3)[:3]
    config = SimulationConfig(
        factor=(x, y, z),
        shift_um=shift_um,
        tilt_deg=tilt_deg,
        snr=snr,
        bias=bias,
        contrast=contrast,
        seed=seed,
        acquire=acquire,
        grid=grid,
    )
    request = ScanRequest(
        hr, scan, reco, package, _frame(frame or []), subject_type, subject_position
    )
    record, selection = find_scan(request, "--hr")
    with _progress(quiet) as progress:
        progress("simulating", 0, 1)
        volume = ingest.load(record, frame=selection)
        result = run_simulate(volume, config, out, format=output_format, force=force)
        progress("simulating", 1, 1)
    if json_output:
        _print_json(result)
    else:
        typer.echo(f"LR scan:  {result['low_res']}\ntruth:    {result['truth']}")


def _factor(text: str) -> tuple[float, ...]:
    try:
        numbers = [float(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not min(numbers) >= 1:
        raise UsageError(f"--factor {text!r}: give one number of at least 1, or three as 2,2,4")
    return tuple(numbers)


def _degraded(help_text: str, **limits: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel="How LR is made of volumes", **limits)


def _refuse(options: Sequence[str], what: str) -> None:
    listed = ", ".join(o if o.startswith("--") else "--" + o.replace("_", "-") for o in options)
    raise UsageError(f"{listed}: has no meaning for {what}")


def _supervised_preset(name: str | None) -> SupervisedPreset:
    names = get_args(SupervisedPreset)
    if name is not None and name not in names:
        raise UsageError(f"--preset {name}: a baseline has {' and '.join(names)}")
    return cast(SupervisedPreset, name or "published")


def _recipe(help_text: str, **limits: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel="Recipe (default: the preset's)", **limits)


@app.command(
    epilog="Examples: srmri train --data dataset --out model --minutes 15 · "
    "srmri train --data mice/ --split splits.json --plane all --out model --epochs 50 · "
    "srmri train --data user/name@v1 --preset paper --out model --epochs 1000 --resume · "
    "srmri train --model rcan --data mice/ --factor 2 --operator kspace --out rcan --budget 5 · "
    "torchrun --nproc-per-node 4 -m cli train --data dataset --out model --epochs 50"
)
def train(
    *,
    data: Annotated[
        list[str],
        typer.Option(
            help="Exported dataset, Hub id (user/name@revision), or volumes and folders of them. "
            "Repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    preset: Annotated[
        str | None,
        typer.Option(
            help="Of a score model: tiny (default, for a CPU), small, base or paper. "
            "Of a baseline: published (default) or scaled."
        ),
    ] = None,
    model: Annotated[
        TrainableModel,
        typer.Option(help="What to train: a score model, or a baseline that learns from pairs."),
    ] = "score",
    plane: Annotated[
        TrainingPlane, typer.Option(help="Plane of the slices; 'all' learns three, with a label.")
    ] = "coronal",
    minutes: Annotated[
        float | None, typer.Option(help="Train this long, over all resumed parts.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps in all.")] = None,
    epochs: Annotated[float | None, typer.Option(help="See every slice so often.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Train a baseline's scaled preset for so many minutes.", min=0),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole state in --out.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(help="Checkpoint whose weights to begin with; bundled: the package's own."),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(help="JSON with lists of subjects: train, and tune or validation."),
    ] = None,
    sigma_max: Annotated[
        float | None, typer.Option(help="Largest noise level. Default: the preset's.")
    ] = None,
    factor: Annotated[float | None, _degraded("LR over HR voxel size. Default: 2.")] = None,
    operator: Annotated[
        OperatorKind | None, _degraded("What makes LR slices of HR slices. Default: kspace.")
    ] = None,
    width: Annotated[
        float | None, _degraded("Width of a point spread, in LR voxels. Default: 1.")
    ] = None,
    sigma_y: Annotated[
        float | None, _degraded("Noise of LR; images are 0 to 1. Default: 0.01.", min=0)
    ] = None,
    grid: Annotated[
        Grid | None, _degraded("Where LR voxels lie on HR's grid. Default: voxel-centre.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch: Annotated[int | None, _recipe("Images per process and part.", min=1)] = None,
    accumulate: Annotated[int, _recipe("Parts whose gradients make one step.", min=1)] = 1,
    patch: Annotated[
        int | None,
        _recipe("Edge of the crops, for baselines in LR voxels; 0: whole slices.", min=0),
    ] = None,
    learning_rate: Annotated[float | None, _recipe("After the warm-up.")] = None,
    warmup_steps: Annotated[int | None, _recipe("Steps of rising rate.", min=0)] = None,
    ema_decay: Annotated[float | None, _recipe("Largest decay of the averaged weights.")] = None,
    decay: Annotated[Decay | None, _recipe("Whether the rate falls to zero over the run.")] = None,
    optimiser: Annotated[
        OptimiserName | None, _recipe("Muon: for matrices, with Adam for the rest.")
    ] = None,
    neighbours: Annotated[
        int | None,
        _recipe(
            "Slices on either side to look at too, where volumes are drawn along three axes; "
            "needs volumes.",
            min=0,
            max=8,
        ),
    ] = None,
    augment: Annotated[
        float, _recipe("Share of images given another gain and a noise floor.", min=0, max=1)
    ] = 0.0,
    precision: Annotated[Precision, _recipe("Arithmetic of the network.")] = "float32",
    compiled: Annotated[bool, _recipe("Run through torch.compile.")] = False,
    recompute: Annotated[
        bool, _recipe("Compute activations twice instead of keeping them: less memory.")
    ] = False,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes between saved states.")
    ] = 5.0,
    keep: Annotated[int, typer.Option(min=1, help="Saved states to keep.")] = 3,
    validate_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between validations. Default: 500, a baseline's preset's."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print parameters, FLOPs, memory and time on this machine."),
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="This process (or torchrun's), or a SLURM job.")
    ] = "local",
    slurm_partition: Annotated[str | None, _slurm("Partition.")] = None,
    slurm_time: Annotated[
        int, _slurm("Minutes until the job is stopped or requeued.", min=1)
    ] = 720,
    slurm_mem: Annotated[float, _slurm("GB per node.", min=0.1)] = 32.0,
    slurm_cpus: Annotated[int, _slurm("Processors per process.", min=1)] = 4,
    slurm_nodes: Annotated[int, _slurm("Nodes.", min=1)] = 1,
    slurm_processes: Annotated[int, _slurm("Processes per node.", min=1)] = 1,
    slurm_gpus: Annotated[int, _slurm("GPUs per node.", min=0)] = 0,
    slurm_option: Annotated[
        list[str] | None, _slurm("Any other sbatch option, as account=NAME. Repeatable.")
    ] = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a score model on HR slices alone, or a baseline on pairs of LR and HR.

    Pairs come from an exported dataset, or are made of volumes as --factor, --operator, --width,
    --sigma-y and --grid say. Writes model.safetensors (the best averaged weights), logs and a
    page. A stopped run goes on with --resume, bit for bit as if it had not been stopped. SIGTERM
    and Ctrl-C save first.
    """
    common: dict[str, Any] = {
        "steps": steps,
        "minutes": minutes,
        "epochs": epochs,
        "batch": batch,
        "accumulate": accumulate,
        "patch": patch,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "ema_decay": ema_decay,
        "decay": decay,
        "optimiser": optimiser,
        "plane": plane,
        "seed": seed,
        "device": device,
        "checkpoint_minutes": checkpoint_minutes,
        "keep": keep,
        "validate_every": validate_every,
    }
    of_score = {
        "--sigma-max": sigma_max is not None,
        "--neighbours": neighbours is not None,
        "--augment": augment > 0,
        "--precision bf16": precision != "float32",
        "--compiled": compiled,
        "--recompute": recompute,
    }
    made: dict[str, Any] = {
        "factor": factor,
        "operator": operator,
        "width": width,
        "sigma_y": sigma_y,
        "grid": grid,
    }
    made = {name: value for name, value in made.items() if value is not None}
    config: TrainConfig | SupervisedConfig
    if model == "score":
        if budget is not None or made:
            _refuse([*(["budget"] if budget is not None else []), *made], "a score model")
        from srmri_model.training.config import TrainConfig

        config = TrainConfig.for_preset(
            preset or "tiny",
            **common,
            neighbours=neighbours,
            augment=augment,
            sigma_max=sigma_max,
            precision=precision,
            compiled=compiled,
            recompute=recompute,
        )
    else:
        if any(of_score.values()):
            _refuse([name for name, given in of_score.items() if given], model)
        from srmri_model.training.pairs import Degradation
        from srmri_model.training.supervised_config import SupervisedConfig

        config = SupervisedConfig.for_preset(
            model,
            _supervised_preset(preset),
            budget=budget,
            degradation=Degradation(**made) if made else None,
            **common,
        )
    start = _initial(init)
    if dry_run:
        from srmri_model.training.estimate import estimate

        _print_estimate(estimate(data, out, config, split=split), json_output=json_output)
        return
    if engine != "local":
        from srmri_model.training.cluster import JobOptions, submit_training

        options = JobOptions(
            engine="slurm" if engine == "slurm" else "local",
            partition=slurm_partition,
            minutes=slurm_time,
            memory_gb=slurm_mem,
            processors=slurm_cpus,
            nodes=slurm_nodes,
            processes=slurm_processes,
            gpus=slurm_gpus,
            extra=_settings(slurm_option or []),
        )
        job_id, log = submit_training(
            options, data=data, out=out, config=config, split=split, init=start
        )
        if json_output:
            _print_json({"job": job_id, "log": log, "out": str(out)})
        else:
            typer.echo(f"job {job_id} trains in {out}; log: {log}")
        return
    from srmri_model.train import run_training

    with _training_progress(quiet) as (progress, stop_progress):
        summary = run_training(
            data,
            out,
            config,
            split=split,
            init=start,
            resume=resume,
            command=["srmri", *sys.argv[1:]],
            progress=progress,
            warn=_warn,
            before_leaving=stop_progress,
        )
    if not summary:
        # Another process of this run prints.
        return
    if json_output:
        _print_json(summary)
    else:
        _print_training(summary)


def _sampling(help_text: str, **limits: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel="Sampling", **limits)


def _physics(help_text: str, **limits: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel="How LR came about", **limits)


def _machine(help_text: str, **limits: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel="Machine", **limits)


@app.command(
    epilog="Examples: srmri upsample STUDY/7 sr.nii.gz --weights model/model.safetensors · "
    "srmri upsample lr.nii.gz sr --samples 8 --estimate mean · "
    "srmri upsample lr.nii.gz sr --planes 3 --factor 1,1,4 --operator slice-profile --dry-run"
)
def upsample(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="LR scan: study, scan, pdata/N, zip or image file."),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Volume to write, with or without .nii.gz.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of srmri train. Default: the package's, if it has one."),
    ] = None,
    factor: Annotated[
        str,
        typer.Option(help="LR over HR voxel size: one number, or three along i,j,k as 1,1,4."),
    ] = "2",
    planes: Annotated[
        SlicePlanes,
        typer.Option(help="'single': finer within slices. '3': finer along all axes."),
    ] = "single",
    plane: Annotated[
        Plane, typer.Option(help="Plane of the slices, the one the model was trained on.")
    ] = "coronal",
    samples: Annotated[
        int, typer.Option(min=1, help="Draws; from 4 on their standard deviation is written.")
    ] = 1,
    estimate: Annotated[
        Estimate, typer.Option(help="Write the first draw, or the mean of all.")
    ] = "sample",
    dtype: Annotated[
        OutputType, typer.Option(help="Voxels on disk; integers with slope and intercept.")
    ] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of all noise.")] = 0,
    sampler: Annotated[SamplerName, _sampling("How images are drawn.")] = "fast",
    steps: Annotated[
        int | None, _sampling("Noise levels. Default: the sampler's, 20 for fast.", min=2)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Another setting of the sampler, as rho=0.5 or k=3. Repeatable.",
            rich_help_panel="Sampling",
        ),
    ] = None,
    z_correlation: Annotated[
        float, _sampling("Correlation of the noise of neighbouring slices, 0 to 0.95.")
    ] = 0.0,
    operator: Annotated[
        OperatorKind, _physics("What made LR of HR: a scanner truncates k-space.")
    ] = "kspace",
    width: Annotated[
        float | None,
        _physics("Of box, gaussian (FWHM) and slice-profile, in LR voxels. Default: 1."),
    ] = None,
    grid: Annotated[
        Grid, _physics("LR voxel i centred on HR voxel f·i (fourier) or f·i + (f-1)/2.")
    ] = "voxel-centre",
    noise: Annotated[
        float | None,
        _physics("σ of LR's noise where tissue ranges from 0 to 1. Default: from the data."),
    ] = None,
    batch: Annotated[int, _machine("Slices a GPU works on at once.", min=1)] = 4,
    tile: Annotated[
        int | None,
        _machine("Edge of the tiles the network sees; 0: whole slices. Default: by memory."),
    ] = None,
    device: Annotated[str, _machine("auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[Precision, _machine("Arithmetic of the network.")] = "float32",
    scan: Annotated[int | None, _scan_option("lr", "scan")] = None,
    reco: Annotated[int | None, _scan_option("lr", "reco")] = None,
    package: Annotated[int | None, _scan_option("lr", "package")] = None,
    frame: Annotated[list[str] | None, _frame_option("lr")] = None,
    subject_type: Type = None,
    subject_position: Position = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Estimate time and memory from one step; write nothing."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace existing outputs; go on where the model does not fit."
        ),
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Super-resolve an LR scan with a score model. Research use only.

    Writes OUT.nii.gz in the units of the scan, OUT_residual.nii.gz, OUT.json and a page,
    OUT.html; from 4 samples on OUT_std.nii.gz. An interrupted run goes on with the same command.
    """
    from srmri_data.planning import ScanRequest, find_scan
    from srmri_model.upsampling.plan import UpsampleConfig, plan_upsample

    config = UpsampleConfig(
        factor=_factor(factor),
        sampler=sampler,
        steps=steps,
        settings=_settings(settings or [], "--set"),
        samples=samples,
        estimate=estimate,
        planes=planes,
        plane=plane,
        operator=operator,
        width=width,
        grid=grid,
        noise=noise,
        z_correlation=z_correlation,
        seed=seed,
        batch=batch,
        tile=tile,
        device=device,
        precision=precision,
        dtype=dtype,
    )
    request = ScanRequest(
        source, scan, reco, package, _frame(frame or []), subject_type, subject_position
    )
    plan = plan_upsample(find_scan(request, "--lr"), out, weights, config, force=force)
    if dry_run:
        from srmri_model.upsampling.estimate import estimate as estimate_run

        _print_estimate(estimate_run(plan), json_output=json_output)
        return
    # Imported when the headers have passed: bad input is refused at once.
    from srmri_model.upsample import run_upsample

    try:
        with _progress(quiet) as progress:
            sidecar = run_upsample(
                plan,
                force=force,
                command=["srmri", *sys.argv[1:]],
                progress=progress,
                warn=_warn,
            )
    except KeyboardInterrupt:
        _warn(f"what is finished is kept in {plan.work}; the same command goes on")
        raise
    if json_output:
        _print_json(sidecar)
    else:
        _print_upsampled(sidecar, plan.paths)


def _print_upsampled(sidecar: dict[str, Any], paths: dict[str, Path]) -> None:
    console = Console(highlight=False)
    shape = " × ".join(str(n) for n in sidecar["high_shape"])
    chi2 = "–" if sidecar["chi2"] is None else f"{sidecar['chi2']:.2f}"
    console.print(
        f"{shape} voxels in {sidecar['seconds']:.0f} s, {sidecar['nfe']} evaluations per draw; "
        f"χ²/m {chi2} in the tissue (1 is expected)",
        style="bold",
        markup=False,
        soft_wrap=True,
    )
    for name, path in paths.items():
        console.print(f"{name + ':':<10}{path}", markup=False, soft_wrap=True)
    if sidecar["model"]["bundled"]:
        console.print(
            f"model:    {sidecar['model']['file']}, which comes with srmri: see MODEL_CARD.md",
            markup=False,
            soft_wrap=True,
        )
    console.print("research use only", style="dim")


def _warn(text: str) -> None:
    _stderr().print(f"warning: {text}", style="yellow", markup=False)


def _initial(init: str | None) -> Path | None:
    if init != "bundled":
        return None if init is None else Path(init)
    from srmri_model.weights import bundled_weights

    return bundled_weights()


@contextmanager
def _training_progress(
    quiet: bool,
) -> Iterator[tuple[Callable[[TrainingStatus], None], Callable[[], None]]]:
    """Show how training goes on stderr; yields what to call with a status, and at a stop."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=_stderr(), disable=quiet) as bars:
        tasks: dict[str, Any] = {}

        def show(status: TrainingStatus) -> None:
            if status.stage not in tasks:
                tasks[status.stage] = bars.add_task(status.stage, total=status.total, facts="")
            task, facts = tasks[status.stage], status.facts()
            bars.update(task, completed=status.done, total=status.total, facts=facts)

        yield show, bars.stop


def _print_training(summary: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(
        f"{summary['steps']} steps, {summary['images']} images in {summary['seconds']:.0f} s "
        f"({summary['images_s']:.1f} images/s); best after {summary['best']['step']} steps",
        style="bold",
        markup=False,
    )
    if "val_by_sigma" in summary:
        table = _table(("σ", "right"), ("error inside", "right"), ("gain, dB", "right"))
        for row in summary["val_by_sigma"]:
            if row["foreground"]:
                gain = f"{row['gain_db']:+.1f}"
                table.add_row(f"{row['sigma']:.3g}", f"{row['foreground'] ** 0.5:.4f}", gain)
    else:
        table = _table(("", "left"), ("foreground, dB", "right"), ("frame, dB", "right"))
        for label, key in ((summary["model_name"], "psnr"), ("bicubic", "psnr_bicubic")):
            table.add_row(label, f"{summary[key]:.2f}", f"{summary[key + '_frame']:.2f}")
        if summary["not_as_published"]:
            console.print(f"scaled: {summary['not_as_published']}", markup=False)
    console.print(table)
    console.print(f"model:  {summary['model']}", markup=False, soft_wrap=True)
    console.print(f"report: {summary['page']}", markup=False, soft_wrap=True)


def _print_estimate(found: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        _print_json(found)
        return
    table = _table(("", "left"), ("", "left"))
    for label, value in found["lines"]:
        table.add_row(label, value)
    Console(highlight=False).print(table)


def _export_config(
    title: Annotated[
        str, typer.Option(help="Name of the dataset.")
    ] = "Scanner-acquired LR-HR MRI pairs",
    license_id: Annotated[
        str | None, typer.Option("--license", metavar="SPDX", help="For instance CC-BY-4.0.")
    ] = None,
    hr_only: Annotated[
        list[Path] | None,
        typer.Option(help="HR scan of a subject without LR, for training only. Repeatable."),
    ] = None,
    include_queued: Annotated[
        bool, typer.Option("--include-queued", help="Let undecided pairs leave, too.")
    ] = False,
    sources: Annotated[
        Path | None, typer.Option(help="Folder that holds the scans now, when they have moved.")
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="Keep to these splits: splits.json of an earlier version, or your own."),
    ] = None,
    plane: Annotated[
        Plane, typer.Option(help="Of HR-only slices, when there are no runs to follow.")
    ] = "coronal",
    trim: Annotated[
        str, typer.Option(help="Likewise: slices to leave out at each end, or a length.")
    ] = "15",
    species: Annotated[
        str | None,
        typer.Option(help="For instance 'Mus musculus'.", rich_help_panel="De-identification"),
    ] = None,
    human_statement: Annotated[
        str | None,
        typer.Option(
            help="Human data only: consent and what was done to faces, for the card.",
            rich_help_panel="De-identification",
        ),
    ] = None,
    dates: Annotated[
        DateRule,
        typer.Option(
            help="Drop the dates of scans, or shift them far back by a secret number of days.",
            rich_help_panel="De-identification",
        ),
    ] = "drop",
    key: Annotated[
        Path | None,
        typer.Option(
            envvar="SRMRI_PSEUDONYM_KEY",
            help="Secret of the pseudonyms; made at first use in your settings folder.",
            rich_help_panel="De-identification",
        ),
    ] = None,
) -> ExportConfig:
    """Read the options that decide what leaves the laboratory, and how."""
    from srmri_data.export import ExportConfig
    from srmri_data.slices import Trim

    return ExportConfig(
        title=title,
        license=license_id,
        species=species,
        human_statement=human_statement,
        include_queued=include_queued,
        hr_only=tuple(hr_only or ()),
        plane=plane,
        trim=Trim.parse(trim),
        sources=sources,
        splits=splits,
        key=key,
        dates=dates,
    )


Runs = Annotated[list[Path] | None, typer.Argument(help="Run folders written by srmri pair.")]
ExportDryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show every file and field; write nothing.")
]


def _hub_options(
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="Make it public at the end; otherwise it is private.",
            rich_help_panel="Publishing",
        ),
    ] = False,
    yes: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="With --public: the repository's name again, instead of typing it when asked.",
            rich_help_panel="Publishing",
        ),
    ] = "",
    gated: Annotated[
        Gated | None,
        typer.Option(
            help="Readers ask for access: granted at once, or by you.",
            rich_help_panel="Publishing",
        ),
    ] = None,
    tag: Annotated[
        str,
        typer.Option(
            metavar="vX.Y.Z",
            help="Version to publish. Default: the dataset's own.",
            rich_help_panel="Publishing",
        ),
    ] = "",
    endpoint: Annotated[
        str,
        typer.Option(
            envvar="HF_ENDPOINT", help="Address of the hub.", rich_help_panel="Publishing"
        ),
    ] = "https://huggingface.co",
) -> HubOptions:
    return {
        "public": public,
        "confirmed": yes,
        "gated": gated,
        "tag": tag,
        "endpoint": endpoint.rstrip("/"),
    }


def _push_config(repo: str, license_id: str | None, hub: HubOptions, version: str) -> PushConfig:
    """Refuse what can be refused at once; ask who is at a terminal for the name."""
    from srmri_data.push_plan import PushConfig, check_request

    options = {**hub, "tag": hub["tag"] or f"v{version}"}
    if hub["public"] and not hub["confirmed"] and sys.stdin.isatty():
        ask = f"{repo} will be public. Type its name to confirm"
        options["confirmed"] = typer.prompt(ask, err=True)
    config = PushConfig(repo, license_id or "", **options)
    check_request(config)
    return config


def _print_pushed(report: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    seen = "private" if report["private"] else "public"
    console.print(
        f"published {report['url']} ({seen}), {report['sent']} files sent, {report['kept']} there",
        markup=False,
    )
    call = f'load_dataset("{report["repo"]}", revision="{report["tag"]}")'
    console.print(f"load it:  {call}", markup=False)


@app.command(
    "export-hf",
    epilog="Examples: srmri export-hf pairing_reports/m01 --out dataset --dry-run · "
    "srmri export-hf pairing_reports/* --out dataset --license CC-BY-4.0 "
    "--species 'Mus musculus' --hr-only STUDY/8",
)
@_with_options(config=_export_config, hub=_hub_options)
def export_hf(
    *,
    runs: Runs = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create.")] = None,
    config: ExportConfig,
    preview: Annotated[bool, typer.Option("--preview", help="Add 8-bit previews.")] = False,
    dataset_version: Annotated[
        str, typer.Option(help="Version the card speaks of, X.Y.Z.")
    ] = "1.0.0",
    push_to: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="USER/NAME",
            help="Publish it on the Hub when it is written; see srmri push.",
            rich_help_panel="Publishing",
        ),
    ] = None,
    hub: HubOptions,
    dry_run: ExportDryRun = False,
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a dataset of runs: de-identified, split by subject, loaded with one line.

    Writes a folder: 16-bit slices in Parquet, scans as NIfTI, votes, the anonymous review, splits,
    checksums and a dataset card. Only accepted and decided pairs leave. What identifies is looked
    for in the bytes that were written, and nothing is left behind if any is found.
    """
    from srmri_data.export import plan_export, write_export

    if push_to is None and (hub["public"] or hub["confirmed"] or hub["gated"] or hub["tag"]):
        raise UsageError("--public, --yes, --gated and --tag are about --push USER/NAME")
    pushed = _push_config(push_to, config.license, hub, dataset_version) if push_to else None
    version = pushed.tag.removeprefix("v") if pushed else dataset_version
    config = replace(config, preview=preview, version=version, repo=push_to)
    plan = plan_export(runs or (), config=config)
    described = plan.describe()
    if not dry_run:
        with _progress(quiet) as progress:
            staged = write_export(plan, _needed(out), force=force, progress=progress)
        described |= {"out": str(staged.path), "tree_sha256": staged.tree_sha256}
    if pushed is not None and dry_run:
        described["publish"] = asdict(pushed)
    elif pushed is not None:
        from srmri_data.hub import push as publish

        with _progress(quiet) as progress:
            described["published"] = publish(staged.path, pushed, progress=progress).document()
    if json_output:
        _print_json(described)
    else:
        _print_export(described)


def _needed(out: Path | None) -> Path:
    if out is None:
        raise UsageError("--out is missing", hint="say where it shall be, or --dry-run")
    return out


@app.command(
    "export-bids",
    epilog="Example: srmri export-bids pairing_reports/* --out bids --species 'Mus musculus'",
)
@_with_options(config=_export_config)
def export_bids(
    *,
    runs: Runs = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create.")] = None,
    config: ExportConfig,
    suffix: Annotated[
        AnatomicalSuffix | None,
        typer.Option(help="Contrast of the scans, where the sequence does not tell it."),
    ] = None,
    dry_run: ExportDryRun = False,
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a BIDS dataset of runs: de-identified scans with sidecars, pairs as derivatives.

    The same names, splits and checks as srmri export-hf.
    """
    from srmri_data.bids import bids_names, write_bids
    from srmri_data.export import plan_export

    plan = plan_export(runs or (), config=config)
    if dry_run:
        result: dict[str, Any] = {
            "scans": sorted(bids_names(plan, suffix=suffix).values()),
            "warnings": list(plan.warnings),
        }
    else:
        with _progress(quiet) as progress:
            result = write_bids(plan, _needed(out), suffix=suffix, force=force, progress=progress)
        result["warnings"] = list(plan.warnings)
    if json_output:
        _print_json(result)
        return
    for text in result["warnings"]:
        typer.echo(f"warning: {text}", err=True)
    if dry_run:
        typer.echo("\n".join(f"would write: {name}.nii.gz" for name in result["scans"]))
    else:
        typer.echo(f"{result['subjects']} subjects, {result['scans']} scans: {result['out']}")


def _print_export(described: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name, counts in described["rows"].items():
        parts = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
        console.print(f"{name:<10} {parts or 'none'}")
    for split, subjects in described["splits"].items():
        console.print(f"{split:<10} {' '.join(subjects) or '–'}", style="dim")
    if "out" not in described:
        for title, names in (
            ("acquisition", described["fields"]["acquisition"]),
            ("pairs", described["fields"]["pairs"]),
            ("slices_hr", described["fields"]["slices_hr"]),
        ):
            console.print(f"fields of {title}: {' '.join(names)}", style="dim")
        console.print("would write:")
        for name in described["files"]:
            console.print(f"  {name}", markup=False)
    for text in described["warnings"]:
        console.print("warning ", style="yellow", end="")
        console.print(text, markup=False)
    for name, value in described.get("publish", {}).items():
        console.print(f"would publish with {name}: {value}", style="dim", markup=False)
    if "out" in described:
        console.print(f"dataset: {described['out']}", markup=False)
        console.print(f"sha256:  {described['tree_sha256']}", style="dim")
    if "published" in described:
        _print_pushed(described["published"])


@app.command(
    epilog="Examples: srmri push dataset USER/NAME --license CC-BY-4.0 --dry-run · "
    "srmri push dataset USER/NAME --license CC-BY-4.0 --public"
)
@_with_options(hub=_hub_options)
def push(
    *,
    folder: Annotated[Path, typer.Argument(help="Folder that srmri export-hf wrote.")],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Dataset repository.")],
    license_id: Annotated[
        str | None, typer.Option("--license", metavar="SPDX", help="The same as in its card.")
    ] = None,
    hub: HubOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show every file and field; send nothing.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a staged dataset on the Hugging Face Hub: private unless --public.

    Everything is scanned, uploaded aside, read back byte by byte and loaded from there before the
    repository takes it over. After an interruption, of export-hf --push as well, this command
    sends what is missing. The token is HF_TOKEN or what `hf auth login` stored; it is never
    shown or written.
    """
    from srmri_data.staged import read_staged, staged_version

    config = _push_config(repo, license_id, hub, staged_version(folder) or "1.0.0")
    if dry_run:
        from srmri_data.deid.scan import scan_phi
        from srmri_data.push_plan import plan_push

        with _progress(quiet) as progress:
            staged = read_staged(folder, progress=progress)
        plan = plan_push(staged.files, staged.metadata, config, version=staged.version)
        document = plan.document() | {"findings": len(scan_phi(folder).findings)}
        if json_output:
            _print_json(document)
        else:
            _print_push_plan(document)
        return
    from srmri_data.hub import push as publish

    with _progress(quiet) as progress:
        report = publish(folder, config, progress=progress).document()
    if json_output:
        _print_json(report)
    else:
        _print_pushed(report)


def _print_push_plan(plan: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name in ("repo", "endpoint", "visibility", "gated", "license", "tag", "branch"):
        console.print(f"{name:<11} {plan[name] or '–'}", markup=False)
    for name, value in plan["metadata"].items():
        console.print(f"card        {name}: {json.dumps(value, ensure_ascii=False)}", markup=False)
    for file in plan["files"]:
        console.print(f"{file['bytes']:>11} {file['sha256'][:12]} {file['path']}", markup=False)
    found = plan["findings"]
    console.print(f"{plan['n_files']} files, {plan['bytes'] / 1e6:.1f} MB; nothing was sent")
    console.print(
        f"scan: {found} findings; see srmri scan-phi" if found else "scan: passed",
        style="yellow" if found else "green",
    )


@app.command("scan-phi", epilog="Examples: srmri scan-phi dataset · srmri scan-phi bids --json")
def scan_phi_command(
    path: Annotated[Path, typer.Argument(help="Folder or file that is to be published.")],
    known: Annotated[
        list[str] | None,
        typer.Option(help="A name to look for everywhere, pixels included. Repeatable."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Look for what identifies a person, a laboratory or a machine, in everything unpacked.

    Opens gzip, zip, tar, PNG, Parquet and NIfTI with its extensions. Also lists values that are
    neither numbers nor known words. Exit code 0 when nothing is found, 3 otherwise.
    """
    from srmri_data.deid.scan import scan_phi

    report = scan_phi(path, known=known or ())
    if json_output:
        _print_json(report.to_json())
    else:
        _print_findings(report.to_json())
    if report.findings:
        raise typer.Exit(ExitCode.BAD_INPUT)


def _print_findings(report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    findings = report["findings"]
    if findings:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("kind", "found", "place", "file"):
            table.add_column(column, overflow="fold")
        for row in findings[:200]:
            style = "red" if row["level"] == "identifies" else "yellow"
            kind = Text(row["kind"], style=style)
            table.add_row(kind, *(Text(row[name]) for name in ("text", "place", "file")))
        console.print(table)
    sure = sum(row["level"] == "identifies" for row in findings)
    console.print(
        f"{report['files']} files, {report['bytes'] / 1e6:.1f} MB unpacked: {sure} identify, "
        f"{len(findings) - sure} are text that nobody vouches for"
        + ("; the first 200 are shown" if len(findings) > 200 else ""),
        style="dim",
    )


@app.command(epilog="Example: srmri demo --out srmri-demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to create.")] = Path("srmri-demo"),
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go the whole way on a built-in digital mouse brain, in a few minutes at most.

    Simulates two ParaVision studies of one animal, inspects them, pairs them and reports.
    """
    from srmri_data.demo import run_demo

    with _progress(quiet) as progress:
        result = run_demo(out, force=force, progress=progress)
    if json_output:
        _print_json(result)
        return
    _print_scans(result["inspected"])
    _print_summary(result["summary"], Path(result["run"]))


@app.command(
    "import-checkpoint",
    epilog="Example: srmri import-checkpoint checkpoint_95.pth --out score-mri.safetensors --json",
)
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="Checkpoint of score_sde, score-MRI or MCG (.pth).")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors).")],
    force: Force = False,
    json_output: Json = False,
) -> None:
    """Bring in a public NCSN++ checkpoint; nothing in it is run.

    The shape is recognised by names and sizes, the moving average is laid over the weights, and
    every key is reported.
    """
    from srmri_model.public_checkpoints import run_import

    report = run_import(file, out, force=force)
    if json_output:
        _print_json(report)
    else:
        _print_import(report)


def _print_import(report: dict[str, Any]) -> None:
    table = _table(("key in the file", "left"), ("weight here", "left"), ("values from", "left"))
    for key in report["keys"]:
        table.add_row(key["name"], key["target"] or "–", key["source"])
    console = Console(highlight=False)
    console.print(table)
    counts, network = report["counts"], report["network"]
    console.print(
        f"{counts['ema']} from the moving average, {counts['model']} from the model, "
        f"{counts['dropped']} dropped; not needed: {', '.join(report['ignored']) or 'nothing'}"
    )
    console.print(
        f"NCSN++, nf {network['nf']}, levels {network['ch_mult']}, {network['blocks']} blocks, "
        f"σ {network['sigma_min']:g} to {network['sigma_max']:g}"
    )
    console.print(f"written: {report['checkpoint']}", markup=False, soft_wrap=True)


bench = typer.Typer(no_args_is_help=True, help="Measure samplers and models.")
app.add_typer(bench, name="bench")


@bench.command(
    "testbed",
    epilog="Examples: srmri bench testbed · srmri bench testbed --out testbed · "
    "srmri bench testbed --json",
)
def bench_testbed(
    out: Annotated[
        Path | None, typer.Option(help="Folder for testbed.json and testbed.png.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of truths and noise.")] = 0,
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold every sampler against the exact posterior of Gaussian images.

    Needs no weights and no data; about a minute on a processor. docs/samplers.md explains the
    figures.
    """
    from srmri_model.testbed_bench import run_testbed

    with _progress(quiet) as progress:
        document = run_testbed(out=out, seed=seed, force=force, progress=progress)
    if json_output:
        _print_json(document)
    else:
        _print_testbed(document)
    if out is not None:
        _stderr().print(f"written: {out}", markup=False)


@bench.command(
    "curation",
    epilog="Examples: srmri bench curation --smoke --out smoke · srmri bench curation --data mice/ "
    "--split splits.json --out curation · srmri bench curation --data mice/ --out curation "
    "--model carn --steps 2000 --sources paper,geometry",
)
def bench_curation(
    *,
    data: Annotated[
        list[str] | None,
        typer.Option(help="HR volumes, or folders of them. Repeatable. Default: the phantom."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of pairs, networks and results.")],
    split: Annotated[
        Path | None, typer.Option(help="JSON with lists of subjects: train, tune, test.")
    ] = None,
    role: Annotated[HeldOut, typer.Option(help="Which list of the split is judged on.")] = "test",
    model: Annotated[
        SupervisedName, typer.Option(help="What learns from the pairs, in its scaled preset.")
    ] = "srcnn",
    steps: Annotated[int, typer.Option(min=1, help="Steps on each kind of pairs.")] = 600,
    sources: Annotated[
        str, typer.Option(help="Kinds of pairs, comma-separated.")
    ] = "paper,geometry,bicubic,truth",
    animals: Annotated[int, typer.Option(min=1, help="Animals to train on, at most.")] = 6,
    test_animals: Annotated[int, typer.Option(min=1, help="Animals to judge on, at most.")] = 4,
    test_slices: Annotated[int, typer.Option(min=1, help="Slices of each that are judged.")] = 10,
    plane: Annotated[Plane, typer.Option(help="Plane of the slices.")] = "coronal",
    snr: Annotated[float, _physics("Mean foreground of LR over its noise.", min=1)] = 25.0,
    shift: Annotated[float, _physics("Largest motion, HR voxels along each axis.", min=0)] = 1.5,
    tilt: Annotated[float, _physics("Largest motion, degrees about each axis.", min=0)] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Everything at its least size: shows that it runs.")
    ] = False,
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what pairing is worth: one network, trained on pairs of several kinds.

    Simulates LR scans of HR volumes with known truth, pairs them as srmri pair does by --method
    paper and geometry, trains the same network on either, on HR that is merely made smaller, and
    on the true pairs, and judges all on other animals' LR scans. Writes curation.md, curation.csv
    and curation.json; what is done is not done again. docs/baselines.md explains the figures.
    """
    from srmri_model.bench.curation import as_markdown, run_curation
    from srmri_model.bench.curation_pairs import CurationConfig

    config = CurationConfig(
        model=model,
        steps=steps,
        sources=tuple(part.strip() for part in sources.split(",")),  # type: ignore[misc]
        animals=animals,
        test_animals=test_animals,
        test_slices=test_slices,
        plane=plane,
        snr=snr,
        shift=shift,
        tilt=tilt,
        seed=seed,
        role=role,
    )
    with _progress(quiet) as progress:
        document = run_curation(
            data or [],
            out,
            config.smoke() if smoke else config,
            split=split,
            force=force,
            progress=progress,
        )
    if json_output:
        _print_json(document)
    else:
        sys.stdout.write(as_markdown(document))
        _stderr().print(f"written: {out}", markup=False)


@bench.command(
    "tables",
    epilog="Examples: srmri bench tables --smoke --out smoke · srmri bench tables --data mice/ "
    "--split splits.json --out tables --budget 30 · srmri bench tables --data dataset --out tables "
    "--methods fast,rcan --slices 4",
)
def bench_tables(
    *,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="HR volumes or folders of them, or one exported dataset or Hub id "
            "(user/name@revision). Repeatable. With --smoke: none is the phantom."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of cells, models and results.")],
    split: Annotated[
        Path | None,
        typer.Option(help="JSON with lists of subjects: train, tune or validation, test."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated; default: all of docs/tables.md.")
    ] = None,
    subjects: Annotated[
        str | None, typer.Option(help="Comma-separated test subjects; default: all.")
    ] = None,
    slices: Annotated[int | None, typer.Option(min=1, help="Slices of each subject.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Minutes of training per model; the long samplers take ten levels for each, 20 to "
            "2000."
        ),
    ] = None,
    draws: Annotated[int | None, typer.Option(min=2, help="Draws of fast-mean.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Score model. Default, and 'bundled': the package's own where it fits; else one "
            "is trained."
        ),
    ] = None,
    plane: Annotated[Plane, typer.Option(help="Plane of the slices.")] = "coronal",
    operator: Annotated[OperatorKind, _physics("What makes LR, and what samplers assume.")] = (
        "kspace"
    ),
    width: Annotated[float | None, _physics("Of box, gaussian, slice-profile; LR voxels.")] = None,
    factor: Annotated[float, _physics("LR over HR voxel size, in both axes.", min=1)] = 2.0,
    sigma_y: Annotated[float, _physics("Noise of the LR that is made, of HR's range.", min=0)] = (
        0.01
    ),
    grid: Annotated[Grid, _physics("Where LR voxels lie on HR.")] = "voxel-centre",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Every method on a crop with seconds of training: shows that it runs."
        ),
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute the paper's tables on any data: every method, measured the same way.

    Trains or loads every method, and writes results.csv, tables.md, tables.tex, index.html and
    figures. Each result of a method on a slice is kept and not computed again: stop it at any
    time, and call it again to go on. docs/tables.md explains the figures.
    """
    from srmri_model.bench.plan import TablesConfig

    given = {"slices": slices, "budget": budget, "draws": draws}
    config = TablesConfig.chosen(
        smoke=smoke,
        **{name: value for name, value in given.items() if value is not None},
        plane=plane,
        operator=operator,
        width=width,
        factor=factor,
        sigma_y=sigma_y,
        grid=grid,
        methods=_names(methods),
        subjects=_names(subjects),
        seed=seed,
    )
    from srmri_model.bench.run import run_tables

    with _bars(quiet) as (progress, stop_progress):
        document = run_tables(
            data or [],
            out,
            config,
            split=split,
            weights=None if weights in (None, "bundled") else Path(weights),
            command=["srmri", *sys.argv[1:]],
            progress=progress,
            warn=_warn,
            before_leaving=stop_progress,
        )
    if json_output:
        _print_json(document)
    else:
        _print_tables(document)
    if document["failures"]:
        raise typer.Exit(ExitCode.PARTIAL)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part for part in (text or "").replace(" ", "").split(",") if part)


def _print_tables(document: dict[str, Any]) -> None:
    console = Console(highlight=False)
    columns = ("PSNR", "SSIM", "LPIPS", "χ²/m", "nfe", "nbe", "s")
    for number, rows in document["tables"].items():
        table = _table(("method", "left"), *((name, "right") for name in columns))
        for row in rows:
            figures = (("psnr", 2), ("ssim", 3), ("lpips", 3), ("chi2", 2), ("nfe", 0), ("nbe", 0))
            shown = ["–" if row[name] is None else f"{row[name]:.{n}f}" for name, n in figures]
            seconds = "–" if row["seconds"] is None else f"{row['seconds']:.3g}"
            table.add_row(row["label"], *shown, seconds)
        console.print(f"Table {number}", style="bold")
        console.print(table)
    for name, reason in document["failures"].items():
        console.print(f"failed: {name}: {reason}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"page: {document['page']}", markup=False, soft_wrap=True)


def _print_testbed(document: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for sigma_y, rows in document["details"].items():
        table = _table(
            ("sampler", "left"),
            *((name, "right") for name in ("ρ", "nfe", "nbe", "PSNR", "std", "residual", "bias")),
        )
        table.columns[0].no_wrap = True
        exact = next(iter(rows.values()))["psnr_exact"]
        table.add_row("exact", "–", "–", "–", f"{exact:.2f}", "1.00", "1.00", "0.00", style="bold")
        for name, row in rows.items():
            table.add_row(
                name,
                f"{row['rho']:g}" if "rho" in row else "–",
                str(row["nfe"]),
                str(row["nbe"]),
                *(f"{row[figure]:.2f}" for figure in ("psnr", "std_ratio", "residual", "bias")),
            )
        console.print(f"σ_y = {sigma_y}", style="bold")
        console.print(table)
    console.print(
        "PSNR in dB; std of draws over the posterior's; residual over σ_y; bias over the "
        "posterior's std",
        style="dim",
    )


@app.command()
def doctor(json_output: Json = False) -> None:
    """Check the installation: versions, LPIPS weights, processors, disk, a tiny round trip."""
    from srmri_data.doctor import examine

    findings = examine()
    if json_output:
        _print_json({"ok": all(f.ok for f in findings), "findings": [vars(f) for f in findings]})
    else:
        console = Console(highlight=False)
        for finding in findings:
            mark, style = ("ok  ", "green") if finding.ok else ("FAIL", "bold red")
            console.print(f"[{style}]{mark}[/] {finding.name:<14} ", end="")
            console.print(finding.text, markup=False, soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(ExitCode.BAD_INPUT)


if __name__ == "__main__":
    main()
