"""Train a score model: one pure step, and around it a run that can be killed anywhere.

Every random number depends on the seed and on the number of a step or image
(`srmri_model.training.order`), so the state of a run is its weights, their
average, the optimiser's moments and one count. `run_training` is where clock, disk,
processes and signals come in.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from srmri_data.dataset import SliceItem
from srmri_data.errors import TrainingError, UsageError
from srmri_data.safe_io import sha256_file, sweep_temporaries, write_json
from srmri_model.checkpoints import (
    SCORE,
    Checkpoint,
    load_checkpoint,
    load_denoiser,
    save_checkpoint,
)
from srmri_model.networks import (
    Denoiser,
    NCSNpp,
    NetworkConfig,
    build_network,
    loss_weight,
    parameter_count,
    shown_more,
)
from srmri_model.sde import training_sigmas
from srmri_model.training.config import RunConfig, TrainConfig
from srmri_model.training.domain import describe_slices, training_residuals
from srmri_model.training.logs import TrainingLog
from srmri_model.training.optimise import Optimiser
from srmri_model.training.order import draw, shapes_of
from srmri_model.training.ranks import Ranks, joined, local_device
from srmri_model.training.slices import (
    FLIPPABLE,
    Progress,
    Slices,
    TrainingData,
    open_data,
    plane_index,
    showing,
    volumes_of,
    with_neighbours,
)
from srmri_model.training.states import StateFolder
from srmri_model.training.stop import saves_when_stopped
from srmri_model.training.supervised import SupervisedTask
from srmri_model.training.supervised_config import SupervisedConfig
from srmri_model.training.task import Task
from srmri_model.training.trainer import Batches, Trainer
from srmri_model.training.validation import (
    LEVELS,
    VOLUME_LEVELS,
    NoiseTable,
    levels_of,
    measure,
    measure_volumes,
)
from srmri_model.types import Images, Planes, Sigmas

MODEL_FILE = "model.safetensors"
"""The run's product: averaged weights of the best validation, with v(σ)."""

LOG_STEPS = 10
"""Steps between rows of ``log.csv``."""


def training_step(
    denoiser: Denoiser, clean: Images, noise: Images, sigma: Sigmas, plane: Planes | None = None
) -> Tensor:
    """Return the denoising score-matching loss of a batch.

    With D = x + σ² s this is σ² ‖s + z/σ‖², the paper's loss, where the network
    is parametrised as a score, and EDM's weighted loss where it is preconditioned.

    Parameters
    ----------
    denoiser : Denoiser
        D(x, σ).
    clean : (B, C, H, W) Tensor
        Images in [0, 1] by their volumes' maps, and their neighbours as further channels.
    noise : (B, C, H, W) Tensor
        Standard normal; zero where a neighbour lacks.
    sigma : (B,) Tensor
        Noise level of each image.
    plane : (B,) Tensor, optional
        Plane of each image.

    Returns
    -------
    Tensor
        Mean over pixels and images, differentiable.

    References
    ----------
    P. Vincent, A connection between score matching and denoising autoencoders,
    Neural Computation 23 (2011); Song et al. 2021, equation 7.
    """
    denoised = denoiser(clean + sigma[:, None, None, None] * noise, sigma, plane)
    error = (denoised - clean[:, : denoised.shape[1]]).square().mean(dim=(1, 2, 3))
    return (loss_weight(denoiser.config, sigma) * error).mean()


