"""The steps: commands of ``srmri``, each in a process of its own, as a user gives them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from examples.story import checks
from examples.story.checks import ANIMALS, DATASET, REVISION, StoryError, animal_truth, runs_of
from srmri_data.run_folder import read_pairs

PROJECT = Path(__file__).resolve().parents[2]
TOKEN = "hf_OfTheStory"  # noqa: S105 - of a hub that lives as long as the story
LICENSE = "CC0-1.0"

# HR of the three that are paired, and a slab of the fourth.
_SHAPE, _SLAB, _SPACING = (80, 120, 50), (80, 40, 50), 0.15
_HR_NOISE = 0.04
# Each lay differently in the coil. The last scan is so noisy that voters come to differ.
_MOTION = {
    "mouse-1": ("--shift-um 40 -190 60 --tilt-deg 1 -0.6 0", 20),
    "mouse-2": ("--shift-um 70 -190 60 --tilt-deg 1 -0.6 0.1", 13),
    "mouse-3": ("--shift-um 100 -190 60 --tilt-deg 1 -0.6 0.2", 6),
    "held-back": ("--shift-um 130 -190 60 --tilt-deg 1 -0.6 0.3", 30),
}
METHODS = (
    "bicubic", "b-spline-3", "dps", "paper-k2", "fast", "fast-mean", "srcnn", "hr-repeat",
)  # fmt: skip
"""Of the tables, one of each kind: `make bench-smoke` runs them all."""


@dataclass
class Shell:
    """Runs commands in the story's folder, as a user would there.

    Parameters
    ----------
    out : Path
        Folder of the story.
    endpoint : str
        Address of the hub.
    log : Path
        Where the commands' own words go.
    commands : list of str
        What was run.
    """

    out: Path
    endpoint: str
    log: Path
    commands: list[str] = field(default_factory=list)

    def srmri(self, *words: object) -> Any:
        """Run a command of ``srmri``.

        Parameters
        ----------
        *words : object
            Its words, without ``--json`` and ``--quiet``.

        Returns
        -------
        object
            The JSON document it printed.

        Raises
        ------
        StoryError
            If its exit code is not 0.
        """
        quiet = () if words[0] == "review" else ("-q",)
        program = ("-c", "from cli import main; main()")
        return self._run("srmri", program, (*map(str, words), "--json", *quiet))

    def reader(self, *words: str) -> Any:
        """Run the story's own reader of datasets, with nothing in its cache.

        Parameters
        ----------
        *words : str
            Name and revision.

        Returns
        -------
        object
            The JSON document it printed.

        Raises
        ------
        StoryError
            If its exit code is not 0.
        """
        module = "examples.story.reader"
        return self._run(f"python -m {module}", ("-m", module), words)

    def _run(self, name: str, program: tuple[str, ...], words: tuple[str, ...]) -> Any:
        self.commands.append(f"{name} {shlex.join(words)}")
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {self.commands[-1]}\n")
            log.flush()
            process = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, *program, *words],
                cwd=self.out,
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            try:
                said, _ = process.communicate()
            except KeyboardInterrupt:
                # It was interrupted, too, and puts away what it has.
                process.wait()
                raise
        if process.returncode:
            with open(self.log, "a", encoding="utf-8") as log:
                log.write(said)
            errors = [
                line
                for line in self.log.read_text(encoding="utf-8").splitlines()
                if line.startswith("error:")
            ]
            raise StoryError(
                f"{self.commands[-1]} ended with exit code {process.returncode}",
                hint="; ".join([*errors[-1:], f"all it said is in {self.log}"]),
            )
        return json.loads(said)

    def _environment(self) -> dict[str, str]:
        """Nothing of this machine's hub settings, and a cache of the story's own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return inherited | {
            "HF_HOME": str(self.cache.resolve()),
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": str(PROJECT),
        }

    @property
    def cache(self) -> Path:
        """Where clients of the hub keep what they read."""
        return self.out / "hub-cache"


