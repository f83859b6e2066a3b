"""Checkpoints: one safetensors file with its whole description as JSON in the header.

Nothing in such a file can run: it is a table of numbers and a JSON document. A SHA-256 over both
is kept in the header, so that a single changed bit anywhere is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from srmri_data import safe_io
from srmri_data.errors import CheckpointError, MissingInputError
from srmri_model.networks.config import PRESETS, NetworkConfig

if TYPE_CHECKING:
    from torch import Tensor

    from srmri_model.networks import Denoiser

SCHEMA_VERSION = 1
_HEADER_KEY = "srmri"
_EMA, _EXTRA = "ema.", "extra."
_MAX_HEADER = 16 << 20
_FOREIGN_HINT = "weights of other programs come in with 'srmri import-checkpoint'"
_DAMAGED_HINT = "copy it again from where it came, or go back to the checkpoint before it"


Config = TypeVar("Config", default=NetworkConfig)


@dataclass(frozen=True)
class Kind(Generic[Config]):
    """What a checkpoint holds: how that is described, and which weights it has.

    Parameters
    ----------
    key : str
        Name of the network's entry in the description.
    what, use : str
        What it is, and what to do with it instead where something else is wanted.
    describe : callable
        Configuration to plain JSON types.
    parse : callable
        Path and JSON to a configuration; raises `CheckpointError` for what it can not be.
    weights : callable
        Configuration to the names, shapes and types its weights have, without storage.
    """

    key: str
    what: str
    use: str
    describe: Callable[[Config], dict[str, Any]]
    parse: Callable[[Path, dict[str, Any]], Config]
    weights: Callable[[Config], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint(Generic[Config]):
    """A network's weights and everything that is known about them.

    Parameters
    ----------
    network : NetworkConfig or UpscalerConfig
        Shape of the network and meaning of its output.
    tensors : dict of str to Tensor
        The weights to use (the moving average), by the names of the network's ``state_dict``.
    extra : dict of str to Tensor
        What else training needs to go on; empty in a checkpoint that is only for use.
    metadata : dict
        Anything JSON can hold: v(σ), training settings, provenance.
    """

    network: Config
    tensors: dict[str, Tensor]
    extra: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def _network_config(path: Path, values: dict[str, Any]) -> NetworkConfig:
    """Make a configuration of JSON, which knows no tuples and may hold anything."""
    example = asdict(PRESETS["paper"])
    # Files of before there were such networks do not say so.
    values = {"neighbours": example["neighbours"], **values}
    if values.keys() != example.keys():
        names = sorted(values.keys() ^ example.keys())
        raise CheckpointError(f"{path}: network settings missing or unknown: {', '.join(names)}")
    made: dict[str, Any] = {}
    for name, like in example.items():
        value = tuple(values[name]) if isinstance(like, tuple) else values[name]
        kind = type(like[0]) if isinstance(like, tuple) else type(like)
        accepted = (int, float) if kind is float else (kind,)
        if any(type(part) not in accepted for part in (value if type(value) is tuple else [value])):
            raise CheckpointError(f"{path}: network setting {name} is {value!r}")
        made[name] = value
    return NetworkConfig(**made)


def _network_weights(network: NetworkConfig) -> Mapping[str, Tensor]:
    import torch

    from srmri_model.networks import NCSNpp

    with torch.device("meta"):
        return NCSNpp(network).state_dict()


SCORE: Kind[NetworkConfig] = Kind(
    key="network",
    what="a score model",
    use="give it to 'srmri upsample', or train a baseline with --model NAME",
    describe=asdict,
    parse=_network_config,
    weights=_network_weights,
)
"""How checkpoints hold a score model."""


def save_checkpoint(
    path: Path,
    checkpoint: Checkpoint[Config],
    kind: Kind[Config] = SCORE,  # type: ignore[assignment]
) -> str:
    """Write a checkpoint; it appears under its name when it is complete and on disk.

    Parameters
    ----------
    path : Path
        Destination, by convention ``*.safetensors``.
    checkpoint : Checkpoint
        What to write.
    kind : Kind
        What it holds; by default a score model.

    Returns
    -------
    str
        SHA-256 of the file, 64 hexadecimal digits.
    """
    from safetensors.torch import save

    tensors = {
        prefix + name: tensor.detach().cpu().contiguous()
        for prefix, group in ((_EMA, checkpoint.tensors), (_EXTRA, checkpoint.extra))
        for name, tensor in group.items()
    }
    description = json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            kind.key: kind.describe(checkpoint.network),
            "metadata": checkpoint.metadata,
        },
        sort_keys=True,
        allow_nan=False,
    )
    # One entry, because safetensors writes several in random order.
    header = f"{_content_sha256(description, tensors)}\n{description}"
    content = save(tensors, {_HEADER_KEY: header})
    with safe_io.atomic_write(Path(path)) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def load_checkpoint(
    path: Path,
    kind: Kind[Config] = SCORE,  # type: ignore[assignment]
) -> Checkpoint[Config]:
    """Read a checkpoint and verify all of it.

    Parameters
    ----------
    path : Path
        File written by `save_checkpoint`.
    kind : Kind
        What it has to hold; by default a score model.

    Returns
    -------
    Checkpoint
        Tensors on the CPU.

    Raises
    ------
    MissingInputError
        If there is no such file.
    CheckpointError
        If the file is truncated, changed, of an unknown version, holds something else, or its
        weights are not those of the network it describes.
    """
    path = Path(path)
    tensors, header = _read_safetensors(path)
    stored, description = _described(path, header)
    if _content_sha256(description, tensors) != stored:
        raise CheckpointError(
            f"{path}: content and stored SHA-256 {stored[:12]}… differ: the file has changed "
            "since it was written",
            hint=_DAMAGED_HINT,
        )
    network, metadata = _parse_description(path, description, kind)
    groups: dict[str, dict[str, Tensor]] = {_EMA: {}, _EXTRA: {}}
    for name, tensor in tensors.items():
        prefix, dot, rest = name.partition(".")
        if prefix + dot not in groups:
            raise CheckpointError(f"{path}: tensor {name!r} has no place in a checkpoint")
        groups[prefix + dot][rest] = tensor
    check_weights(path, network, groups[_EMA], kind)
    return Checkpoint(network, groups[_EMA], groups[_EXTRA], metadata)


def read_description(path: Path) -> tuple[NetworkConfig, dict[str, Any]]:
    """Read what a checkpoint says of itself, without its weights and without torch.

    The header alone is looked at; `load_checkpoint` verifies it together with the weights.

    Parameters
    ----------
    path : Path
        File written by `save_checkpoint`.

    Returns
    -------
    network : NetworkConfig
        Shape of the network.
    metadata : dict
        As in `Checkpoint`.

    Raises
    ------
    MissingInputError
        If there is no such file.
    CheckpointError
        If it is no checkpoint, cut off, or of an unknown version.
    """
    path = Path(path)
    length = _header_length(path)
    with open(path, "rb") as file:
        file.seek(8)
        header = file.read(length)
    try:
        described = dict(json.loads(header)["__metadata__"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: a safetensors file, but not a checkpoint of srmri", hint=_FOREIGN_HINT
        ) from error
    return _parse_description(path, _described(path, described)[1], SCORE)


def load_denoiser(path: Path, device: str = "cpu", *, bf16: bool = False) -> Denoiser:
    """Read a checkpoint and make it ready to use.

    Parameters
    ----------
    path : Path
        File written by `save_checkpoint`.
    device : str
        Where it is to run.
    bf16 : bool
        Run the network in bfloat16.

    Returns
    -------
    Denoiser
        With frozen weights.
    """
    from srmri_model.networks import Denoiser, build_network

    checkpoint = load_checkpoint(path)
    network = build_network(checkpoint.network)
    network.load_state_dict(checkpoint.tensors)
    network.requires_grad_(False).eval().to(device)
    return Denoiser(network, checkpoint.network, bf16=bf16)


def check_weights(
    path: Path,
    network: Config,
    weights: Mapping[str, Tensor],
    kind: Kind[Config] = SCORE,  # type: ignore[assignment]
) -> None:
    """Compare names, shapes and types of weights with those a network has.

    Parameters
    ----------
    path : Path
        Where they come from, for the message.
    network : NetworkConfig or UpscalerConfig
        Shape of the network.
    weights : mapping of str to Tensor
        The weights.
    kind : Kind
        What it is; by default a score model.

    Raises
    ------
    CheckpointError
        If any is missing, left over, of another shape or type, or not finite.
    """
    import torch

    expected = kind.weights(network)
    problems = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    problems += [f"{name} is unknown" for name in weights.keys() - expected.keys()]
    for name in expected.keys() & weights.keys():
        found, wanted = weights[name], expected[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            problems.append(
                f"{name} is {found.dtype} {tuple(found.shape)}, "
                f"expected {wanted.dtype} {tuple(wanted.shape)}"
            )
        elif not bool(torch.isfinite(found).all()):
            problems.append(f"{name} is not finite")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path}: weights do not fit the network: {'; '.join(sorted(problems)[:3])}{more}"
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and header of a file whose sizes have been checked first."""
    from safetensors import SafetensorError, safe_open

    _header_length(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            # A copy: what is memory-mapped would change with the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error})", hint=_DAMAGED_HINT
        ) from error
    return tensors, header