class Batch(NamedTuple):
    """Images and their noise, all of one size.

    Attributes
    ----------
    clean, noise : (B, C, H, W) Tensor
        float32; one channel, and one more for every neighbour.
    uniform : (B,) Tensor
        Places of the noise levels in their distribution.
    plane : (B,) Tensor or None
        Plane labels.
    """

    clean: Images
    noise: Images
    uniform: Sigmas
    plane: Planes | None

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device.

        Parameters
        ----------
        device : torch.device
            Where to.

        Returns
        -------
        Batch
            The same there.
        """
        return Batch(*(None if v is None else v.to(device, non_blocking=True) for v in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Status:
    """How far a run is, for a progress display.

    Parameters
    ----------
    stage : str
        What is being done.
    done, total : float
        Of the stage.
    step : int
        Optimiser steps done.
    loss : float or None
        Mean since the last status.
    images_s : float
        Images per second, over all processes.
    eta_s : float or None
        Seconds left.
    memory_bytes : int
        Most memory used so far, of the GPU or of this process.
    """

    stage: str
    done: float
    total: float
    step: int = 0
    loss: float | None = None
    images_s: float = 0.0
    eta_s: float | None = None
    memory_bytes: int = 0

    def facts(self) -> str:
        """Say the figures in a line.

        Returns
        -------
        str
            Empty where there are none.
        """
        if self.loss is None:
            return f"step {self.step}" if self.step else ""
        parts = [
            f"step {self.step}",
            f"loss {self.loss:.4f}",
            f"{self.images_s:.1f} images/s",
            f"{self.memory_bytes / 1e9:.1f} GB",
        ]
        if self.eta_s is not None:
            minutes, seconds = divmod(round(self.eta_s), 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left")
        return " · ".join(parts)


class SliceBatches(Batches[Batch]):
    """Batches of slices, with their noise.

    Parameters
    ----------
    slices : Slices
        Training slices.
    config : TrainConfig
        Batch size, patch, augmentation, seed.
    ranks : Ranks
        Processes among which each step's images are divided.
    shape : NetworkConfig
        The planes the network tells apart, and the neighbours it knows.
    """

    def __init__(
        self, slices: Slices, config: TrainConfig, ranks: Ranks, shape: NetworkConfig
    ) -> None:
        super().__init__(shapes_of(slices.sizes, config.patch), config, ranks)
        self.slices = slices
        self.config = config
        self.shape = shape

    def part(self, numbers: Sequence[int], indices: Sequence[int]) -> Batch:
        """Load a batch.

        Parameters
        ----------
        numbers : sequence of int
            How many images came before each in the run, over all processes.
        indices : sequence of int
            Which slices.

        Returns
        -------
        Batch
            Their images.
        """
        items = [self.slices[index] for index in indices]
        draws = [
            draw(
                with_neighbours(item, self.shape.neighbours),
                number,
                seed=self.config.seed,
                patch=self.config.patch,
                may_flip=item["plane"] in FLIPPABLE,
                may_swap=item["plane"] == "sagittal",
                augment=self.config.augment,
                zero=_no_signal(item),
            )
            for item, number in zip(items, numbers, strict=True)
        ]
        channels = 1 + 2 * self.shape.neighbours
        images, noises = (
            torch.from_numpy(np.stack(arrays)).reshape(len(draws), channels, *arrays[0].shape[-2:])
            for arrays in ([d.image for d in draws], [d.noise for d in draws])
        )
        return Batch(
            images,
            noises,
            torch.tensor([d.level for d in draws], dtype=torch.float32),
            plane_index([item["plane"] for item in items], self.shape.n_planes),
        )


class ScoreTask:
    """A score model to be trained on HR slices alone.

    Parameters
    ----------
    config : TrainConfig
        How to train.
    """

    kind = SCORE
    columns = NoiseTable.columns

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._described: dict[str, Any] = {}

    def open(
        self, data: Sequence[str], cache: Path, *, split: Path | None, progress: Progress
    ) -> None:
        """Open the data.

        Parameters
        ----------
        data : sequence of str
            See `srmri_model.training.slices.open_data`.
        cache : Path
            Folder for mapped volumes.
        split : Path or None
            Which subjects train.
        progress : callable
            Called as ``progress(stage, done, total)``.
        """
        self.data: TrainingData = open_data(
            data, self.config.planes, cache, split=split, progress=progress
        )

    @property
    def fingerprint(self) -> str:
        """Hash to know the data again."""
        return self.data.fingerprint

    @property
    def notes(self) -> Sequence[str]:
        """What a careful user should know of the data."""
        return self.data.notes

    @property
    def sizes(self) -> tuple[int, int]:
        """Slices to train on, and slices held out."""
        return len(self.data.train), len(self.data.validation)

    def shape(self, start: NetworkConfig | None) -> NetworkConfig:
        """Return the network to train.

        Parameters
        ----------
        start : NetworkConfig or None
            Of the checkpoint to begin with.

        Returns
        -------
        NetworkConfig
            See `TrainConfig.network_shape`; without neighbours where nobody asked for them and the
            data are single slices.
        """
        shape = self.config.network_shape(start)
        if self.config.neighbours is None and not volumes_of(self.data.train):
            shape = replace(shape, neighbours=0)
        return shape

    def prepare(
        self,
        shape: NetworkConfig,
        start: Checkpoint[NetworkConfig] | None,
        device: torch.device,
        ranks: Ranks,
    ) -> tuple[Trainer[Batch], Batches[Batch]]:
        """Build the network and what trains it.

        Parameters
        ----------
        shape : NetworkConfig
            The network.
        start : Checkpoint or None
            Weights to begin with.
        device : torch.device
            Where to train.
        ranks : Ranks
            Processes that train together.

        Returns
        -------
        trainer : Trainer
            Ready for the first step.
        batches : SliceBatches
            What it takes.
        """
        config = self.config
        if shape.neighbours:
            self.data = replace(
                self.data,
                train=showing(self.data.train, shape.neighbours),
                validation=showing(self.data.validation, shape.neighbours),
            )
        network = build_network(shape, seed=config.seed, gradient_checkpointing=config.recompute)
        if start is not None:
            network.load_state_dict(shown_more(start.tensors, shape))
        network.to(device)

        def loss(wrapped: nn.Module) -> Callable[[Batch], Tensor]:
            options = {"bf16": config.precision == "bf16", "compiled": config.compiled}
            denoiser = Denoiser(wrapped, shape, **options)

            def of(part: Batch) -> Tensor:
                part = part.to(device)
                sigma = training_sigmas(shape, part.uniform, config.noise)
                return training_step(denoiser, part.clean, part.noise, sigma, part.plane)

            return of

        trainer = Trainer(
            network,
            loss,
            Optimiser(network, config.optimiser),
            ranks,
            ema_decay=config.ema_decay,
            clip=config.clip,
        )
        return trainer, SliceBatches(self.data.train, config, ranks, shape)

    def validate(self, network: nn.Module, ranks: Ranks) -> NoiseTable:
        """Measure the error at every noise level.

        Parameters
        ----------
        network : Module
            With averaged weights.
        ranks : Ranks
            Processes that share the work.

        Returns
        -------
        NoiseTable
            The errors.
        """
        denoiser = _denoiser(network)
        return self._measured(denoiser, ranks, neighbours=denoiser.config.neighbours)

    def _measured(self, denoiser: Denoiser, ranks: Ranks, *, neighbours: int) -> NoiseTable:
        return measure(
            denoiser,
            self.data.validation,
            levels_of(denoiser.config, LEVELS),
            count=self.config.validation_slices,
            neighbours=neighbours,
            ranks=ranks,
        )

    def is_better(self, found: NoiseTable, best: Mapping[str, Any] | None, fraction: float) -> bool:
        """Tell whether weights take the place of the best so far.

        Parameters
        ----------
        found : NoiseTable
            Of these weights.
        best : mapping or None
            Facts about the best.
        fraction : float
            Part of the run that is done; all are alike.

        Returns
        -------
        bool
            Whether their score is lower.
        """
        return best is None or found.score < best["score_db"]

    def facts(self, found: NoiseTable) -> dict[str, Any]:
        """Return what is remembered of the best weights.

        Parameters
        ----------
        found : NoiseTable
            Their errors.

        Returns
        -------
        dict
            The score.
        """
        return {"score_db": found.score}

    def metadata(self, found: NoiseTable, network: nn.Module) -> dict[str, Any]:
        """Return what the product says of itself.

        Parameters
        ----------
        found : NoiseTable
            Its errors.
        network : Module
            With its weights.

        Returns
        -------
        dict
            v(σ), and what it knows, for `srmri upsample` to compare a scan with.
        """
        denoiser = _denoiser(network)
        if denoiser.config.neighbours:
            # Slices are drawn one by one, without neighbours; volumes have their own table.
            found = self._measured(denoiser, Ranks(), neighbours=0)
        if not self._described:
            self._described = describe_slices(self.data.train)
        residual = training_residuals(
            denoiser,
            self.data.validation,
            n_planes=denoiser.config.n_planes,
            sigma_max=denoiser.config.sigma_max,
            device=next(network.parameters()).device,
        )
        return {
            "kind": "score",
            "noise_table": found.to_json(),
            "planes": list(self.config.planes),
            "domain": {**self._described, "residual": residual},
            "intensity": "0.1 to 99.9 percentile of each volume's foreground is 0 to 1",
            "training": {
                "preset": self.config.preset,
                "n_slices": len(self.data.train),
                "n_subjects": len(set(self.data.train.subjects)),
            },
        }

    def complete(self, model: Path, progress: Progress) -> None:
        """Measure v(σ) of whole volumes, which takes too long for every validation.

        Parameters
        ----------
        model : Path
            The product, which is written again if it knows three planes and can be shown volumes.
        progress : callable
            Called as ``progress(stage, done, total)``.
        """
        volumes = volumes_of(self.data.validation)
        checkpoint = load_checkpoint(model)
        if len(self.config.planes) == 1 or not volumes or "volume_table" in checkpoint.metadata:
            return
        found = measure_volumes(
            load_denoiser(model, str(local_device(self.config.device))),
            volumes[:1],
            self.config.planes,
            levels_of(checkpoint.network, VOLUME_LEVELS),
            progress=lambda done, total: progress("measuring a volume", done, total),
        )
        metadata = {**checkpoint.metadata, "volume_table": found.to_json()}
        save_checkpoint(model, replace(checkpoint, metadata=metadata))

    def restored(self, document: dict[str, Any]) -> NoiseTable:
        """Read what a state has kept.

        Parameters
        ----------
        document : dict
            From `NoiseTable.to_json`.

        Returns
        -------
        NoiseTable
            The errors.
        """
        return NoiseTable.from_json(document)

    def summary(self, found: NoiseTable) -> dict[str, Any]:
        """Return the errors at every noise level.

        Parameters
        ----------
        found : NoiseTable
            Of the best weights.

        Returns
        -------
        dict
            ``n_validation`` and ``val_by_sigma``.
        """
        columns = zip(found.sigmas, found.foreground, found.background, strict=True)
        return {
            "n_validation": found.n_slices,
            "val_by_sigma": [
                {
                    "sigma": sigma,
                    "foreground": inside if math.isfinite(inside) else None,
                    "background": outside if math.isfinite(outside) else None,
                    "gain_db": 10 * math.log10(sigma**2 / inside) if inside > 0 else None,
                }
                for sigma, inside, outside in columns
            ],
        }

    def write_page(self, out: Path, summary: Mapping[str, Any], device: str) -> None:
        """Draw the run.

        Parameters
        ----------
        out : Path
            Folder of the run.
        summary : mapping
            What `run_training` returns.
        device : str
            Where to draw images.
        """
        from srmri_model.training.page import write_page

        write_page(out, summary, self.data.validation, device=device)


def _denoiser(network: nn.Module) -> Denoiser:
    return Denoiser(network, cast(NCSNpp, network).config)


def run_training(
    data: Sequence[str],
    out: Path,
    config: TrainConfig | SupervisedConfig,
    *,
    split: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    progress: Callable[[Status], None] | None = None,
    warn: Callable[[str], None] = lambda _text: None,
    before_leaving: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train, or go on training, in a folder.

    Parameters
    ----------
    data : sequence of str
        Volumes or folders of them, or one exported dataset, or one Hub id
        (``owner/name@revision``).
    out : Path
        Folder of the run.
    config : TrainConfig or SupervisedConfig
        How to train a score model, or a baseline.
    split : Path, optional
        Which subjects train and which are held out, see `srmri_model.training.slices.read_split`.
    init : Path, optional
        Checkpoint whose weights to begin with.
    resume : bool
        Go on from the newest whole state in `out`, from the start if there is none.
    command : sequence of str
        How the run was started, for its records.
    progress : callable, optional
        Called with a `Status` several times a second.
    warn : callable
        Called with what a careful user should know.
    before_leaving : callable
        Called when a signal ends the process: restores the terminal.
    clock : callable
        Seconds, never going back.

    Returns
    -------
    dict
        ``params``, ``steps``, ``images_s``, ``best``, ``weights_sha256`` and where things are;
        ``val_by_sigma`` of a score model, ``psnr`` and ``psnr_bicubic`` of a baseline.

    Raises
    ------
    UsageError
        If there is a run in `out` already, or the settings of a resumed run have changed.
    CheckpointError
        If no state in `out` is whole.
    TrainingError
        If the loss is no longer a number.
    """
    device = local_device(config.device)
    if device.type == "cpu":
        # A fresh network computes in denormals, several times slower.
        torch.set_flush_denormal(True)
    with joined(device) as ranks:
        run = _Run(Path(out), _task(config), config, device, ranks, progress, warn, clock)
        run.open(data, split=split, init=init, resume=resume, command=command)

        def leave() -> None:
            before_leaving()
            run.save_before_leaving()

        with saves_when_stopped(leave, run.trainer.changing):
            run.train()
            return run.finish()


