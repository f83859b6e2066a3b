"""Networks the tables need: the score model, and the supervised ones, trained or loaded."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from srmri_data.choices import ANATOMICAL, SupervisedName
from srmri_data.errors import SrmriError
from srmri_data.safe_io import read_json, sha256_file, write_json
from srmri_model.baselines import load_upscaler
from srmri_model.bench.methods import Network, ScoreModel, Upscales
from srmri_model.bench.plan import TablesConfig
from srmri_model.checkpoints import load_denoiser, read_description
from srmri_model.operators import make_operator
from srmri_model.samplers import VarianceTable
from srmri_model.train import Status, run_training
from srmri_model.training.config import TrainConfig
from srmri_model.training.domain import denoising_residual, judge_residuals
from srmri_model.training.pairs import Degradation, PairData, Pairs
from srmri_model.training.slices import plane_index
from srmri_model.training.supervised_config import SupervisedConfig
from srmri_model.training.validation import spread
from srmri_model.upsampling.plan import background_table, noise_table

Progress = Callable[[str, int, int], None]

_CHECKED = 8


def load_score(path: Path) -> ScoreModel:
    """Read a score model with what it knows of itself.

    Parameters
    ----------
    path : Path
        Its checkpoint.

    Returns
    -------
    ScoreModel
        On the CPU.
    """
    # A network computes its smallest numbers several times slower otherwise.
    torch.set_flush_denormal(True)
    network, metadata = read_description(path)
    table, background = noise_table(metadata), background_table(metadata)
    return ScoreModel(
        denoiser=load_denoiser(path),
        n_planes=network.n_planes,
        sigma_max=network.sigma_max,
        variance=None if table is None else VarianceTable(*table),
        background=None if background is None else VarianceTable(*background),
        std_scale=float(metadata.get("std_scale") or 1.0),
    )


def misfit(path: Path, pairs: Pairs) -> str:
    """Tell why a score model is not one for these images.

    Parameters
    ----------
    path : Path
        Its checkpoint.
    pairs : Pairs
        Pairs that are not for testing.

    Returns
    -------
    str
        What `srmri upsample` would refuse; empty if nothing.
    """
    network, metadata = read_description(path)
    (plane,) = {pairs[0]["plane"]}
    if network.n_planes and plane not in ANATOMICAL:
        return f"it knows {', '.join(ANATOMICAL)} slices, and these are {plane}"
    known = metadata.get("planes")
    if known and plane not in known:
        return f"it knows {', '.join(known)} slices, and these are {plane}"
    domain = metadata.get("domain") or {}
    if not domain.get("residual"):
        return ""
    denoiser, sigma = load_denoiser(path), float(domain["residual"]["sigma"])
    values, factors = [], (1.0, 1.0)
    for number in spread(len(pairs), _CHECKED):
        pair = pairs[number]
        factors = pair["factor"]
        rows, cols = pair["high_res"].shape
        found = denoising_residual(
            denoiser,
            torch.from_numpy(pair["low_res"]),
            make_operator("kspace", (rows, cols), factors),
            sigma,
            key=number,
            label=plane_index([plane], network.n_planes),
        )
        if found is not None:
            values.append(found)
    text, refused = judge_residuals(values, domain, factors)
    return text if refused else ""


@dataclass(eq=False)
class Trained:
    """Networks by name, each loaded or trained when it is first asked for.

    A network that could not be trained is not tried again.

    Parameters
    ----------
    data : sequence of str
        As `srmri train --data` takes them.
    split : Path or None
        Who trains.
    out : Path
        Folder of the models' runs.
    config : TablesConfig
        Budget and physics.
    pairs : PairData
        The same data as pairs.
    weights : Path or None
        Score model; None trains one.
    degradation : Degradation or None
        What makes LR; None for pairs that were acquired.
    progress : callable
        Called as ``progress(stage, done, total)``.
    before_leaving : callable
        Called when a signal ends the process while a network is trained.

    Attributes
    ----------
    trained : dict
        What training tells of every network that was trained here.
    """

    data: Sequence[str]
    split: Path | None
    out: Path
    config: TablesConfig
    pairs: PairData
    weights: Path | None
    degradation: Degradation | None
    progress: Progress
    before_leaving: Callable[[], None]
    trained: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    _score: ScoreModel | None = field(default=None, init=False)
    _upscalers: dict[str, Upscales] = field(default_factory=dict, init=False)
    _hashes: dict[str, str] = field(default_factory=dict, init=False)
    _failed: dict[str, SrmriError] = field(default_factory=dict, init=False)

    def folder(self, name: str) -> Path:
        """Return the folder of a network's run: another one for another budget or other data.

        Parameters
        ----------
        name : str
            Of the network.

        Returns
        -------
        Path
            Under `out`.
        """
        facts = (self.pairs.fingerprint, self.config.budget, self.config.seed, self.config.plane)
        return self.out / f"{name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"

    def score_path(self) -> Path:
        """Return the score model's file.

        Returns
        -------
        Path
            The one that was given, or that of a model that is trained first.

        Raises
        ------
        SrmriError
            If it could not be trained.
        """
        return self.weights or self._once("score", self._train_score)

    def score(self) -> ScoreModel:
        """Return the score model.

        Returns
        -------
        ScoreModel
            Trained on HR slices if none was given.

        Raises
        ------
        SrmriError
            If it could not be trained.
        """
        if self._score is None:
            self._score = load_score(self.score_path())
        return self._score

    def upscaler(self, name: SupervisedName) -> Upscales:
        """Return a supervised network.

        Parameters
        ----------
        name : str
            One of `srmri_model.baselines.SUPERVISED`.

        Returns
        -------
        callable
            LR images to HR images.

        Raises
        ------
        SrmriError
            If it could not be trained.
        """
        if name not in self._upscalers:
            self._upscalers[name] = load_upscaler(self._path(name))
        return self._upscalers[name]

    def load(self, name: Network) -> None:
        """Have a network ready, so that its first use takes no longer than others.

        Parameters
        ----------
        name : str
            "score", or a supervised network.

        Raises
        ------
        SrmriError
            If it could not be trained.
        """
        if name == "score":
            self.score()
        elif name:
            self.upscaler(name)

    def sha256(self, name: Network) -> str:
        """Return the hash of a network's file.

        Parameters
        ----------
        name : str
            "score", a supervised network, or nothing.

        Returns
        -------
        str
            64 hexadecimal digits; empty for nothing.

        Raises
        ------
        SrmriError
            If it could not be trained.
        """
        if not name:
            return ""
        if name not in self._hashes:
            path = self.score_path() if name == "score" else self._path(name)
            self._hashes[name] = sha256_file(path)
        return self._hashes[name]

    def _path(self, name: SupervisedName) -> Path:
        return self._once(name, functools.partial(self._train_upscaler, name))

    def _once(self, name: str, train: Callable[[Path], dict[str, Any]]) -> Path:
        """Train into a folder, or use what is finished there."""
        if name in self._failed:
            raise self._failed[name]
        folder = self.folder(name)
        path, done = folder / "model.safetensors", folder / "bench.json"
        if not (path.is_file() and done.is_file()):
            try:
                summary = train(folder)
            except SrmriError as error:
                self._failed[name] = error
                raise
            write_json(done, summary)
        self.trained[name] = read_json(done)
        return path

    def _train_score(self, folder: Path) -> dict[str, Any]:
        config = self.config
        return self._train(
            "score",
            folder,
            TrainConfig.for_preset(
                "tiny", plane=config.plane, minutes=config.budget, seed=config.seed
            ),
        )

    def _train_upscaler(self, name: SupervisedName, folder: Path) -> dict[str, Any]:
        config = self.config
        return self._train(
            name,
            folder,
            SupervisedConfig.for_preset(
                name,
                budget=config.budget,
                plane=config.plane,
                seed=config.seed,
                degradation=self.degradation,
            ),
        )

    def _train(
        self, name: str, folder: Path, config: TrainConfig | SupervisedConfig
    ) -> dict[str, Any]:
        def show(status: Status) -> None:
            self.progress(f"train {name}", int(status.done), max(1, int(status.total)))

        summary = run_training(
            self.data,
            folder,
            config,
            split=self.split,
            resume=True,
            progress=show,
            before_leaving=self.before_leaving,
        )
        return {fact: summary[fact] for fact in ("params", "steps", "seconds")}