def _header_length(path: Path) -> int:
    """Return the length of a file's header, which the file can hold and memory too."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            claimed = int.from_bytes(file.read(8), "little")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInputError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can not be read ({error.strerror})") from error
    if size < 8 or claimed > min(size - 8, _MAX_HEADER):
        raise CheckpointError(
            f"{path}: not a safetensors file, or cut off: {size} bytes with a header of {claimed}",
            hint=_DAMAGED_HINT,
        )
    return claimed


def _described(path: Path, header: Mapping[str, str]) -> tuple[str, str]:
    """Split our entry of a safetensors header: SHA-256 and description."""
    if set(header) != {_HEADER_KEY}:
        raise CheckpointError(
            f"{path}: a safetensors file, but not a checkpoint of srmri", hint=_FOREIGN_HINT
        )
    stored, _, description = header[_HEADER_KEY].partition("\n")
    return stored, description


def _parse_description(path: Path, text: str, kind: Kind[Config]) -> tuple[Config, dict[str, Any]]:
    try:
        document = json.loads(text)
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise CheckpointError(
                f"{path}: checkpoint version {version}, expected {SCHEMA_VERSION}",
                hint="a newer srmri may have written it",
            )
        if kind.key not in document:
            raise CheckpointError(f"{path}: not a checkpoint of {kind.what}", hint=kind.use)
        network = kind.parse(path, document[kind.key])
        return network, dict(document["metadata"])
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: its description can not be used ({error})") from error


def _content_sha256(description: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash the description, and name, type, shape and bytes of every tensor, in sorted order."""
    import torch

    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
