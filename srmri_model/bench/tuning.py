"""The step size ρ of samplers that follow a gradient, chosen on animals that are not tested."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from srmri_data.errors import SamplingError
from srmri_model.bench.cells import CellStore, compute, fingerprint
from srmri_model.bench.methods import Models, Named, Sampled
from srmri_model.bench.tasks import Task
from srmri_model.samplers import Guided

TRIED = (0.1, 0.3, 1.0, 3.0)
"""Step sizes; from 4 on the gradient step is not stable with a factor of 2."""

Progress = Callable[[str, int, int], None]


def tuned_rhos(
    named: Mapping[str, Named],
    names: Sequence[str],
    tasks: Sequence[Task],
    models: Models,
    store: CellStore,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """Choose ρ for every method that has one, by PSNR in the foreground.

    Parameters
    ----------
    named : mapping of str to Named
        Every method.
    names : sequence of str
        Those wanted.
    tasks : sequence of Task
        Slices of animals held out for tuning.
    models : Models
        Trained networks.
    store : CellStore
        Where trials are kept.
    seed : int
        Of the noise.
    progress : callable
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    dict of str to float
        By method; a method that assumes another operator takes that of its kind.
    """
    wanted = dict.fromkeys(name.partition("@")[0] for name in names)
    guided = {
        name: (method, method.settings)
        for name in wanted
        if isinstance(method := named[name].method, Sampled) and isinstance(method.settings, Guided)
    }
    found: dict[str, float] = {}
    for place, (name, (method, settings)) in enumerate(guided.items()):
        quality: dict[float, float] = {}
        for rho in TRIED:
            progress("tuning", place * len(TRIED) + len(quality), len(guided) * len(TRIED))
            trial = replace(method, settings=replace(settings, rho=rho))
            quality[rho] = _quality(f"{name}@rho-{rho:g}", trial, tasks, models, store, seed)
        found[name] = max(quality, key=quality.__getitem__)
    progress("tuning", len(guided) * len(TRIED), len(guided) * len(TRIED))
    return found


def _quality(
    name: str,
    method: Sampled,
    tasks: Sequence[Task],
    models: Models,
    store: CellStore,
    seed: int,
) -> float:
    """Mean PSNR over the slices; minus infinity where the sampler left the numbers."""
    total = 0.0
    for task in tasks:
        path, key = store.path(name, task, seed), fingerprint(method, task, models, seed)
        cell = store.read(path, key)
        if cell is None:
            try:
                cell = compute(name, method, task, models, seed)
            except SamplingError:
                return -math.inf
            store.write(path, key, cell)
        total += cell.scores[0].psnr
    return total / len(tasks)
