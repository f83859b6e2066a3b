"""Closed sets of words that options and functions take; free of any import that takes time."""

from __future__ import annotations

from typing import Literal, TypeAlias

Plane: TypeAlias = Literal["coronal", "axial", "sagittal", "acquired"]
"""Anatomical plane of the slices; `acquired` is the stored slice axis."""

ANATOMICAL: tuple[Plane, ...] = ("coronal", "axial", "sagittal")
"""The anatomical planes, in the order of a network's plane labels."""

Method: TypeAlias = Literal["geometry", "paper"]
"""How pairs are decided.

`geometry`: registration gives the position, voters on aligned slices check it.
`paper`: votes on unaligned slices, exact agreement, ties go to review.
"""

Stage: TypeAlias = Literal["register", "match", "gain", "path"]
"""A stage of `geometry` that can be left out.

`register`: align the scans, else their affines are believed. `match`: bring HR to LR's resolution
and intensities before voting. `gain`: even out the receive coil. `path`: ask the monotone path.
"""

RegistrationMetric: TypeAlias = Literal["auto", "correlation", "mutual-information"]
"""What the registration's first levels compare images by."""

Engine: TypeAlias = Literal["local", "slurm", "submitit-local"]
"""What runs many subjects: processes here, SLURM job arrays, or submitit's stand-in for them."""

Acquisition: TypeAlias = Literal["kspace", "box"]
"""How a simulated scan comes about: truncated k-space, as a scanner does, or block means."""

Grid: TypeAlias = Literal["voxel-centre", "fourier"]
"""Where LR voxel *i* sits on HR's grid: at *f·i + (f-1)/2* or at *f·i*."""

OutputFormat: TypeAlias = Literal["paravision", "nifti"]
"""File format of a simulated scan."""

SubjectType: TypeAlias = Literal["Quadruped", "OtherAnimal", "Biped", "Phantom", "Human", "Other"]
"""ParaVision's kinds of subject."""

SubjectPosition: TypeAlias = Literal[
    "Head_Supine",
    "Head_Prone",
    "Head_Left",
    "Head_Right",
    "Foot_Supine",
    "Foot_Prone",
    "Foot_Left",
    "Foot_Right",
]
"""ParaVision's ways to lie: what goes in first, and which side is down."""

VoxelType: TypeAlias = Literal["float32", "stored"]
"""Voxels as scanner units, or as stored numbers with slope and intercept."""

DateRule: TypeAlias = Literal["drop", "shift"]
"""What becomes of the dates of scans that are published."""

AnatomicalSuffix: TypeAlias = Literal["T2starw", "T2w", "T1w", "PDw"]
"""Contrast of an anatomical scan, as BIDS calls it."""

Gated: TypeAlias = Literal["auto", "manual"]
"""Readers of a dataset ask for access: granted at once, or by its owner."""

TrainingPlane: TypeAlias = Literal["coronal", "axial", "sagittal", "acquired", "all"]
"""Planes a network is trained on; `all` is the three anatomical ones, with a plane label."""

Precision: TypeAlias = Literal["float32", "bf16"]
"""Arithmetic of a network's convolutions and products."""

Decay: TypeAlias = Literal["none", "cosine"]
"""What the learning rate does after its warm-up: stay, or fall to zero over the run."""

OptimiserName: TypeAlias = Literal["adam", "muon", "sgd"]
"""What changes the weights: Adam; Muon for matrices and Adam for the rest; or SGD, momentum 0.9."""

SupervisedName: TypeAlias = Literal["srcnn", "ddbpn", "carn", "swinir", "rcan", "esrgan"]
"""Networks that learn to make HR of LR from pairs."""

TrainableModel: TypeAlias = Literal["score", "srcnn", "ddbpn", "carn", "swinir", "rcan", "esrgan"]
"""What `srmri train` trains."""

SupervisedPreset: TypeAlias = Literal["published", "scaled"]
"""A supervised network as its paper has it, or narrower, for minutes on a processor."""

PixelLoss: TypeAlias = Literal["l1", "l2", "sum-of-squares"]
"""What a network is trained by: mean absolute or squared error, or half the sum of squares of an
image."""

SamplerName: TypeAlias = Literal[
    "fast", "paper", "dps", "mcg", "score-sde", "pc", "ddnm", "diffpir"
]
"""How images are drawn from the posterior; `pc` alone takes no notice of the measurement."""

MisfitNorm: TypeAlias = Literal["squared", "l2"]
"""What gradient steps descend: the squared norm of the misfit, or the norm itself."""

OperatorKind: TypeAlias = Literal[
    "bicubic", "bilinear", "lanczos2", "lanczos3", "box", "kspace", "gaussian", "slice-profile"
]
"""What makes LR of HR; see `srmri_model.operators.degradation_matrix`."""

SlicePlanes: TypeAlias = Literal["single", "3"]
"""What is made finer: slices of one plane within themselves, or the volume, from three planes."""

Estimate: TypeAlias = Literal["sample", "mean"]
"""What is written of several draws from the posterior: the first, or their mean."""

OutputType: TypeAlias = Literal["float32", "int16", "uint16"]
"""Voxels of a written volume; integers come with a slope and an intercept."""

PairSource: TypeAlias = Literal["paper", "geometry", "bicubic", "truth"]
"""Where pairs come from when pairing is studied: a method, HR made smaller, or the known truth."""

HeldOut: TypeAlias = Literal["test", "tune"]
"""Lists of a split that name animals nothing is trained on."""
