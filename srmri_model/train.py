"""Train a score model: one pure step, and around it a run that can be killed anywhere.

Every random number depends on the seed and on the number of a step or image
(`srmri_model.training.order`), so the state of a run is its weights, their
average, the optimiser's moments and one count. `run_training` is where clock, disk,
processes and signals come in.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import resource
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from srmri_data.dataset import SliceItem
from srmri_data.errors import CheckpointError, TrainingError, UsageError
from srmri_data.safe_io import sha256_file, sweep_temporaries, write_json
from srmri_model.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from srmri_model.networks import (
    Denoiser,
    NetworkConfig,
    build_network,
    loss_weight,
    parameter_count,
)
from srmri_model.sde import geometric_levels, training_sigmas
from srmri_model.training.config import TrainConfig
from srmri_model.training.domain import describe_slices, training_residuals
from srmri_model.training.ema import WeightAverage
from srmri_model.training.logs import TrainingLog
from srmri_model.training.optimise import Optimiser
from srmri_model.training.order import BatchOrder, draw, shapes_of, share
from srmri_model.training.ranks import Ranks, joined, local_device
from srmri_model.training.slices import FLIPPABLE, Slices, TrainingData, open_data, plane_index
from srmri_model.training.states import StateFolder
from srmri_model.training.stop import saves_when_stopped
from srmri_model.training.validation import LEVELS, NoiseTable, measure
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
    clean : (B, 1, H, W) Tensor
        Images in [0, 1] by their volumes' maps.
    noise : (B, 1, H, W) Tensor
        Standard normal.
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
    error = (denoised - clean).square().mean(dim=(1, 2, 3))
    return (loss_weight(denoiser.config, sigma) * error).mean()


class Batch(NamedTuple):
    """Images and their noise, all of one size.

    Attributes
    ----------
    clean, noise : (B, 1, H, W) Tensor
        float32.
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


