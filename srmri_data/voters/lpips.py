"""The LPIPS voter: all pairs from one pass of AlexNet over every slice."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srmri_data.errors import UsageError, WeightsError
from srmri_data.safe_io import sha256_file
from srmri_data.types import Band, DistanceMatrix, HighResStack, LowResStack
from srmri_data.voters.stacks import Progress, check_stacks, whole_band
from srmri_data.voters.trunk import load_trunk

if TYPE_CHECKING:
    import torch

SMALLEST_SIDE = 31
"""Smallest slice that leaves a pixel after AlexNet's strides and poolings."""

HEADS_SHA256 = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
"""SHA-256 of the linear heads, AlexNet v0.1, in the `lpips` package."""

CHUNK = 16
"""Slices that pass through the network at a time."""

_BLOCK = 16384


def lpips_distances(
    low_res: LowResStack,
    high_res: HighResStack,
    *,
    band: Band | None = None,
    trunk: Path | None = None,
    device: str = "cpu",
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> DistanceMatrix:
    """Compare slices by LPIPS, AlexNet v0.1.

    Parameters
    ----------
    low_res : (n_lr, row, col) ndarray of float32
        LR slices, nominally in [0, 1], at least 31 x 31 pixels.
    high_res : (n_hr, row, col) ndarray of float32
        HR slices resized to the in-plane size of the LR slices, nominally in [0, 1].
    band : (n_lr, 2) ndarray of int, optional
        Half-open range of candidates to compare each LR slice with; all by default. Only the
        features that a band still needs are kept.
    trunk : Path, optional
        File with the AlexNet trunk; searched for by default, see `srmri_data.voters.trunk`.
    device : str
        Torch device. The accuracy below was measured on the CPU.
    chunk : int
        Slices that pass through the network at a time. It bounds memory, not the result.
    progress : callable, optional
        Called with (slices done, all slices of both stacks).

    Returns
    -------
    (n_lr, n_hr) ndarray of float32
        LPIPS distances; smaller is more alike. NaN outside the band.

    Raises
    ------
    InputError
        If the stacks can not be compared or the slices are too small.
    UsageError
        If `chunk` is not positive.
    WeightsError
        If the trunk or the heads are missing or not the expected ones.

    Notes
    -----
    Grey values go into the three colour channels alike, mapped from [0, 1] to [−1, 1].

    LPIPS averages, over the pixels of a layer, Σ_c w_c (a_c − b_c)² of unit-length features a, b.
    With features scaled by √w / √(pixels) this is ‖a‖² + ‖b‖² − 2⟨a, b⟩, a matrix product over all
    pairs: a network pass per slice instead of two per pair. The mean LR feature is subtracted
    from both sides first; it changes no distance, and without it two nearly equal slices would
    be a small difference of large numbers. LR features stay in memory (3.6 MB for a slice of
    256 x 360), HR features are made chunk by chunk.

    References
    ----------
    R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The unreasonable effectiveness of
    deep features as a perceptual metric", CVPR 2018, equation 1.
    """
    check_stacks(low_res, high_res, voter="LPIPS", smallest_side=SMALLEST_SIDE)
    if chunk < 1:
        raise UsageError(f"LPIPS needs a chunk of at least one slice, not {chunk}")

    import torch

    model = lpips_model(trunk).to(device)
    if band is not None:
        band = whole_band(low_res, high_res, band)
        with torch.inference_mode():
            return _banded(model, low_res, high_res, band, chunk, progress)
    n_lr, n_hr = len(low_res), len(high_res)
    with torch.inference_mode():
        low: list[torch.Tensor] = []
        for start, layers in _features(model, low_res, chunk):
            if not low:
                low = [layer.new_empty(n_lr, layer.shape[1]) for layer in layers]
            for kept, layer in zip(low, layers, strict=True):
                kept[start : start + len(layer)] = layer
            if progress is not None:
                progress(start + len(layers[0]), n_lr + n_hr)

        centres = [layer.mean(0) for layer in low]
        low_norms = []
        for layer, centre in zip(low, centres, strict=True):
            layer -= centre
            low_norms.append(_squared_norms(layer))

        distances = np.empty((n_lr, n_hr), np.float32)
        for start, layers in _features(model, high_res, chunk):
            stop = start + len(layers[0])
            total = torch.zeros(n_lr, stop - start, dtype=torch.float64, device=device)
            for a, a_norm, centre, b in zip(low, low_norms, centres, layers, strict=True):
                b -= centre
                total += a_norm[:, None] + _squared_norms(b) - 2.0 * _inner_products(a, b)
            distances[:, start:stop] = total.clamp_(min=0.0).cpu().numpy()
            if progress is not None:
                progress(n_lr + stop, n_lr + n_hr)
    return distances


def lpips_model(trunk: Path | None = None) -> Any:
    """Build ``lpips.LPIPS(net="alex")`` with the trunk found on this machine.

    Parameters
    ----------
    trunk : Path, optional
        File with the AlexNet trunk; searched for by default.

    Returns
    -------
    lpips.LPIPS
        The reference model, in evaluation mode, on the CPU.

    Raises
    ------
    WeightsError
        If the trunk or the heads are missing or not the expected ones.
    """
    weights, _ = load_trunk(trunk)

    import lpips
    import torch

    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"
    if not heads.is_file() or sha256_file(heads) != HEADS_SHA256:
        raise WeightsError(
            f"{heads}: not the linear heads of LPIPS v0.1, expected SHA-256 {HEADS_SHA256}",
            "reinstall the package lpips",
        )
    with warnings.catch_warnings():
        # lpips 0.1.4 still says `pretrained=` to torchvision, which renamed it and says so.
        warnings.filterwarnings(
            "ignore",
            message=".*deprecated since 0.13",
            category=UserWarning,
            module=r"torchvision\.models\._utils",
        )
        # `pnet_rand` builds the trunk without a download; every weight is replaced below.
        model = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    # "slice2.3.weight" in lpips is "features.3.weight" in torchvision.
    state = {
        key: torch.from_numpy(weights["features." + key.split(".", 1)[1]])
        for key in model.net.state_dict()
    }
    model.net.load_state_dict(state, strict=True)
    return model


def _features(
    model: Any, slices: LowResStack, chunk: int
) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Yield (first slice, per layer an array (slice, channel · row · col) of scaled features)."""
    import lpips
    import torch

    device = model.scaling_layer.shift.device
    heads = [head.model[-1].weight.sqrt() for head in model.lins]
    for start in range(0, len(slices), chunk):
        grey = torch.from_numpy(np.ascontiguousarray(slices[start : start + chunk])).to(device)
        colour = (2.0 * grey - 1.0)[:, None].expand(-1, 3, -1, -1)
        layers = []
        for activation, head in zip(model.net(model.scaling_layer(colour)), heads, strict=True):
            unit = lpips.normalize_tensor(activation)
            unit *= head / float(np.sqrt(unit.shape[2] * unit.shape[3]))
            layers.append(unit.flatten(1))
        yield start, layers


def _banded(
    model: Any,
    low_res: LowResStack,
    high_res: HighResStack,
    band: Band,
    chunk: int,
    progress: Progress | None,
) -> DistanceMatrix:
    """Compare each LR slice with its candidates only, in one sweep over both stacks."""
    n_lr, n_hr = len(low_res), len(high_res)
    distances = np.full((n_lr, n_hr), np.nan, np.float32)
    kept: dict[int, list[torch.Tensor]] = {}
    # Slices are at HR's size here; larger chunks take more memory and no less time.
    chunk = max(1, chunk // 8)

    def candidates(wanted: range, still: int) -> None:
        for old in [j for j in kept if j < still]:
            del kept[old]
        missing = [j for j in wanted if j not in kept]
        for start in range(0, len(missing), chunk):
            some = missing[start : start + chunk]
            ((_, layers),) = _features(model, high_res[some], chunk)
            for n, j in enumerate(some):
                kept[j] = [layer[n] for layer in layers]

    # Bands need not move steadily: a candidate is forgotten when no later slice asks for it.
    later = np.minimum.accumulate(band[::-1, 0])[::-1]
    for start, layers in _features(model, low_res, chunk):
        for i in range(start, start + len(layers[0])):
            wanted = range(*band[i])
            candidates(wanted, int(later[i]))
            for j in wanted:
                distances[i, j] = sum(
                    float((a[i - start] - b).square_().sum())
                    for a, b in zip(layers, kept[j], strict=True)
                )
            if progress is not None:
                progress(i + 1, n_lr)
    return distances


def _squared_norms(features: torch.Tensor) -> torch.Tensor:
    return features.square().sum(1).double()


def _inner_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b.T in double precision, at the speed of single precision."""
    # One float32 product over 10^5 terms is off by 1e-5; blocks summed in float64 by 1e-7.
    total = a.new_zeros(len(a), len(b)).double()
    for start in range(0, a.shape[1], _BLOCK):
        total += a[:, start : start + _BLOCK] @ b[:, start : start + _BLOCK].T
    return total
