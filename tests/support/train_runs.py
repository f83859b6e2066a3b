"""Training runs for tests: a network of a few hundred weights, and runs that are killed."""

from __future__ import annotations

import builtins
import functools
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SetAttribute = Callable[[object, str, object], None]
SetItem = Callable[[dict, str, object], None]


def shrink(set_attribute: SetAttribute, set_item: SetItem, *, draw: bool = False) -> None:
    """Make the tiny preset so small that a step takes milliseconds; leave out the page."""
    import srmri_model.train
    from srmri_model.networks import PRESETS
    from srmri_model.training import page

    small = replace(
        PRESETS["tiny"], nf=4, ch_mult=(1, 2), blocks=1, attention=(False, True),
        middle_attention=False, fourier_scale=1.0,
    )  # fmt: skip
    set_item(PRESETS, "tiny", small)
    set_attribute(srmri_model.train, "LEVELS", 4)
    set_attribute(srmri_model.train, "VOLUME_LEVELS", 2)
    if not draw:
        set_attribute(page, "write_page", lambda *_args, **_settings: None)


def train(
    data: Path, out: Path, *, resume: bool = False, init: Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Train the small network for a few steps in which everything happens."""
    from srmri_model.train import run_training
    from srmri_model.training.config import TrainConfig

    given = {
        "steps": 6, "batch": 2, "accumulate": 2, "patch": 16, "device": "cpu", "seed": 5,
        "validate_every": 2, "validation_slices": 2, "checkpoint_minutes": 0.0, "keep": 2,
        "learning_rate": 2e-3, "warmup_steps": 4,
    }  # fmt: skip
    warnings: list[str] = []
    config = TrainConfig.for_preset("tiny", **{**given, **settings})
    summary = run_training([str(data)], out, config, resume=resume, init=init, warn=warnings.append)
    return {**summary, "warnings": warnings}


def train_baseline(
    data: Path, out: Path, name: str, *, resume: bool = False, draw: bool = False, **settings: Any
) -> dict[str, Any]:
    """Train a small baseline for a few steps in which everything happens."""
    from baseline_shapes import SMALL

    from srmri_model.train import run_training
    from srmri_model.training import page
    from srmri_model.training.pairs import Degradation
    from srmri_model.training.supervised_config import Adversarial, SupervisedConfig

    given = {
        "steps": 6, "batch": 2, "accumulate": 2, "patch": 8, "device": "cpu", "seed": 5,
        "validate_every": 2, "validation_slices": 4, "checkpoint_minutes": 0.0, "keep": 2,
        "learning_rate": 2e-3, "warmup_steps": 4, "shape": SMALL[name],
        "degradation": Degradation(),
    }  # fmt: skip
    if name == "esrgan":
        given |= {"patch": 16, "adversarial": Adversarial(begins=0.5)}
    settings = {**given, **settings}
    config = SupervisedConfig.for_preset(name, "scaled", **settings)
    if not draw:
        page.write_upscaling_page = lambda *_args, **_settings: None
    return run_training([str(data)], out, config, resume=resume)


def pairs(data: Path, cache: Path, degradation: Any) -> Any:
    """The pairs that `train_baseline` trains on."""
    from srmri_model.training.pairs import open_pairs

    return open_pairs([str(data)], cache, degradation=degradation)


@dataclass(frozen=True)
class KillPoint:
    """A call in which the process gets a signal.

    Parameters
    ----------
    module, name : str
        The function, as ``module:Class`` where it is a method.
    call : int
        Which of its calls, from 1, of those whose arguments fit `only`.
    after : bool
        After the call instead of before it.
    only : str
        Part of the arguments' text.
    number : int
        The signal.
    half : bool
        The function opens a file: the signal comes when half of it is written.
    """

    module: str
    name: str
    call: int = 1
    after: bool = False
    only: str = ""
    number: int = signal.SIGKILL
    half: bool = False

    def arm(self, hit: Path) -> None:
        """Put the signal in the function's way; `hit` appears when it is sent."""
        module, _, kind = self.module.partition(":")
        owner = importlib.import_module(module)
        owner = getattr(owner, kind) if kind else owner
        original = getattr(owner, self.name, None) or getattr(builtins, self.name)
        count = 0

        def shoot() -> None:
            hit.write_text("hit")
            os.kill(os.getpid(), self.number)

        @functools.wraps(original)
        def wrapper(*args: Any, **settings: Any) -> Any:
            nonlocal count
            count += self.only in f"{args} {settings}"
            now = count == self.call and not hit.exists() and self.only in f"{args} {settings}"
            if now and self.half:
                return HalfWritten(original(*args, **settings), shoot)
            if now and not self.after:
                shoot()
            result = original(*args, **settings)
            if now and self.after:
                shoot()
            return result

        setattr(owner, self.name, wrapper)


class HalfWritten:
    """A file that calls `shoot` when half of its content is on disk."""

    def __init__(self, file: Any, shoot: Callable[[], None]) -> None:
        self.file = file
        self.shoot = shoot

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.shoot()


def _in_child(
    data: Path,
    out: Path,
    point: KillPoint | None,
    hit: Path,
    settings: dict[str, Any],
    environment: dict[str, str],
) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    shrink(setattr, dict.__setitem__)
    if point is not None:
        point.arm(hit)
    if (baseline := settings.pop("baseline", None)) is not None:
        train_baseline(data, out, baseline, **settings)
    else:
        train(data, out, **settings)


def start_child(
    data: Path,
    out: Path,
    point: KillPoint | None = None,
    hit: Path = Path(),
    environment: dict[str, str] | None = None,
    **settings: Any,
) -> BaseProcess:
    """Begin training in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    # Forked from a process that has imported everything and computed nothing.
    context.set_forkserver_preload(
        ["torch._dynamo", "torch.utils.tensorboard", "srmri_model.train"]
    )
    arguments = (data, out, point, hit, settings, environment or {})
    process = context.Process(target=_in_child, args=arguments)
    process.start()
    return process


def end_of(process: BaseProcess) -> int:
    """Wait for a process; returns its exit code, negative for a signal."""
    process.join(180)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError("the training process hangs")
    return process.exitcode


def run_in_child(*arguments: Any, **settings: Any) -> int:
    """Train in a process of its own; returns its exit code."""
    return end_of(start_child(*arguments, **settings))