class Batches:
    """The batches of every step, loaded one step ahead.

    Parameters
    ----------
    slices : Slices
        Training slices.
    config : TrainConfig
        Batch size, patch, seed.
    ranks : Ranks
        Processes among which each step's images are divided.
    n_planes : int
        Planes the network tells apart.
    """

    def __init__(self, slices: Slices, config: TrainConfig, ranks: Ranks, *, n_planes: int) -> None:
        self.slices = slices
        self.config = config
        self.ranks = ranks
        self.n_planes = n_planes
        self.images_per_step = config.batch * config.accumulate * ranks.world
        self.order = BatchOrder(
            shapes_of(slices.sizes, config.patch), self.images_per_step, config.seed
        )

    def load(self, step: int) -> list[Batch]:
        """Load this process's parts of a step.

        Parameters
        ----------
        step : int
            From 0.

        Returns
        -------
        list of Batch
            One per accumulated part.
        """
        indices = self.order.slices(step)
        places = share(
            len(indices),
            rank=self.ranks.rank,
            world=self.ranks.world,
            accumulate=self.config.accumulate,
        )
        return [self._part(step, indices, part) for part in places]

    def _part(self, step: int, indices: Any, places: Any) -> Batch:
        items = [self.slices[int(indices[place])] for place in places]
        draws = [
            draw(
                item["image"],
                step * self.images_per_step + int(place),
                seed=self.config.seed,
                patch=self.config.patch,
                may_flip=item["plane"] in FLIPPABLE,
                augment=self.config.augment,
                zero=_no_signal(item),
            )
            for item, place in zip(items, places, strict=True)
        ]
        return Batch(
            torch.from_numpy(np.stack([d.image for d in draws]))[:, None],
            torch.from_numpy(np.stack([d.noise for d in draws]))[:, None],
            torch.tensor([d.level for d in draws], dtype=torch.float32),
            plane_index([item["plane"] for item in items], self.n_planes),
        )

    def following(self, step: int) -> Generator[list[Batch], None, None]:
        """Load step after step, each while the one before is computed.

        Parameters
        ----------
        step : int
            The first.

        Yields
        ------
        list of Batch
            Parts of the next step.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            ahead: Future[list[Batch]] = pool.submit(self.load, step)
            while True:
                parts = ahead.result()
                step += 1
                ahead = pool.submit(self.load, step)
                yield parts


class Trainer:
    """Network, average and optimiser, and how they go from one step to the next.

    Parameters
    ----------
    network : NCSNpp
        The network, on its device.
    shape : NetworkConfig
        Its configuration.
    config : TrainConfig
        Learning rate, warm-up, averaging, clipping, precision.
    ranks : Ranks
        Processes that train together.
    """

    def __init__(
        self, network: nn.Module, shape: NetworkConfig, config: TrainConfig, ranks: Ranks
    ) -> None:
        self.network = network
        self.shape = shape
        self.config = config
        self.device = next(network.parameters()).device
        self.step = 0
        self.changing = threading.Lock()
        self.average = WeightAverage(network, decay=config.ema_decay)
        self.optimiser = Optimiser(network, config.optimiser)
        self._parallel = DistributedDataParallel(network) if ranks.world > 1 else None
        options = {"bf16": config.precision == "bf16", "compiled": config.compiled}
        self._denoiser = Denoiser(self._parallel or network, shape, **options)
        # The average is judged in a network of its own: this one may be saved at any moment.
        self._averaged = copy.deepcopy(network).requires_grad_(False)
        self._names = [name for name, _ in network.named_parameters()]

    def averaged(self) -> Denoiser:
        """Return a denoiser with the averaged weights.

        Returns
        -------
        Denoiser
            Valid until the next step.
        """
        self._averaged.load_state_dict({**self.network.state_dict(), **self.average.weights})
        return Denoiser(self._averaged, self.shape)

    def advance(self, parts: Sequence[Batch], rate: float) -> tuple[Tensor, Tensor]:
        """Make one optimiser step.

        Parameters
        ----------
        parts : sequence of Batch
            Batches whose gradients are accumulated.
        rate : float
            Learning rate.

        Returns
        -------
        loss, gradient_norm : Tensor
            This process's loss and the norm before clipping.
        """
        self.network.train()
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            with self._communicating(last=number == len(parts) - 1):
                loss = self._loss(part) / len(parts)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        with self.changing:
            self.optimiser.step(rate)
            self.average.update(self.network, self.step + 1)
            self.step += 1
        return total, norm

    def _loss(self, part: Batch) -> Tensor:
        part = part.to(self.device)
        sigma = training_sigmas(self.shape, part.uniform, self.config.noise)
        return training_step(self._denoiser, part.clean, part.noise, sigma, part.plane)

    def _communicating(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        if self._parallel is None or last:
            return contextlib.nullcontext()
        no_sync: contextlib.AbstractContextManager[None] = self._parallel.no_sync()
        return no_sync

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return everything a step changes.

        Returns
        -------
        weights : dict of str to Tensor
            Averaged weights, with what is frozen in the network.
        extra : dict of str to Tensor
            The network's own weights and the optimiser's moments.
        """
        own = self.network.state_dict()
        extra = {f"own.{name}": own[name] for name in self._names}
        extra |= self.optimiser.moments()
        return {**own, **self.average.weights}, extra

    @torch.no_grad()
    def restore(self, state: Checkpoint, step: int) -> None:
        """Go back to a saved state.

        Parameters
        ----------
        state : Checkpoint
            What `state` gave.
        step : int
            Optimiser steps it is after.

        Raises
        ------
        CheckpointError
            If it lacks something.
        """
        try:
            own = {name: state.extra[f"own.{name}"] for name in self._names}
            self.network.load_state_dict({**state.tensors, **own})
            self.average.load(state.tensors)
            if step:
                self.optimiser.restore(state.extra, step)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the training state does not fit the network: {error}"
            ) from error
        self.step = step

    def is_finite(self) -> bool:
        """Tell whether the weights are numbers.

        Returns
        -------
        bool
            False after an overflow.
        """
        return all(bool(torch.isfinite(p).all()) for p in self.network.parameters())


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


