"""The shapes of the supervised baselines as data; free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from srmri_data.choices import SupervisedName
from srmri_model.operators.matrices import GRIDS, Grid

SUPERVISED: tuple[SupervisedName, ...] = get_args(SupervisedName)
"""Baselines that learn from pairs."""

INTEGER_FACTORS = (2, 3, 4, 8)
"""Factors that networks are made for; others take the next larger and resample its output."""


@dataclass(frozen=True)
class SRCNNShape:
    """Three convolutions of the interpolated image.

    Parameters
    ----------
    widths : tuple of int
        Channels after the first and the second.
    kernels : tuple of int
        Edges of the three, odd.

    References
    ----------
    C. Dong, C. C. Loy, K. He, X. Tang, Image super-resolution using deep convolutional networks,
    IEEE TPAMI 38 (2016) 295-307.
    """

    widths: tuple[int, int] = (64, 32)
    kernels: tuple[int, int, int] = (9, 5, 5)


@dataclass(frozen=True)
class DDBPNShape:
    """Dense deep back-projection.

    Parameters
    ----------
    features : int
        Channels of the first convolution.
    width : int
        Channels of every projection unit.
    stages : int
        Up-projections; there is one down-projection less.

    References
    ----------
    M. Haris, G. Shakhnarovich, N. Ukita, Deep back-projection networks for super-resolution, CVPR
    2018.
    """

    features: int = 256
    width: int = 64
    stages: int = 7


@dataclass(frozen=True)
class CARNShape:
    """Cascading residual network.

    Parameters
    ----------
    width : int
        Channels.
    blocks : int
        Cascading blocks.
    units : int
        Residual units in each.

    References
    ----------
    N. Ahn, B. Kang, K.-A. Sohn, Fast, accurate, and lightweight super-resolution with cascading
    residual network, ECCV 2018.
    """

    width: int = 64
    blocks: int = 3
    units: int = 3


@dataclass(frozen=True)
class SwinIRShape:
    """Residual Swin transformer blocks, for classical super-resolution.

    Parameters
    ----------
    width : int
        Channels.
    depths, heads : tuple of int
        Layers and attention heads of every block.
    window : int
        Edge of the attention windows, LR pixels.
    mlp_ratio : float
        Width of the hidden layers over that of the blocks.
    drop_path : float
        Share of the deepest residual branches that is left out in training.

    References
    ----------
    J. Liang et al., SwinIR: image restoration using Swin transformer, ICCV workshops 2021.
    """

    width: int = 180
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    window: int = 8
    mlp_ratio: float = 2.0
    drop_path: float = 0.1


@dataclass(frozen=True)
class RCANShape:
    """Residual channel attention.

    Parameters
    ----------
    width : int
        Channels.
    groups : int
        Residual groups.
    blocks : int
        Residual channel attention blocks in each.
    reduction : int
        By how much the attention's bottleneck is narrower.

    References
    ----------
    Y. Zhang et al., Image super-resolution using very deep residual channel attention networks,
    ECCV 2018.
    """

    width: int = 64
    groups: int = 10
    blocks: int = 20
    reduction: int = 16


@dataclass(frozen=True)
class RRDBShape:
    """Residual-in-residual dense blocks, the generator of ESRGAN.

    Parameters
    ----------
    width : int
        Channels; dense layers grow by 32.
    blocks : int
        Residual-in-residual dense blocks.
    discriminator : int
        Channels of the discriminator's first convolution.

    References
    ----------
    X. Wang et al., ESRGAN: enhanced super-resolution generative adversarial networks, ECCV
    workshops 2018.
    """

    width: int = 64
    blocks: int = 23
    discriminator: int = 64


Shape: TypeAlias = SRCNNShape | DDBPNShape | CARNShape | SwinIRShape | RCANShape | RRDBShape

SHAPES: Mapping[SupervisedName, type[Shape]] = MappingProxyType(
    {
        "srcnn": SRCNNShape,
        "ddbpn": DDBPNShape,
        "carn": CARNShape,
        "swinir": SwinIRShape,
        "rcan": RCANShape,
        "esrgan": RRDBShape,
    }
)
"""What describes each baseline; without arguments, as published."""


@dataclass(frozen=True)
class UpscalerConfig:
    """Everything that decides the parameters of an upscaler and what its output means.

    Parameters
    ----------
    name : str
        Which baseline.
    shape : object
        Its shape, of the kind in `SHAPES`.
    factor : tuple of float
        HR over LR voxels along rows' and columns' axis, at least 1.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie on the HR grid.
    residual : bool
        Whether the network's output is added to LR's cubic interpolation, else it is the image.
    channels : int
        Channels of an image.

    Raises
    ------
    ValueError
        If the values do not fit together.

    Examples
    --------
    >>> UpscalerConfig("carn", CARNShape(), (1.5, 1.5)).integer_factor
    2
    """

    name: SupervisedName
    shape: Shape
    factor: tuple[float, float] = (2.0, 2.0)
    grid: Grid = "voxel-centre"
    residual: bool = False
    channels: int = 1

    def __post_init__(self) -> None:
        if type(self.shape) is not SHAPES.get(self.name):
            raise ValueError(f"{self.name!r} and {type(self.shape).__name__} do not fit together")
        if not (all(math.isfinite(f) for f in self.factor) and min(self.factor) >= 1):
            raise ValueError(f"factors {self.factor}, expected numbers of at least 1")
        if max(self.factor) > INTEGER_FACTORS[-1]:
            raise ValueError(f"factors {self.factor}, expected at most {INTEGER_FACTORS[-1]}")
        if self.grid not in GRIDS:
            raise ValueError(f"grid {self.grid!r}, expected {' or '.join(GRIDS)}")
        for name, value in (*asdict(self.shape).items(), ("channels", self.channels)):
            numbers = value if isinstance(value, tuple) else (value,)
            least = 0 if name == "drop_path" else 1
            if not numbers or not all(least <= number <= 4096 for number in numbers):
                raise ValueError(f"{name} is {value}, expected numbers from {least} to 4096")

    @property
    def integer_factor(self) -> int:
        """Factor the network itself enlarges by."""
        return next(f for f in INTEGER_FACTORS if f >= max(self.factor))

    def to_json(self) -> dict[str, Any]:
        """Return all fields.

        Returns
        -------
        dict
            Plain JSON types.
        """
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> UpscalerConfig:
        """Make a configuration of JSON, which knows no tuples and may hold anything.

        Parameters
        ----------
        document : mapping
            What `to_json` gave.

        Returns
        -------
        UpscalerConfig
            The configuration.

        Raises
        ------
        ValueError
            If something is missing, unknown, or of another type.
        """
        name = document["name"]
        if name not in SUPERVISED:
            raise ValueError(f"no baseline {name!r}; there are {', '.join(SUPERVISED)}")
        shape = _typed(SHAPES[name], document["shape"])
        values = {**document, "shape": shape}
        return cls(**_checked(cls, values))


def _typed(kind: type[Shape], document: Any) -> Shape:
    if not isinstance(document, Mapping):
        raise ValueError(f"shape is {document!r}")
    return kind(**_checked(kind, document))


def _checked(kind: type[Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Compare names and types with those of a data class; lists become tuples."""
    names = {field.name for field in fields(kind)}
    if wrong := names ^ document.keys():
        raise ValueError(f"settings missing or unknown: {', '.join(sorted(wrong))}")
    hints = get_type_hints(kind)
    made = {}
    for name, value in document.items():
        hint = hints[name]
        parts = value if get_origin(hint) is tuple else [value]
        wanted = get_args(hint)[0] if get_origin(hint) is tuple else hint
        accepted = {int: (int,), float: (int, float), bool: (bool,)}.get(wanted)
        if not isinstance(parts, list | tuple) or (
            accepted is not None and any(type(part) not in accepted for part in parts)
        ):
            raise ValueError(f"setting {name} is {value!r}")
        if get_origin(hint) is tuple:
            sizes = get_args(hint)
            if Ellipsis not in sizes and len(parts) != len(sizes):
                raise ValueError(f"setting {name} is {value!r}")
            value = tuple(parts)
        made[name] = value
    return made