@dataclass(frozen=True)
class Step:
    """A part of the story.

    Parameters
    ----------
    name, title : str
        In a word, and in a sentence.
    run : callable
        Does it.
    check : callable
        Reads what it made; takes the story's folder and returns what it found.
    products : mapping of str to str
        What to look at: path in the story's folder, and what it is.
    lasting : bool
        Whether its products outlive the process.
    """

    name: str
    title: str
    run: Callable[[Shell], None]
    check: Callable[[Path], list[str]]
    products: Mapping[str, str]
    lasting: bool = True


def steps(minutes: float) -> Iterator[Step]:
    """Tell what happens, in order.

    Parameters
    ----------
    minutes : float
        Of training.

    Yields
    ------
    Step
        Each makes what the next ones read.
    """
    yield Step(
        "scan", "Four animals are scanned at two resolutions and move in between",
        scan, checks.check_scans,
        {"scans": "ParaVision studies, LR with its truth", "held-back": "the fourth animal"},
    )  # fmt: skip
    yield Step(
        "pair", "Three are paired, slice by slice", pair, checks.check_pairs,
        {"cohort/index.html": "report of the cohort"},
    )  # fmt: skip
    yield Step(
        "review", "Reviewers settle what the voters left open", review, checks.check_review,
        {f"cohort/sub-{a.replace('-', '')}/sub-{a.replace('-', '')}/index.html": f"report of {a}"
         for a in ANIMALS},
    )  # fmt: skip
    yield Step(
        "export", "A de-identified dataset is made of it", export, checks.check_dataset,
        {"dataset/README.md": "dataset card", "dataset": "the dataset"},
    )  # fmt: skip
    yield Step(
        "publish", "It is published on a hub, and read back from there", publish,
        checks.check_published, {"hub-rows.json": "what the hub serves"}, lasting=False,
    )  # fmt: skip
    yield Step(
        "train", "A score model is trained from the hub", partial(train, minutes=minutes),
        checks.check_model,
        {"model/index.html": "how training went", "model/model.safetensors": "the model"},
    )  # fmt: skip
    yield Step(
        "upsample", "The fourth animal's LR scan is super-resolved", upsample,
        checks.check_upsampled,
        {"upsampled/held-back.html": "page to check it", "upsampled/held-back.nii.gz": "HR volume"},
    )  # fmt: skip
    yield Step(
        "tables", "The paper's tables, small, on the published pairs", tables,
        partial(checks.check_tables, methods=METHODS),
        {"tables/index.html": "tables and figures", "tables/results.csv": "every figure"},
    )  # fmt: skip


def scan(shell: Shell) -> None:
    """Scan animals of the phantom at HR, and let `srmri simulate` scan them again at LR.

    Parameters
    ----------
    shell : Shell
        Runs the commands.
    """
    from srmri_data.formats.paravision_writer import write_paravision_study
    from srmri_data.phantom import mouse_brain

    for number, (name, (motion, snr)) in enumerate(_MOTION.items()):
        paired = name in ANIMALS
        study = Path("scans", name) if paired else Path(name)
        # The truth that HR is held against in the end is free of noise.
        brain = mouse_brain(
            _SHAPE if paired else _SLAB, _SPACING, noise=_HR_NOISE * paired, animal=number + 1,
            seed=number,
        )  # fmt: skip
        shutil.rmtree(shell.out / study, ignore_errors=True)
        write_paravision_study(brain, shell.out / study / "hr", subject_id=name)
        moved = [*motion.split(), "--seed", number]
        bias = ("--bias", 0.05) if paired else ()
        shell.srmri("simulate", study / "hr", "--out", study / "lr", *moved, "--snr", snr, *bias)
        if not paired:
            # The same animal in the same place, as fine in plane as HR is.
            shell.srmri(
                "simulate", study / "hr", "--out", study / "truth", *moved, "--factor", "1,2,1",
                "--format", "nifti",
            )  # fmt: skip


def pair(shell: Shell) -> None:
    """Find the studies of every animal and pair them; the truth is not given.

    Parameters
    ----------
    shell : Shell
        Runs the commands.
    """
    workers = min(2, os.cpu_count() or 1)
    shell.srmri("pair-all", "scans", "--out", "cohort", "--trim", 3, "--workers", workers)


