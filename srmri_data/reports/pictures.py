"""Images for pages: pixels, and PNG files inside the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_EDGE = 900


def grey(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Show values from 0 to 1 as grey levels.

    Parameters
    ----------
    image : (row, col) ndarray
        Values beyond that range are clipped.

    Returns
    -------
    (row, col) ndarray of uint8
        Pixels.

    Examples
    --------
    >>> grey(np.array([[-1.0, 0.5, 2.0]])).tolist()
    [[0, 128, 255]]
    """
    return np.asarray(np.round(255 * np.clip(image, 0, 1)), dtype=np.uint8)


def colour(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Show values from 0 to 1 in a colour map of matplotlib.

    Parameters
    ----------
    image : (row, col) ndarray
        Values beyond that range are clipped.
    name : str
        Of the colour map.

    Returns
    -------
    (row, col, 3) ndarray of uint8
        Pixels.
    """
    import matplotlib as mpl

    shown = mpl.colormaps[name](np.clip(image, 0, 1))[..., :3]
    return np.asarray((255 * shown).round().astype(np.uint8))


def png_bytes(pixels: NDArray[np.uint8], max_edge: int | None = None) -> bytes:
    """Write pixels as a PNG file.

    Parameters
    ----------
    pixels : (row, col) or (row, col, 3) ndarray of uint8
        Grey levels or colours.
    max_edge : int, optional
        Larger images are made smaller.

    Returns
    -------
    bytes
        The same for the same pixels.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    if max_edge is not None:
        image.thumbnail((max_edge, max_edge))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(pixels: NDArray[np.uint8], max_edge: int = _MAX_EDGE) -> str:
    """Put pixels into the address of an image, so that a page needs no other file.

    Parameters
    ----------
    pixels : (row, col) or (row, col, 3) ndarray of uint8
        Grey levels or colours.
    max_edge : int
        Larger images are made smaller.

    Returns
    -------
    str
        ``data:image/png;base64,…``.
    """
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels, max_edge)).decode()
