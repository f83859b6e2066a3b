"""Units on a SLURM cluster, as job arrays of submitit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srmri_data.jobs import Clock, Progress, Task, is_finished, record_loss, run_tasks, state_of
from srmri_data.slurm import SlurmOptions, job_executor

if TYPE_CHECKING:
    import submitit

POLL_SECONDS = 2.0
JOBS_FOLDER = "jobs"


@dataclass(frozen=True)
class ClusterOptions(SlurmOptions):
    """What to ask the cluster for: `SlurmOptions`, and what is special to an array.

    Parameters
    ----------
    engine, partition, minutes, memory_gb, processors, extra : see `SlurmOptions`
        As for every job.
    parallel : int
        Array tasks that may run at a time.
    units_per_task : int
        Subjects an array task pairs one after another; `minutes` is for each.
    """

    parallel: int = 32
    units_per_task: int = 1

    def parameters(self) -> dict[str, Any]:
        """Return them as submitit calls them.

        Returns
        -------
        dict
            Arguments of ``AutoExecutor.update_parameters``.
        """
        return {
            **super().parameters(),
            "timeout_min": self.minutes * self.units_per_task,
            "slurm_array_parallelism": self.parallel,
        }


class ArrayTask:
    """What one task of the array does: pair its units, in a process that may die.

    Parameters
    ----------
    tasks : sequence of Task
        Its units.
    threads : int
        Threads of the worker.
    """

    def __init__(self, tasks: Sequence[Task], threads: int) -> None:
        self.tasks = tuple(tasks)
        self.threads = threads

    def __call__(self) -> list[str]:
        """Pair the units one after another.

        Returns
        -------
        list of str
            State of each.
        """
        run_tasks(self.tasks, workers=1, threads=self.threads)
        return [state_of(task.folder) for task in self.tasks]

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Say how to go on after a preemption; what is finished is not done again.

        Returns
        -------
        DelayedSubmission
            The same task.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(tasks: Sequence[Task], out: Path, options: ClusterOptions) -> list[Submitted]:
    """Submit units as one job array.

    Parameters
    ----------
    tasks : sequence of Task
        What to do.
    out : Path
        Folder of the cohort, visible from the nodes; job files go to ``jobs`` in it.
    options : ClusterOptions
        What to ask for.

    Returns
    -------
    list of Submitted
        One per array task.

    Raises
    ------
    UsageError
        If submitit or SLURM is missing, or refuses the options.
    """
    size = options.units_per_task
    shares = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    work = [ArrayTask(share, options.processors) for share in shares]
    with job_executor(out / JOBS_FOLDER, options) as executor, executor.batch():
        jobs = [executor.submit(item) for item in work]
    return [Submitted(job, tuple(share)) for job, share in zip(jobs, shares, strict=True)]


@dataclass(frozen=True, eq=False)
class Submitted:
    """An array task and the units in it.

    Parameters
    ----------
    job : submitit.Job
        The job.
    tasks : tuple of Task
        Its units.
    """

    job: submitit.Job[Any]
    tasks: tuple[Task, ...]


def wait(
    submitted: Sequence[Submitted], *, progress: Progress | None = None, clock: Clock = time.time
) -> None:
    """Wait for array tasks; units that were lost with one become failures.

    Parameters
    ----------
    submitted : sequence of Submitted
        From `submit`.
    progress : callable, optional
        Called as ``progress("subjects", done, total)``.
    clock : callable
        Seconds since the epoch.

    Notes
    -----
    Leaving early, for instance by Ctrl-C, leaves the jobs to the cluster: the
    same command later, or its ``--status``, finds what they wrote.
    """
    step = progress or (lambda *_: None)
    total = sum(len(item.tasks) for item in submitted)
    waiting = list(submitted)
    finished = 0
    while waiting:
        for item in [item for item in waiting if item.job.done()]:
            waiting.remove(item)
            finished += len(item.tasks)
            _record_losses(item, clock)
        under_way = sum(is_finished(task) for item in waiting for task in item.tasks)
        step("subjects", finished + under_way, total)
        if waiting:
            time.sleep(POLL_SECONDS)


def _record_losses(item: Submitted, clock: Clock) -> None:
    """Write down which units an array task did not bring to an end."""
    for task in item.tasks:
        if not is_finished(task) and state_of(task.folder) != "running":
            record_loss(
                task,
                f"{task.unit.name}: job {item.job.job_id} ended as {item.job.state} "
                "before this unit was finished",
                f"see {item.job.paths.stderr}; more time or memory: --slurm-time, --slurm-mem",
                clock=clock,
            )
