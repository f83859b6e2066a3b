"""A training run as a SLURM job of one or more processes, through submitit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srmri_data.slurm import SlurmOptions, job_executor

if TYPE_CHECKING:
    import submitit

    from srmri_model.training.config import TrainConfig
    from srmri_model.training.supervised_config import SupervisedConfig


@dataclass(frozen=True)
class JobOptions(SlurmOptions):
    """What to ask the cluster for: `SlurmOptions`, and what is special to training.

    Parameters
    ----------
    engine, partition, minutes, memory_gb, processors, extra : see `SlurmOptions`
        As for every job.
    nodes, processes, gpus : int
        Nodes, and processes and GPUs on each.

    Notes
    -----
    A run that is stopped by the time limit is queued again and goes on.
    """

    minutes: int = 720
    memory_gb: float = 32.0
    processors: int = 4
    nodes: int = 1
    processes: int = 1
    gpus: int = 0

    def parameters(self) -> dict[str, Any]:
        """Return them as submitit calls them.

        Returns
        -------
        dict
            Arguments of ``AutoExecutor.update_parameters``.
        """
        return {
            **super().parameters(),
            "name": "srmri-train",
            "nodes": self.nodes,
            "tasks_per_node": self.processes,
            "gpus_per_node": self.gpus,
        }


@dataclass(frozen=True)
class TrainingJob:
    """What every process of the job does: train, going on where an earlier one stopped.

    Parameters
    ----------
    data : tuple of str
        Training data.
    out : Path
        Folder of the run, visible from the nodes.
    config : TrainConfig or SupervisedConfig
        How to train.
    split, init : Path, optional
        As for `srmri_model.train.run_training`.
    """

    data: tuple[str, ...]
    out: Path
    config: TrainConfig | SupervisedConfig
    split: Path | None = None
    init: Path | None = None

    def __call__(self) -> dict[str, Any]:
        """Join the job's other processes and train.

        Returns
        -------
        dict
            The summary, in the main process.
        """
        import submitit

        from srmri_model.train import run_training

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        return run_training(
            self.data, self.out, self.config, split=self.split, init=self.init, resume=True,
            command=["srmri", "train", "--engine", "slurm"], warn=print,
        )  # fmt: skip

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Say how to go on after a preemption or at the time limit.

        Returns
        -------
        DelayedSubmission
            The same job, which resumes.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit_training(
    options: JobOptions,
    *,
    data: Sequence[str],
    out: Path,
    config: TrainConfig | SupervisedConfig,
    split: Path | None = None,
    init: Path | None = None,
) -> tuple[str, str]:
    """Submit a training run.

    Parameters
    ----------
    options : JobOptions
        What to ask for.
    data : sequence of str
        Training data.
    out : Path
        Folder of the run, visible from the nodes; the job's files go to ``jobs`` in it.
    config : TrainConfig or SupervisedConfig
        How to train.
    split, init : Path, optional
        As for `srmri_model.train.run_training`.

    Returns
    -------
    job_id, log : str
        Number of the job, and where its output goes.

    Raises
    ------
    UsageError
        If submitit or SLURM is missing, or refuses the options.
    """
    out = Path(out).absolute()
    here = [str(Path(d).absolute()) if Path(d).exists() else d for d in data]
    job = TrainingJob(
        tuple(here),
        out,
        config,
        split and Path(split).absolute(),
        init and Path(init).absolute(),
    )
    with job_executor(out / "jobs", options) as executor:
        submitted = executor.submit(job)
    return str(submitted.job_id), str(submitted.paths.stderr)
