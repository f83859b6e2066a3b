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
    guided = [name for name in wanted if _is_guided(named[name])]
    found, done = {}, 0
    for name in guided:
        quality = {}
        for rho in TRIED:
            quality[rho] = _quality(named[name], name, rho, tasks, models, store, seed)
            done += 1
            progress("tuning", done, len(guided) * len(TRIED))
        found[name] = max(TRIED, key=lambda rho: quality[rho])  # noqa: B023 - used at once
    return found


def _is_guided(named: Named) -> bool:
    return isinstance(named.method, Sampled) and isinstance(named.method.settings, Guided)


def _quality(
    named: Named,
    name: str,
    rho: float,
    tasks: Sequence[Task],
    models: Models,
    store: CellStore,
    seed: int,
) -> float:
    """Mean PSNR over the slices; minus infinity where the sampler left the numbers."""
    method = named.method
    assert isinstance(method, Sampled)
    assert isinstance(method.settings, Guided)
    method = replace(method, settings=replace(method.settings, rho=rho))
    total = 0.0
    for task in tasks:
        path = store.path(f"{name}@rho-{rho:g}", task, seed)
        key = fingerprint(method, task, models, seed)
        cell = store.read(path, key)
        if cell is None:
            try:
                cell = compute(name, method, task, models, seed)
            except SamplingError:
                return -math.inf
            store.write(path, key, cell)
        (psnr,) = (s.psnr for s in cell.scores if (s.mask, s.registered) == ("foreground", "no"))
        total += psnr
    return total / len(tasks)
