"""Reads NCSN++ checkpoints in the public layout (score_sde, score-MRI, MCG).

Such a file is a pickle. It is read with torch's restricted loader, which knows tensors and plain
containers and looks up nothing else, and only after its archive has kept the law that no more
comes out than is in it.

The layout: ``{"model": {"module.all_modules.N.…": tensor}, "ema": {"shadow_params": [tensor, …]},
"step": int}``. The moving average has no names: it lists the trainable parameters in the order of
the modules. The frozen Fourier matrix is not in it and comes from the model.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from srmri_data import safe_io
from srmri_data.errors import CheckpointError, MissingInputError
from srmri_model.checkpoints import Checkpoint, check_weights, save_checkpoint
from srmri_model.networks.config import NetworkConfig

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "all_modules."
_SIGMAS = "sigmas"
_MAX_PICKLE = 64 << 20
_LAYOUT_HINT = "expected a score_sde, score-MRI or MCG checkpoint of an NCSN++"

_Kind = Literal["fourier", "layer", "residual", "attention", "pyramid"]

# Public name of each part of a module, in the order of its parameters → our name of it.
_PARTS: dict[_Kind, dict[str, str]] = {
    "fourier": {"W": "frequencies"},
    "layer": {"": ""},
    "residual": {
        "GroupNorm_0": "norm_in",
        "Conv_0": "conv_in",
        "Dense_0": "embed",
        "GroupNorm_1": "norm_out",
        "Conv_1": "conv_out",
        "Conv_2": "shortcut",
    },
    "attention": {
        "GroupNorm_0": "norm",
        "NIN_0": "query_key_value",
        "NIN_1": "query_key_value",
        "NIN_2": "query_key_value",
        "NIN_3": "project",
    },
    "pyramid": {"Conv2d_0": "conv"},
}


@dataclass(frozen=True)
class KeyReport:
    """What became of one tensor of the file.

    Parameters
    ----------
    name : str
        Its name in the file.
    target : str
        The weight it is, or is a part of, here; empty when it was dropped.
    source : {"ema", "model", "dropped"}
        Where the values come from.
    """

    name: str
    target: str
    source: Literal["ema", "model", "dropped"]


@dataclass(frozen=True)
class ImportReport:
    """What was in a public checkpoint and where it went.

    Parameters
    ----------
    path : str
        The file.
    sha256 : str
        Its SHA-256.
    keys : tuple of KeyReport
        One entry for every tensor of the model, in the file's order.
    ignored : tuple of str
        Other entries of the file that are not needed.
    step : int or None
        Training step it was saved at.
    ema_decay : float or None
        Decay of its moving average; None when it has none and the model's weights were taken.
    network : NetworkConfig
        Shape that was recognised.
    """

    path: str
    sha256: str
    keys: tuple[KeyReport, ...]
    ignored: tuple[str, ...]
    step: int | None
    ema_decay: float | None
    network: NetworkConfig

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON document.

        Returns
        -------
        dict
            Fields of the report, and how many keys came from where.
        """
        counts = {
            source: sum(key.source == source for key in self.keys)
            for source in ("ema", "model", "dropped")
        }
        return {**asdict(self), "counts": counts}


def import_checkpoint(path: Path) -> tuple[Checkpoint, ImportReport]:
    """Read a public checkpoint without running anything in it.

    Parameters
    ----------
    path : Path
        A ``.pth`` file.

    Returns
    -------
    checkpoint : Checkpoint
        The moving average where there is one, else the model's weights.
    report : ImportReport
        Every key and what became of it.

    Raises
    ------
    MissingInputError
        If there is no such file.
    CheckpointError
        If the file is damaged, asks for code, or is not an NCSN++ that this project has.
    """
    path = Path(path)
    document = _read_restricted(path)
    model, shadow = _model_and_average(path, document)
    # Apart, because both may point to the same numbers.
    _check_sizes(path, list(model.values()))
    _check_sizes(path, shadow)
    network = _recognise(path, model)
    layout = list(_layout(network))
    wanted = [name for name, _ in layout]
    found = [name for name in model if name != _SIGMAS]
    if missing := sorted(set(wanted) ^ set(found)):
        raise CheckpointError(
            f"{path}: not the NCSN++ it looks like: {len(missing)} keys too many or too few, "
            f"first {missing[0]!r}",
            hint=_LAYOUT_HINT,
        )
    values = {name: model[name] for name in wanted}
    trainable = [name for name in wanted if name != f"{_PREFIX}0.W"]
    if shadow:
        if [v.shape for v in shadow] != [model[name].shape for name in trainable]:
            raise CheckpointError(
                f"{path}: the moving average does not follow the parameters: {len(shadow)} "
                f"tensors for {len(trainable)} parameters, or other shapes",
                hint=_LAYOUT_HINT,
            )
        values.update(zip(trainable, shadow, strict=True))
    weights = _to_own_names(path, values, layout)
    check_weights(path, network, weights)

    step, decay = document.get("step"), document["ema"].get("decay") if shadow else None
    digest = safe_io.sha256_file(path)
    targets = dict(layout)
    report = ImportReport(
        path=str(path),
        sha256=digest,
        keys=tuple(
            KeyReport(name, "", "dropped")
            if name == _SIGMAS
            else KeyReport(name, targets[name], "ema" if shadow and name in trainable else "model")
            for name in model
        ),
        ignored=tuple(sorted(str(key) for key in document if key not in ("model", "ema", "step"))),
        step=step if isinstance(step, int) else None,
        ema_decay=decay if isinstance(decay, float) else None,
        network=network,
    )
    metadata = {
        "imported": {
            "file": path.name,
            "sha256": digest,
            "step": report.step,
            "ema_decay": report.ema_decay,
        }
    }
    return Checkpoint(network, weights, metadata=metadata), report


