"""What every SLURM job of this project asks for, and how it is handed to submitit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srmri_data.errors import UsageError


@dataclass(frozen=True)
class SlurmOptions:
    """What to ask a cluster for.

    Parameters
    ----------
    engine : {"slurm", "local"}
        submitit's executor; ``local`` goes the same way on this machine, to try it.
    partition : str, optional
        SLURM partition; the cluster's default otherwise.
    minutes : int
        Time limit.
    memory_gb : float
        Memory of a node or array task.
    processors : int
        Processors of a process.
    extra : mapping of str to str
        Further sbatch options, such as ``account`` or ``qos``.
    """

    engine: str = "slurm"
    partition: str | None = None
    minutes: int = 60
    memory_gb: float = 8.0
    processors: int = 1
    extra: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """Return them as submitit calls them.

        Returns
        -------
        dict
            Arguments of ``AutoExecutor.update_parameters``.
        """
        partition = {} if self.partition is None else {"slurm_partition": self.partition}
        return {
            "name": "srmri",
            "timeout_min": self.minutes,
            "mem_gb": self.memory_gb,
            "cpus_per_task": self.processors,
            "slurm_additional_parameters": dict(self.extra),
            **partition,
        }


@contextmanager
def job_executor(folder: Path, options: SlurmOptions) -> Iterator[Any]:
    """Give an executor to submit jobs to, and explain what it refuses.

    Parameters
    ----------
    folder : Path
        For the files of the jobs, visible from the nodes.
    options : SlurmOptions
        What to ask for.

    Yields
    ------
    submitit.AutoExecutor
        The executor.

    Raises
    ------
    UsageError
        If submitit or SLURM is missing, or refuses the options.
    """
    try:
        import submitit
    except ImportError as error:
        raise UsageError(
            f"jobs need a package that is missing ({error.name})",
            hint="pip install 'srmri[slurm]', or leave out --engine",
        ) from error
    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=options.engine)
        executor.update_parameters(**options.parameters())
        yield executor
    except (RuntimeError, ValueError, NameError, submitit.core.utils.FailedJobError) as error:
        raise UsageError(
            f"the jobs could not be submitted: {error}",
            hint="is SLURM installed here (sinfo), and are partition and limits allowed?",
        ) from error