def _task(config: TrainConfig | SupervisedConfig) -> Task[Any, Any, Any]:
    if isinstance(config, TrainConfig):
        return ScoreTask(config)
    return SupervisedTask(config)


class _Run:
    """One process's part of a run, and its files."""

    def __init__(
        self,
        out: Path,
        task: Task[Any, Any, Any],
        config: RunConfig,
        device: torch.device,
        ranks: Ranks,
        progress: Callable[[Status], None] | None,
        warn: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.out, self.task, self.config = out, task, config
        self.device, self.ranks = device, ranks
        self.report = progress if progress is not None and ranks.is_main else lambda _status: None
        self.warn = warn if ranks.is_main else lambda _text: None
        self.clock = clock
        self.states = StateFolder(out / "states", task.kind, keep=config.keep)
        self.seconds_before = 0.0
        self.idle_seconds = 0.0
        self.best: dict[str, Any] | None = None
        self.table: Any = None
        self.validated = -1
        self.saved = -1

    def open(
        self,
        data: Sequence[str],
        *,
        split: Path | None,
        init: Path | None,
        resume: bool,
        command: Sequence[str],
    ) -> None:
        if self.ranks.is_main:
            if self.states.paths() and not resume:
                raise UsageError(
                    f"{self.out} holds a training run already",
                    hint="go on with --resume, or choose another --out",
                )
            self.out.mkdir(parents=True, exist_ok=True)
            sweep_temporaries(self.out)
            self._open_data(data, split)
            state = self.states.newest(self.warn) if resume else None
        # The main process maps volumes and sets damaged states aside before others look.
        self.ranks.wait()
        if not self.ranks.is_main:
            self._open_data(data, split)
            state = self.states.newest(self.warn) if resume else None
        self._prepare(init, state)
        settings = {
            "network": json.loads(json.dumps(self.task.kind.describe(self.shape))),
            "data": self.task.fingerprint,
            "images_per_step": self.batches.images_per_step,
            **self.config.settings(),
        }
        self.settings = settings
        if state is not None:
            self._restore(state)
        self.first_step = self.trainer.step
        self.began = self.last_saved = self.clock()
        if self.ranks.is_main:
            self.log = TrainingLog(self.out, step=self.trainer.step, columns=self.task.columns)
            write_json(
                self.out / "config.json",
                {
                    "schema_version": 1,
                    "srmri": version("srmri"),
                    "torch": torch.__version__,
                    "command": list(command),
                    "data": list(data),
                    "config": self.config.to_json(),
                    "settings": settings,
                    "processes": self.ranks.world,
                    "n_train": self.task.sizes[0],
                    "n_validation": self.task.sizes[1],
                },
            )

    def _progress(self, stage: str, done: int, total: int) -> None:
        self.report(Status(stage, done, total))

    def _open_data(self, data: Sequence[str], split: Path | None) -> None:
        self.task.open(data, self.out / "cache", split=split, progress=self._progress)
        for note in self.task.notes:
            self.warn(note)

    def _prepare(self, init: Path | None, state: Checkpoint[Any] | None) -> None:
        start = load_checkpoint(init, self.task.kind) if init is not None else None
        self.shape = self.task.shape(start.network if start is not None else None)
        if state is not None and state.network != self.shape:
            raise UsageError(
                f"the run in {self.out} trains another network",
                hint="resume with the options it was started with, see its config.json",
            )
        self.trainer, self.batches = self.task.prepare(self.shape, start, self.device, self.ranks)

    def _restore(self, state: Checkpoint[Any]) -> None:
        found = state.metadata
        changed = [
            name
            for name in {**self.settings, **found["settings"]}
            if self.settings.get(name) != found["settings"].get(name)
        ]
        if changed:
            raise UsageError(
                f"the run in {self.out} was started with other {', '.join(sorted(changed))}",
                hint="resume with the options it was started with, see its config.json",
            )
        self.trainer.restore(state, int(found["step"]))
        self.seconds_before = float(found["seconds"])
        self.best, self.validated = found["best"], int(found["validated"])
        self.table = None if found["table"] is None else self.task.restored(found["table"])
        self.saved = self.trainer.step

    def train(self) -> None:
        trainer, config = self.trainer, self.config
        losses = torch.zeros((), device=self.device)
        since = 0
        batches = self.batches.following(trainer.step)
        with contextlib.closing(batches):
            while (fraction := self._fraction()) < 1:
                if trainer.step % config.validate_every == 0 and trainer.step > max(
                    0, self.validated
                ):
                    self._validate()
                if self._is_due():
                    self._save()
                self.rate = config.learning_rate_at(trainer.step, fraction)
                loss, norm = trainer.advance(next(batches), self.rate, fraction)
                losses += loss
                since += 1
                if trainer.step % LOG_STEPS == 0:
                    self._log(float(losses) / since, float(norm), fraction)
                    losses.zero_()
                    since = 0

    def _elapsed(self) -> float:
        return self.seconds_before + self.clock() - self.began

    def _fraction(self) -> float:
        """Return how much of the budget is used up."""
        if self.config.minutes is None:
            return self.trainer.step / self._total_steps()
        # Clocks differ between processes; what depends on one must not.
        return self.ranks.agree(self._elapsed() / (60 * self.config.minutes), self.device)

    def _total_steps(self) -> int:
        if self.config.steps is not None:
            return self.config.steps
        return math.ceil((self.config.epochs or 0) * self.batches.order.steps_per_epoch)

    def _is_due(self) -> bool:
        if self.saved == self.trainer.step or not self.ranks.is_main:
            return False
        return self.clock() - self.last_saved >= 60 * self.config.checkpoint_minutes

    def _images_s(self) -> float:
        busy = self.clock() - self.began - self.idle_seconds
        images = (self.trainer.step - self.first_step) * self.batches.images_per_step
        return images / busy if busy > 0 else 0.0

    def _log(self, loss: float, norm: float, fraction: float) -> None:
        step = self.trainer.step
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"the loss is {loss} after {step} steps; the last state saved is after "
                f"{max(self.saved, 0)}",
                hint="try a lower --learning-rate",
            )
        if not self.ranks.is_main:
            return
        images_s, elapsed = self._images_s(), self._elapsed()
        self.log.training(
            {
                "step": step,
                "images": step * self.batches.images_per_step,
                "seconds": round(elapsed, 3),
                "loss": loss,
                "gradient_norm": norm,
                "learning_rate": self.rate,
                "images_s": round(images_s, 2),
            }
        )
        self.report(
            Status(
                "training",
                min(fraction, 1.0),
                1.0,
                step=step,
                loss=loss,
                images_s=images_s,
                eta_s=max(0.0, elapsed * (1 / fraction - 1)) if fraction > 0 else None,
                memory_bytes=_memory(self.device),
            )
        )

    def _validate(self) -> None:
        began = self.clock()
        self.report(Status("validating", 0, 1, step=self.trainer.step))
        network = self.trainer.averaged()
        found = self.task.validate(network, self.ranks)
        step = self.trainer.step
        if not math.isfinite(found.score):
            raise TrainingError(
                f"the validation error is not finite after {step} steps; the last state saved is "
                f"after {max(self.saved, 0)}",
                hint="try a lower --learning-rate",
            )
        better = self.task.is_better(found, self.best, self._fraction())
        if self.ranks.is_main:
            self.log.validation(step, found)
        writes = better and self.ranks.is_main
        metadata = self.task.metadata(found, network) if writes else {}
        with self.trainer.changing:
            if better:
                best = {"step": step, **self.task.facts(found)}
                if writes:
                    self._save_model(best, metadata)
                self.best, self.table = best, found
            self.validated = step
        self.idle_seconds += self.clock() - began

    def _save_model(self, best: dict[str, Any], metadata: dict[str, Any]) -> None:
        weights, _ = self.trainer.state()
        metadata["training"] = {
            "srmri": version("srmri"),
            "images": best["step"] * self.batches.images_per_step,
            **metadata["training"],
            **best,
            **self.config.settings(),
        }
        save_checkpoint(
            self.out / MODEL_FILE,
            Checkpoint(self.shape, weights, metadata=metadata),
            self.task.kind,
        )

    def _save(self) -> None:
        began = self.clock()
        with self.trainer.changing:
            self._save_state()
        self.last_saved = self.clock()
        self.idle_seconds += self.last_saved - began

    def _save_state(self) -> None:
        step = self.trainer.step
        if not self.trainer.is_finite():
            raise TrainingError(
                f"the weights are not finite after {step} steps, so they were not saved; the last "
                f"state saved is after {max(self.saved, 0)}",
                hint="try a lower --learning-rate",
            )
        weights, extra = self.trainer.state()
        metadata = {
            "kind": "training-state",
            "settings": self.settings,
            "step": step,
            "seconds": self._elapsed(),
            "best": self.best,
            "validated": self.validated,
            "table": None if self.table is None else self.table.to_json(),
        }
        self.states.save(Checkpoint(self.shape, weights, extra, metadata), step)
        self.saved = step

    def save_before_leaving(self) -> None:
        """Save from the thread that was told to stop, which holds the lock."""
        if self.ranks.is_main:
            if self.saved != self.trainer.step:
                self._save_state()
            self.log.close()
            sys.stderr.write(
                f"stopped; saved after {self.trainer.step} steps, go on with --resume\n"
            )

    def finish(self) -> dict[str, Any]:
        if self.validated != self.trainer.step:
            self._validate()
        images_s = self._images_s()
        if not self.ranks.is_main:
            return {}
        if self.saved != self.trainer.step:
            self._save()
        self.log.close()
        model = self.out / MODEL_FILE
        self.task.complete(model, self._progress)
        summary = {
            "params": parameter_count(self.trainer.network),
            "steps": self.trainer.step,
            "images": self.trainer.step * self.batches.images_per_step,
            "seconds": round(self._elapsed(), 1),
            "images_s": round(images_s, 2),
            "memory_bytes": _memory(self.device),
            "processes": self.ranks.world,
            "n_train": self.task.sizes[0],
            "notes": list(self.task.notes),
            **self.task.summary(self.table),
            "best": self.best,
            "weights_sha256": sha256_file(model),
            "model": str(model),
            "page": str(self.out / "index.html"),
        }
        self.report(Status("drawing", 0, 1, step=self.trainer.step))
        self.task.write_page(self.out, summary, str(self.device))
        write_json(self.out / "summary.json", summary)
        return summary


def _no_signal(item: SliceItem) -> float:
    """Return what the volume's map makes of 0 in scanner units."""
    low, high = item["intensity"]
    return -low / (high - low)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