def review(shell: Shell) -> None:
    """Answer as people would who see the anatomy well: ann; ben, who doubts; cleo, who settles it.

    Parameters
    ----------
    shell : Shell
        Runs the commands.
    """
    for animal, run in runs_of(shell.out).items():
        folder = run.path.relative_to(shell.out)
        pairs = read_pairs(run.path)
        positions = checks.true_positions(run, animal_truth(shell.out, animal))
        answers = {
            low: "none" if empty else round(position)
            for low, empty, position in zip(
                pairs["lr_slice"], pairs["empty"], positions, strict=True
            )
        }
        shell.srmri("review", folder, "--accept-clear", "--reviewer", "ann")
        listed = shell.srmri("review", folder, "--list")["items"]
        waiting = [row["lr_slice"] for row in listed if row["status"] == "review"]
        if waiting:
            decisions = [word for n in waiting for word in ("--decide", f"{n}={answers[n]}")]
            shell.srmri("review", folder, *decisions, "--reviewer", "ann", "--confidence", 4)
        if animal == ANIMALS[-1]:
            doubted = listed[0]["lr_slice"]
            shell.srmri("review", folder, "--decide", f"{doubted}=unsure", "--reviewer", "ben")
            for row in shell.srmri("review", folder, "--list", "--adjudicate")["items"]:
                verdict = f"{row['lr_slice']}={answers[row['lr_slice']]}"
                shell.srmri(
                    "review", folder, "--decide", verdict, "--reviewer", "cleo", "--adjudicate"
                )
        shell.srmri("review", folder, "--export")


def export(shell: Shell) -> None:
    """Make the dataset.

    Parameters
    ----------
    shell : Shell
        Runs the commands.
    """
    folders = [run.path.relative_to(shell.out) for run in runs_of(shell.out).values()]
    shell.srmri(
        "export-hf", *folders, "--out", "dataset", "--license", LICENSE, "--species",
        "Mus musculus", "--key", "pseudonym.key", "--force",
    )  # fmt: skip


def publish(shell: Shell) -> None:
    """Push the dataset, and read it from the hub as anybody would.

    Parameters
    ----------
    shell : Shell
        Runs the commands.
    """
    shutil.rmtree(shell.cache, ignore_errors=True)
    shell.srmri("push", "dataset", DATASET, "--license", LICENSE)
    served = shell.reader(DATASET, REVISION)
    (shell.out / "hub-rows.json").write_text(json.dumps(served, indent=2), encoding="utf-8")


def train(shell: Shell, *, minutes: float) -> None:
    """Train from the hub's name of the dataset.

    Parameters
    ----------
    shell : Shell
        Runs the commands.
    minutes : float
        How long.
    """
    shell.srmri(
        "train", "--data", f"{DATASET}@{REVISION}", "--out", "model", "--minutes", f"{minutes:g}",
        "--resume",
    )  # fmt: skip


def upsample(shell: Shell) -> None:
    """Super-resolve the animal that nobody has seen.

    Parameters
    ----------
    shell : Shell
        Runs the commands.
    """
    folder = shell.out / "upsampled"
    if (folder / "held-back.json").is_file():
        # Whole, and found wrong: an interrupted one has no sidecar yet, and goes on.
        shutil.rmtree(folder)
    shell.srmri(
        "upsample", "held-back/lr", "upsampled/held-back", "--weights", "model/model.safetensors",
        "--samples", 2, "--estimate", "mean", "--steps", 10,
    )  # fmt: skip


def tables(shell: Shell) -> None:
    """Fill the tables with the pairs on the hub.

    Parameters
    ----------
    shell : Shell
        Runs the commands.
    """
    shell.srmri(
        "bench", "tables", "--smoke", "--data", f"{DATASET}@{REVISION}", "--weights",
        "model/model.safetensors", "--methods", ",".join(METHODS), "--out", "tables",
    )  # fmt: skip