def run_training(
    data: Sequence[str],
    out: Path,
    config: TrainConfig,
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
    config : TrainConfig
        How to train.
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
        ``params``, ``steps``, ``images_s``, ``val_by_sigma``, ``best``, ``weights_sha256`` and
        where things are.

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
        run = _Run(Path(out), config, device, ranks, progress, warn, clock)
        run.open(data, split=split, init=init, resume=resume, command=command)

        def leave() -> None:
            before_leaving()
            run.save_before_leaving()

        with saves_when_stopped(leave, run.trainer.changing):
            run.train()
            return run.finish()


class _Run:
    """One process's part of a run, and its files."""

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        device: torch.device,
        ranks: Ranks,
        progress: Callable[[Status], None] | None,
        warn: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.out, self.config, self.device, self.ranks = out, config, device, ranks
        self.report = progress if progress is not None and ranks.is_main else lambda _status: None
        self.warn = warn if ranks.is_main else lambda _text: None
        self.clock = clock
        self.states = StateFolder(out / "states", keep=config.keep)
        self.seconds_before = 0.0
        self.idle_seconds = 0.0
        self.best: dict[str, Any] | None = None
        self.table: NoiseTable | None = None
        self.described: dict[str, Any] = {}
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
        self.trainer = self._new_trainer(init, state)
        settings = {
            "network": json.loads(json.dumps(asdict(self.trainer.shape))),
            "data": self.data.fingerprint,
            "images_per_step": self.batches.images_per_step,
            **self.config.settings(),
        }
        self.settings = settings
        if state is not None:
            self._restore(state)
        self.first_step = self.trainer.step
        self.began = self.last_saved = self.clock()
        if self.ranks.is_main:
            self.log = TrainingLog(self.out, step=self.trainer.step)
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
                    "n_train": len(self.data.train),
                    "n_validation": len(self.data.validation),
                },
            )

    def _open_data(self, data: Sequence[str], split: Path | None) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            self.report(Status(stage, done, total))

        self.data: TrainingData = open_data(
            data, self.config.planes, self.out / "cache", split=split, progress=progress
        )
        for note in self.data.notes:
            self.warn(note)

    def _new_trainer(self, init: Path | None, state: Checkpoint | None) -> Trainer:
        start = load_checkpoint(init) if init is not None else None
        shape = self.config.network_shape(start.network if start is not None else None)
        if state is not None and state.network != shape:
            raise UsageError(
                f"the run in {self.out} trains another network",
                hint="resume with the options it was started with, see its config.json",
            )
        network = build_network(
            shape, seed=self.config.seed, gradient_checkpointing=self.config.recompute
        )
        if start is not None:
            network.load_state_dict(start.tensors)
        network.to(self.device)
        self.batches = Batches(self.data.train, self.config, self.ranks, n_planes=shape.n_planes)
        return Trainer(network, shape, self.config, self.ranks)

    def _restore(self, state: Checkpoint) -> None:
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
        self.table = None if found["table"] is None else NoiseTable.from_json(found["table"])
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
                loss, norm = trainer.advance(next(batches), self.rate)
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
        shape = self.trainer.shape
        table = measure(
            self.trainer.averaged(),
            self.data.validation,
            geometric_levels(shape.sigma_min, shape.sigma_max, LEVELS),
            count=self.config.validation_slices,
            ranks=self.ranks,
        )
        step = self.trainer.step
        if not math.isfinite(table.score):
            raise TrainingError(
                f"the validation error is not finite after {step} steps; the last state saved is "
                f"after {max(self.saved, 0)}",
                hint="try a lower --learning-rate",
            )
        better = self.best is None or table.score < self.best["score_db"]
        if self.ranks.is_main:
            self.log.validation(step, table)
        domain = self._domain() if better and self.ranks.is_main else {}
        with self.trainer.changing:
            if better:
                best = {"step": step, "score_db": table.score}
                if self.ranks.is_main:
                    self._save_model(table, best, domain)
                self.best, self.table = best, table
            self.validated = step
        self.idle_seconds += self.clock() - began

    def _domain(self) -> dict[str, Any]:
        """Describe what the model knows, for `srmri upsample` to compare a scan with."""
        if not self.described:
            self.described = describe_slices(self.data.train)
        shape = self.trainer.shape
        residual = training_residuals(
            self.trainer.averaged(),
            self.data.validation,
            n_planes=shape.n_planes,
            sigma_max=shape.sigma_max,
            device=self.device,
        )
        return {**self.described, "residual": residual}

    def _save_model(self, table: NoiseTable, best: dict[str, Any], domain: dict[str, Any]) -> None:
        weights, _ = self.trainer.state()
        metadata = {
            "kind": "score",
            "noise_table": table.to_json(),
            "planes": list(self.config.planes),
            "domain": domain,
            "intensity": "0.1 to 99.9 percentile of each volume's foreground is 0 to 1",
            "training": {
                "srmri": version("srmri"),
                "preset": self.config.preset,
                "images": best["step"] * self.batches.images_per_step,
                "n_slices": len(self.data.train),
                "n_subjects": len(set(self.data.train.subjects)),
                **best,
                **self.config.settings(),
            },
        }
        save_checkpoint(
            self.out / MODEL_FILE, Checkpoint(self.trainer.shape, weights, metadata=metadata)
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
        self.states.save(Checkpoint(self.trainer.shape, weights, extra, metadata), step)
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
        model, table = self.out / MODEL_FILE, self.table
        assert table is not None  # noqa: S101
        summary = {
            "params": parameter_count(self.trainer.network),
            "steps": self.trainer.step,
            "images": self.trainer.step * self.batches.images_per_step,
            "seconds": round(self._elapsed(), 1),
            "images_s": round(images_s, 2),
            "memory_bytes": _memory(self.device),
            "processes": self.ranks.world,
            "n_train": len(self.data.train),
            "n_validation": table.n_slices,
            "notes": list(self.data.notes),
            "val_by_sigma": [
                {
                    "sigma": sigma,
                    "foreground": inside if math.isfinite(inside) else None,
                    "background": outside if math.isfinite(outside) else None,
                    "gain_db": 10 * math.log10(sigma**2 / inside) if inside > 0 else None,
                }
                for sigma, inside, outside in zip(
                    table.sigmas, table.foreground, table.background, strict=True
                )
            ],
            "best": self.best,
            "weights_sha256": sha256_file(model),
            "model": str(model),
            "page": str(self.out / "index.html"),
        }
        from srmri_model.training.page import write_page

        self.report(Status("drawing", 0, 1, step=self.trainer.step))
        write_page(self.out, summary, self.data.validation, device=str(self.device))
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