def run_import(path: Path, out: Path, *, force: bool = False) -> dict[str, Any]:
    """Import a public checkpoint and write it as one of ours.

    Parameters
    ----------
    path : Path
        A ``.pth`` file.
    out : Path
        Checkpoint to write.
    force : bool
        Replace an existing checkpoint.

    Returns
    -------
    dict
        The report, with the new file and its SHA-256.

    Raises
    ------
    CheckpointError
        If `out` exists and `force` is not given, or the file can not be imported.
    """
    out = Path(out)
    if out.exists() and not force:
        raise CheckpointError(f"{out} exists", hint="choose another --out, or give --force")
    checkpoint, report = import_checkpoint(path)
    weights_sha256 = save_checkpoint(out, checkpoint)
    return {**report.to_json(), "checkpoint": str(out), "checkpoint_sha256": weights_sha256}


def _read_restricted(path: Path) -> dict[str, Any]:
    """Load the pickle with torch's restricted loader, once the archive keeps the size law."""
    import torch

    try:
        size = path.stat().st_size
        _check_archive(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old and of unusual pickles
            # Restricted: tensors and plain containers, any other global is refused by name.
            document = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInputError(f"{path}: no such file") from error
    except CheckpointError:
        raise
    except Exception as error:  # a hostile file can make the loader raise anything
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{path}: not a checkpoint the restricted loader accepts "
            f"({reason[0][:200] if reason else type(error).__name__})",
            hint=_LAYOUT_HINT,
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(
            f"{path}: holds a {type(document).__name__}, expected a dict", hint=_LAYOUT_HINT
        )
    return document


def _check_archive(path: Path, size: int) -> None:
    """Refuse archives from which more would come out than is in them."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a zip archive, as torch has written checkpoints since version 1.6",
            hint="open an older file with the torch it came from and save it again",
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names):
            raise CheckpointError(f"{path}: the archive holds an entry twice")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"{path}: compressed entries, which torch does not write")
        total = sum(entry.file_size for entry in entries)
        if total > size:
            raise CheckpointError(f"{path}: entries claim {total} bytes in a file of {size}")
        if any(e.filename.endswith(".pkl") and e.file_size > _MAX_PICKLE for e in entries):
            raise CheckpointError(f"{path}: a pickle larger than {_MAX_PICKLE} bytes")
        # torch itself does not compare them.
        if damaged := archive.testzip():
            raise CheckpointError(
                f"{path}: checksum and content of {damaged} differ", hint="fetch the file again"
            )


def _model_and_average(
    path: Path, document: dict[str, Any]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Take the model's tensors, without the wrapper's prefix, and the moving average."""
    import torch

    state = document.get("model")
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path}: no entry 'model' with tensors", hint=_LAYOUT_HINT)
    model: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {name!r} is not a named tensor", hint=_LAYOUT_HINT)
        short = name.removeprefix("module.")
        if short in model:
            raise CheckpointError(f"{path}: {short!r} is there twice")
        model[short] = value
    average = document.get("ema", {})
    shadow = average.get("shadow_params", []) if isinstance(average, dict) else None
    if not isinstance(shadow, list) or not all(isinstance(v, torch.Tensor) for v in shadow):
        raise CheckpointError(f"{path}: 'ema' is not a moving average", hint=_LAYOUT_HINT)
    return model, shadow


def _check_sizes(path: Path, tensors: list[Tensor]) -> None:
    """Refuse views that are larger than what they view, and anything but dense numbers."""
    import torch

    for tensor in tensors:
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{path}: holds a tensor that is not dense")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: holds a tensor larger than its storage")
    if sum(t.numel() * t.element_size() for t in tensors) > path.stat().st_size:
        raise CheckpointError(f"{path}: tensors claim more than the file holds")


def _recognise(path: Path, model: Mapping[str, Tensor]) -> NetworkConfig:
    """Infer the shape of the network; every key and shape is compared with it afterwards."""
    parts: dict[int, set[str]] = {}
    for name in model:
        number, _, rest = name.removeprefix(_PREFIX).partition(".")
        if name != _SIGMAS:
            if not (name.startswith(_PREFIX) and number.isdecimal() and len(number) <= 4 and rest):
                raise CheckpointError(f"{path}: {name!r} is no key of an NCSN++", hint=_LAYOUT_HINT)
            parts.setdefault(int(number), set()).add(rest)
    try:
        nf = model[f"{_PREFIX}1.weight"].shape[1] // 2
        in_channels = model[f"{_PREFIX}3.weight"].shape[1]
        ch_mult: list[int] = []
        attention: list[bool] = []
        at, blocks, level_blocks, pyramid, middle = 4, 0, 0, False, False
        # The way down: residual blocks, the last of a level with a shortcut of equal width.
        while not middle:
            own = parts[at]
            if "NIN_0.W" in own:
                attention[-1] = True
            elif "Conv2d_0.weight" in own:
                pyramid = True
            else:
                out_channels, channels = model[f"{_PREFIX}{at}.Conv_0.weight"].shape[:2]
                resamples = "Conv_2.weight" in own and out_channels == channels
                if level_blocks == 0:
                    ch_mult.append(out_channels // nf)
                    attention.append(False)
                if resamples:
                    blocks, level_blocks = level_blocks, 0
                else:
                    level_blocks += 1
                    middle = level_blocks > blocks > 0
            at += 1
        # The block that was one too many is the first of the middle.
        config = NetworkConfig(
            nf=nf,
            ch_mult=tuple(ch_mult),
            blocks=blocks,
            attention=tuple(attention),
            middle_attention="NIN_0.W" in parts[at],
            progressive_input="residual" if pyramid else "none",
            in_channels=in_channels,
        )
        return _with_sigma_range(config, model)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: its modules are not those of an NCSN++ with BigGAN blocks, Fourier features "
            "and no progressive output",
            hint=_LAYOUT_HINT,
        ) from error


def _with_sigma_range(config: NetworkConfig, model: Mapping[str, Tensor]) -> NetworkConfig:
    if _SIGMAS not in model or model[_SIGMAS].numel() == 0:
        return config
    sigmas = model[_SIGMAS].double()
    # Written as exponentials of logarithms: 378 comes back as 378.00000000000017.
    smallest, largest = (float(f"{s.item():.9g}") for s in (sigmas.min(), sigmas.max()))
    return replace(config, sigma_min=smallest, sigma_max=largest)


def _layout(network: NetworkConfig) -> Iterator[tuple[str, str]]:
    """Yield public and own name of every weight, in the public order of parameters."""
    import torch

    from srmri_model.networks import NCSNpp

    with torch.device("meta"):
        own_names = set(NCSNpp(network).state_dict())
    for number, (kind, own_module) in enumerate(_modules(network)):
        for public_part, own_part in _PARTS[kind].items():
            target = ".".join(part for part in (own_module, own_part) if part)
            public = ".".join(part for part in (f"{_PREFIX}{number}", public_part) if part)
            if kind == "fourier":
                yield public, target
            elif f"{target}.weight" in own_names:
                weight, bias = ("W", "b") if public_part.startswith("NIN") else ("weight", "bias")
                yield f"{public}.{weight}", f"{target}.weight"
                yield f"{public}.{bias}", f"{target}.bias"


def _modules(network: NetworkConfig) -> Iterator[tuple[_Kind, str]]:
    """Yield kind and own name of every public module, by its number."""
    levels = len(network.ch_mult)
    yield "fourier", "fourier"
    for name in ("embed_in", "embed_out", "conv_in"):
        yield "layer", name
    for level in range(levels):
        for i in range(network.blocks):
            yield "residual", f"down.{level}.blocks.{i}"
            if network.attention[level]:
                yield "attention", f"down.{level}.attention.{i}"
        if level < levels - 1:
            yield "residual", f"down.{level}.resample"
            if network.progressive_input == "residual":
                yield "pyramid", f"down.{level}.pyramid"
    yield "residual", "middle_in"
    if network.middle_attention:
        yield "attention", "middle_attention"
    yield "residual", "middle_out"
    for stage, level in enumerate(reversed(range(levels))):
        for i in range(network.blocks + 1):
            yield "residual", f"up.{stage}.blocks.{i}"
        if network.attention[level]:
            yield "attention", f"up.{stage}.attention"
        if level > 0:
            yield "residual", f"up.{stage}.resample"
    yield "layer", "norm_out"
    yield "layer", "conv_out"


def _to_own_names(
    path: Path, values: Mapping[str, Tensor], layout: list[tuple[str, str]]
) -> dict[str, Tensor]:
    """Rename; matrices of attention are transposed, and those of q, k and v made one."""
    import torch

    pieces: dict[str, list[Tensor]] = {}
    for public, own in layout:
        value = values[public].float()
        if ".NIN_" in public and value.dim() == 2:
            value = value.T
        pieces.setdefault(own, []).append(value)
    try:
        return {
            name: (torch.cat(group) if len(group) > 1 else group[0]).clone()
            for name, group in pieces.items()
        }
    except RuntimeError as error:
        raise CheckpointError(f"{path}: attention matrices of different widths") from error
