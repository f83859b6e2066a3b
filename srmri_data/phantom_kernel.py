"""Compiled heart of `srmri_data.phantom`: the intensity of one point of the mouse brain.

Everything is a function of world position (x right, y anterior, z superior, mm,
origin at the centre of the brain) and of nothing else, so the same brain can be
sampled on any grid. A point is painted: the surface depth gives the cortex,
then nuclei, tracts, ventricles and vessels are laid over it with soft edges,
then texture. `h`, the voxel size, only softens edges and fades out detail the
grid could not carry.

This module imports numba when it is loaded; `srmri_data.phantom` loads it late.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

# `error_model`: no division here can be by zero, so no check is compiled in.
_compiled = njit(cache=True, nogil=True, error_model="numpy")

# T2*-like intensities relative to CSF. White matter and vessels are dark.
CSF = 0.95
GREY = 0.60
WHITE = 0.27
VESSEL = 0.08

# Fibre tracts: way points (|x|, y, z, radius) and intensity. One hemisphere; the
# other follows by |x| and differs by the warp.
_PATHS: tuple[tuple[float, tuple[tuple[float, float, float, float], ...]], ...] = (
    # anterior commissure into the olfactory bulb, and its posterior limb
    (WHITE, ((0.0, 1.7, -1.1, 0.14), (0.7, 1.95, -1.02, 0.14), (1.15, 3.0, -0.9, 0.17),
             (1.15, 4.2, -0.7, 0.18), (0.92, 5.3, -0.4, 0.22))),
    (0.33, ((0.2, 1.72, -1.1, 0.10), (1.2, 1.65, -1.15, 0.10), (2.1, 1.3, -1.45, 0.09),
            (2.9, 0.8, -1.95, 0.05))),
    # fimbria, fornix, mammillary body, mammillothalamic tract
    (WHITE, ((2.85, -0.75, -0.15, 0.10), (2.45, -0.1, 0.40, 0.18), (1.75, 0.6, 0.75, 0.22),
             (0.85, 1.0, 0.85, 0.18), (0.32, 1.45, 0.30, 0.13), (0.33, 1.45, -0.6, 0.11),
             (0.40, 0.95, -1.6, 0.10), (0.42, 0.0, -2.15, 0.09), (0.30, -1.0, -2.45, 0.11),
             (0.48, -0.6, -1.5, 0.08), (0.62, 0.4, -0.5, 0.07))),
    # fasciculus retroflexus, stria medullaris, stria terminalis
    (0.31, ((0.24, -0.2, 0.72, 0.07), (0.30, -0.75, -0.3, 0.07), (0.42, -1.6, -1.8, 0.06))),
    (0.34, ((0.30, -0.3, 0.88, 0.08), (0.42, 0.5, 0.72, 0.08), (0.62, 1.1, -0.1, 0.06))),
    (0.35, ((0.85, 1.25, -0.3, 0.05), (1.15, 1.0, 0.3, 0.07), (1.75, 0.55, 0.45, 0.07),
            (2.4, 0.0, 0.0, 0.05))),
    # optic chiasm and tract to the lateral geniculate
    (0.30, ((0.0, 1.65, -2.95, 0.20), (0.7, 1.2, -2.85, 0.16), (1.55, 0.45, -2.4, 0.13),
            (2.25, -0.35, -1.4, 0.12), (2.45, -1.0, -0.1, 0.09))),
    # internal capsule, cerebral peduncle, longitudinal fibres of the pons, pyramid
    (WHITE, ((2.45, 1.2, 0.25, 0.12), (2.35, 0.5, -0.6, 0.20), (2.05, -0.6, -1.6, 0.22),
             (1.6, -1.6, -2.15, 0.22), (0.9, -2.9, -2.6, 0.20), (0.45, -4.2, -2.75, 0.18),
             (0.33, -5.8, -2.65, 0.17), (0.26, -7.6, -2.35, 0.13))),
    # spinal trigeminal tract, medial longitudinal fasciculus
    (0.31, ((2.0, -3.9, -1.7, 0.14), (1.85, -5.2, -1.65, 0.17), (1.35, -7.2, -1.5, 0.13))),
    (0.31, ((0.17, -2.5, -0.6, 0.07), (0.15, -5.0, -1.0, 0.07), (0.13, -7.4, -1.2, 0.07))),
    # posterior commissure, brachium of the inferior colliculus, lateral lemniscus
    (0.32, ((0.0, -1.6, 0.62, 0.10), (0.45, -1.65, 0.50, 0.10), (0.9, -1.8, 0.2, 0.05))),
    (0.32, ((1.35, -3.7, 0.25, 0.08), (1.75, -2.9, 0.0, 0.10), (1.95, -2.0, -0.1, 0.07))),
    (0.33, ((1.35, -3.85, 0.0, 0.09), (1.6, -3.6, -0.9, 0.10), (1.35, -3.4, -2.0, 0.08))),
    # middle cerebellar peduncle
    (WHITE, ((1.5, -4.6, 0.0, 0.22), (1.9, -4.2, -0.8, 0.24), (1.8, -3.8, -1.8, 0.20),
             (1.0, -3.6, -2.5, 0.10))),
)  # fmt: skip


def _tubes(pieces: int = 4) -> NDArray[np.float64]:
    """Smooth the tracts (Catmull-Rom) into tapered tubes.

    Returns
    -------
    (n, 9) ndarray
        Two ends (|x|, y, z), the radius at each, and the intensity.
    """
    rows = []
    for intensity, path in _PATHS:
        way = np.array(path)
        way = np.vstack([2 * way[0] - way[1], way, 2 * way[-1] - way[-2]])
        t = np.linspace(0.0, 1.0, pieces, endpoint=False)[:, None]
        points = [
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
                   + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
            for p0, p1, p2, p3 in zip(way, way[1:], way[2:], way[3:], strict=False)
        ]  # fmt: skip
        curve = np.vstack([*points, way[-2:-1]])
        for a, b in pairwise(curve):
            rows.append((*a[:3], *b[:3], a[3], b[3], intensity))
    return np.array(rows)


TRACTS = _tubes()

# Hippocampal axis from the septal to the temporal pole: (|x|, y, z), half
# thickness and half width of the section, mm.
HIPPOCAMPUS = np.array(
    [
        (0.95, 0.75, 1.05, 0.26, 0.60),
        (1.30, 0.25, 1.08, 0.48, 1.05),
        (1.65, -0.50, 1.02, 0.58, 1.30),
        (2.35, -1.20, 0.62, 0.62, 1.25),
        (2.95, -1.60, -0.10, 0.60, 1.05),
        (3.10, -1.70, -0.95, 0.55, 0.90),
        (2.80, -1.55, -1.75, 0.40, 0.65),
    ]
)

# Cell layers in a section, in units of its half width (+ medial) and half
# thickness (+ outwards): pyramidal layer CA1 to CA3, then the dentate V.
PYRAMIDAL = np.array(
    [
        (0.98, 0.15),
        (0.72, 0.52),
        (0.30, 0.66),
        (-0.20, 0.66),
        (-0.62, 0.50),
        (-0.84, 0.12),
        (-0.74, -0.32),
        (-0.42, -0.40),
        (-0.05, -0.22),
        (0.20, -0.16),
    ]
)
GRANULAR = np.array(
    [(-0.22, 0.10), (0.25, 0.20), (0.66, 0.12), (0.84, -0.12), (0.55, -0.50), (0.05, -0.72)]
)

# Cerebellar fissures as rays about the fastigium in the sagittal plane: angle
# (degrees, 0 = anterior, 90 = dorsal), radius of the bottom, mm.
FISSURES = np.array(
    [
        (-28.0, 0.55),
        (-4.0, 0.95),
        (17.0, 0.62),
        (40.0, 1.15),
        (62.0, 0.48),
        (80.0, 1.45),
        (97.0, 0.95),
        (116.0, 1.40),
        (134.0, 0.55),
        (152.0, 1.20),
        (172.0, 0.80),
        (192.0, 0.45),
        (213.0, 0.90),
    ]
)
FASTIGIUM_Y = -4.75
FASTIGIUM_Z = 0.10

# Texture: lattice spacing (mm) and relative amplitude of each octave.
OCTAVES = np.array(
    [(1.1, 0.030), (0.55, 0.028), (0.27, 0.026), (0.13, 0.030), (0.075, 0.058), (0.048, 0.072)]
)


@_compiled
def _ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, smooth between."""
    t = (value - low) / (high - low)
    if t <= 0.0:
        return 0.0
    if t >= 1.0:
        return 1.0
    return t * t * (3.0 - 2.0 * t)


@_compiled
def _bump(value: float, centre: float, half_width: float) -> float:
    """1 at `centre`, falling smoothly to 0 at `half_width` from it."""
    return 1.0 - _ramp(abs(value - centre), 0.0, half_width)


@_compiled
def _blend_min(a: float, b: float, reach: float) -> float:
    """Minimum with a rounded corner."""
    t = max(0.0, reach - abs(a - b)) / reach
    return min(a, b) - 0.25 * t * t * reach


@_compiled
def _blend_max(a: float, b: float, reach: float) -> float:
    """Maximum with a filled corner."""
    return -_blend_min(-a, -b, reach)


@_compiled
def _corner(ix: int, iy: int, iz: int, salt: int, fx: float, fy: float, fz: float) -> float:
    """Dot product of the offset with the pseudo-random gradient of a lattice point."""
    n = (ix * 374761393 + iy * 668265263 + iz * 2147483587 + salt * 1013904223) & 0xFFFFFFFF
    n = ((n ^ (n >> 15)) * 2246822519) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 3266489917) & 0xFFFFFFFF
    n = (n ^ (n >> 16)) & 0xFFFFFFFF
    gx = (n & 1023) - 511.5
    gy = ((n >> 10) & 1023) - 511.5
    gz = ((n >> 20) & 1023) - 511.5
    return (gx * fx + gy * fy + gz * fz) / 511.5


@_compiled
def _noise(x: float, y: float, z: float, salt: int) -> float:
    """Gradient noise on the unit lattice, mean 0, standard deviation about 1."""
    bx = math.floor(x)
    by = math.floor(y)
    bz = math.floor(z)
    fx = x - bx
    fy = y - by
    fz = z - bz
    ix = int(bx)
    iy = int(by)
    iz = int(bz)
    u = fx * fx * fx * (fx * (fx * 6.0 - 15.0) + 10.0)
    v = fy * fy * fy * (fy * (fy * 6.0 - 15.0) + 10.0)
    w = fz * fz * fz * (fz * (fz * 6.0 - 15.0) + 10.0)
    a = _corner(ix, iy, iz, salt, fx, fy, fz)
    b = _corner(ix + 1, iy, iz, salt, fx - 1, fy, fz)
    c = _corner(ix, iy + 1, iz, salt, fx, fy - 1, fz)
    d = _corner(ix + 1, iy + 1, iz, salt, fx - 1, fy - 1, fz)
    e = _corner(ix, iy, iz + 1, salt, fx, fy, fz - 1)
    f = _corner(ix + 1, iy, iz + 1, salt, fx - 1, fy, fz - 1)
    g = _corner(ix, iy + 1, iz + 1, salt, fx, fy - 1, fz - 1)
    h = _corner(ix + 1, iy + 1, iz + 1, salt, fx - 1, fy - 1, fz - 1)
    near = a + u * (b - a) + v * (c - a + u * (a - b - c + d))
    far = e + u * (f - e) + v * (g - e + u * (e - f - g + h))
    return 3.6 * (near + w * (far - near))


@_compiled
def _segment(
    x: float, y: float, z: float, ax: float, ay: float, az: float, bx: float, by: float, bz: float
) -> tuple[float, float]:
    """Distance to a segment and the position of the foot point along it, 0 to 1."""
    dx = bx - ax
    dy = by - ay
    dz = bz - az
    t = ((x - ax) * dx + (y - ay) * dy + (z - az) * dz) / (dx * dx + dy * dy + dz * dz)
    t = min(1.0, max(0.0, t))
    ex = x - ax - t * dx
    ey = y - ay - t * dy
    ez = z - az - t * dz
    return math.sqrt(ex * ex + ey * ey + ez * ez), t


@_compiled
def _ellipsoid(x: float, y: float, z: float, rx: float, ry: float, rz: float) -> float:
    """Depth below the surface of a centred ellipsoid, about mm, negative outside."""
    px = x / rx
    py = y / ry
    pz = z / rz
    r = math.sqrt(px * px + py * py + pz * pz)
    if r < 1e-6:
        return min(rx, ry, rz)
    gx = px / rx
    gy = py / ry
    gz = pz / rz
    return (1.0 - r) * r / math.sqrt(gx * gx + gy * gy + gz * gz)


@_compiled
def _polyline2(
    a: float, b: float, scale_a: float, scale_b: float, points: NDArray[np.float64]
) -> float:
    """Distance in a plane to a polyline whose vertices are scaled per axis."""
    best = 1e9
    for n in range(points.shape[0] - 1):
        ax = points[n, 0] * scale_a
        ay = points[n, 1] * scale_b
        dx = points[n + 1, 0] * scale_a - ax
        dy = points[n + 1, 1] * scale_b - ay
        t = ((a - ax) * dx + (b - ay) * dy) / (dx * dx + dy * dy)
        t = min(1.0, max(0.0, t))
        ex = a - ax - t * dx
        ey = b - ay - t * dy
        best = min(best, ex * ex + ey * ey)
    return math.sqrt(best)


@_compiled
def _cerebrum(x: float, y: float, z: float) -> tuple[float, float]:
    """Depth below the outer surface of the cerebrum, and the radial coordinate 0 to 1."""
    if y > -1.2:
        length = 6.1
        power = 0.80
        power_z = 0.58
    else:
        length = 2.6
        power = 0.50
        power_z = 0.50
    s = (y + 1.2) / length
    taper = 1.0 - s * s
    if taper <= 1e-3:
        return -1.0, 2.0
    width = 5.15 * taper**power * (1.0 - 0.035 * z)
    pz = z + 0.15
    if pz > 0:
        height = 3.25 * taper**power_z
        p = 2.25
    else:
        height = 2.95 * taper**power_z
        p = 2.7
    ax = abs(x) / width + 1e-9
    az = abs(pz) / height + 1e-9
    ax_p = ax**p
    az_p = az**p
    r = (ax_p + az_p) ** (1.0 / p)
    scale = r ** (1.0 - p)
    gx = scale * ax_p / (ax * width)
    gz = scale * az_p / (az * height)
    gy = r * 2.0 * abs(s) * power / (length * taper)
    if r > 1.15:
        return -1.0, r
    depth = (1.0 - r) / math.sqrt(gx * gx + gy * gy + gz * gz + 1e-6)
    return depth, r


@_compiled
def _cleft(u: float, y: float, z: float) -> tuple[float, float]:
    """Depth of cortex below the interhemispheric fissure, and the height of its floor.

    On the floor cortex is squeezed to a sliver, so that the white matter below
    it is the corpus callosum: an arch with the genu in front, the splenium behind.
    """
    if y > 2.4:
        floor = 1.37 - 5.0 * _ramp(y, 2.4, 3.5)
        sliver = 0.12 + 0.9 * _ramp(y, 2.4, 3.0)
    elif y > -0.7:
        t = (y - 0.9) / 1.8
        floor = 1.66 - 0.42 * t * t
        sliver = 0.12
    else:
        floor = 1.33 - 0.40 * _ramp(-y, 0.7, 1.7)
        sliver = 0.12 + 0.25 * _ramp(-y, 0.9, 1.6)
    below = max(0.0, floor - z)
    if below < sliver:
        below *= 1.0 / sliver
    else:
        below += 1.0 - sliver
    return math.sqrt(u * u + below * below), floor


@_compiled
def _hippocampus(u: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Place in the hippocampus: along-axis position, section coordinates and half sizes."""
    best = 1e9
    where = 0
    foot = 0.0
    for n in range(HIPPOCAMPUS.shape[0] - 1):
        d, t = _segment(
            u, y, z,
            HIPPOCAMPUS[n, 0], HIPPOCAMPUS[n, 1], HIPPOCAMPUS[n, 2],
            HIPPOCAMPUS[n + 1, 0], HIPPOCAMPUS[n + 1, 1], HIPPOCAMPUS[n + 1, 2],
        )  # fmt: skip
        if d < best:
            best = d
            where = n
            foot = t
    # Tangents are blended across vertices so that the section frame turns smoothly.
    n0 = max(0, where - 1) if foot < 0.5 else where
    n1 = (
        min(HIPPOCAMPUS.shape[0] - 1, n0 + 2)
        if foot < 0.5
        else min(HIPPOCAMPUS.shape[0] - 1, where + 2)
    )
    tx = HIPPOCAMPUS[n1, 0] - HIPPOCAMPUS[n0, 0]
    ty = HIPPOCAMPUS[n1, 1] - HIPPOCAMPUS[n0, 1]
    tz = HIPPOCAMPUS[n1, 2] - HIPPOCAMPUS[n0, 2]
    length = math.sqrt(tx * tx + ty * ty + tz * tz)
    tx /= length
    ty /= length
    tz /= length
    cx = HIPPOCAMPUS[where, 0] + foot * (HIPPOCAMPUS[where + 1, 0] - HIPPOCAMPUS[where, 0])
    cy = HIPPOCAMPUS[where, 1] + foot * (HIPPOCAMPUS[where + 1, 1] - HIPPOCAMPUS[where, 1])
    cz = HIPPOCAMPUS[where, 2] + foot * (HIPPOCAMPUS[where + 1, 2] - HIPPOCAMPUS[where, 2])
    thick = HIPPOCAMPUS[where, 3] + foot * (HIPPOCAMPUS[where + 1, 3] - HIPPOCAMPUS[where, 3])
    wide = HIPPOCAMPUS[where, 4] + foot * (HIPPOCAMPUS[where + 1, 4] - HIPPOCAMPUS[where, 4])
    # Outwards: away from the thalamus the hippocampus wraps around.
    ex = cx - 1.1
    ey = 0.35 * (cy + 0.3)
    ez = cz + 0.55
    dot = ex * tx + ey * ty + ez * tz
    ex -= dot * tx
    ey -= dot * ty
    ez -= dot * tz
    length = math.sqrt(ex * ex + ey * ey + ez * ez)
    ex /= length
    ey /= length
    ez /= length
    fx = ty * ez - tz * ey
    fy = tz * ex - tx * ez
    fz = tx * ey - ty * ex
    rx = u - cx
    ry = y - cy
    rz = z - cz
    along = rx * tx + ry * ty + rz * tz
    outward = rx * ex + ry * ey + rz * ez
    medial = rx * fx + ry * fy + rz * fz
    # Beyond an end of the axis the section shrinks to a cap.
    if (where == 0 and foot <= 0.0) or (where == HIPPOCAMPUS.shape[0] - 2 and foot >= 1.0):
        shrink = math.sqrt(max(1e-3, 1.0 - (along / 0.35) ** 2))
        thick *= shrink
        wide *= shrink
    return medial, outward, wide, thick


@_compiled
def _vessel(
    x: float, y: float, z: float, lattice: float, radius: float, salt: int, h: float
) -> float:
    """Darkness 0 to 1 of a network of curves: where two noise fields vanish together."""
    a = _noise(x / lattice, y / lattice, z / lattice, salt)
    b = _noise(x / lattice + 31.7, y / lattice - 17.3, z / lattice + 5.1, salt + 1)
    # 4.5 is the typical gradient of the noise per lattice unit.
    distance = math.sqrt(a * a + b * b) * lattice / 4.5
    seen = max(radius, 0.6 * h)
    return (1.0 - _ramp(distance, 0.35 * seen, 1.5 * seen)) * (radius / seen) ** 2


@_compiled
def _cerebellar_cortex(u: float, y: float, z: float, outer: float, h: float) -> tuple[float, float]:
    """Intensity of the folded cerebellum at a depth below its outer surface."""
    dy = y - FASTIGIUM_Y - 0.12 * max(0.0, u - 1.5)
    dz = z - FASTIGIUM_Z + 0.28 * max(0.0, u - 1.5)
    turn = 0.10 * math.sin(1.7 * u) + 0.05 * u
    depth = outer
    for n in range(FISSURES.shape[0]):
        angle = FISSURES[n, 0] * (math.pi / 180.0) + turn
        bottom = FISSURES[n, 1] + 0.18 * math.sin(2.3 * u + 1.9 * n)
        c = math.cos(angle)
        s = math.sin(angle)
        radial = dy * c + dz * s
        across = dy * s - dz * c
        if radial < bottom:
            radial -= bottom
            distance = math.sqrt(radial * radial + across * across)
        else:
            distance = abs(across)
        depth = min(depth, distance)
    # The paravermian sulcus parts vermis and hemisphere on the dorsal surface.
    side = math.sqrt((u - 1.42) ** 2 + max(0.0, outer - 0.55) ** 2)
    depth = min(depth, side)
    edge = 0.04 + 0.5 * h
    value = 0.70 + (0.47 - 0.70) * _ramp(depth, 0.15 - edge, 0.15 + edge)
    value += (WHITE - 0.47) * _ramp(depth, 0.29 - edge, 0.30 + edge)
    # Thin Purkinje line between molecular and granular layer.
    value -= 0.07 * _bump(depth, 0.155, 0.03 + 0.5 * h)
    nuclei = _ellipsoid(u - 1.05, y + 4.75, z - 0.15, 0.75, 0.42, 0.26)
    value += (0.46 - value) * _ramp(nuclei, -0.05, 0.08)
    # Fissures hold a film of fluid and pial vessels.
    film = 1.0 - _ramp(depth, 0.0, 0.03 + 0.4 * h)
    value += 0.6 * (0.82 - value) * film
    return value, depth


@_compiled
def _bulb(depth: float, h: float) -> float:
    """Intensity of the olfactory bulb by depth: its layers are concentric."""
    edge = 0.03 + 0.4 * h
    value = 0.50
    value += (0.66 - value) * _ramp(depth, 0.10 - edge, 0.10 + edge)
    value += (0.72 - value) * _ramp(depth, 0.24 - edge, 0.24 + edge)
    value += (0.40 - value) * _bump(depth, 0.47, 0.05 + 0.5 * h)
    value += (0.53 - value) * _ramp(depth, 0.50 - edge, 0.50 + edge)
    value += (0.40 - value) * _ramp(depth, 0.78, 0.92)
    return value


@_compiled
def _forebrain(x: float, u: float, y: float, z: float, depth: float, h: float, salt: int) -> float:
    """Intensity inside the cerebrum: cortex, white matter, then the deep structures."""
    edge = 0.03 + 0.5 * h
    ventral = _ramp(-z, 0.4, 1.7)
    # No cortex covers the hypothalamus.
    basal = _ramp(-z, 1.0, 2.0) * (1.0 - _ramp(u, 1.5, 2.4)) * (1.0 - _ramp(y, 1.4, 2.4))
    thickness = 1.02 - 0.28 * ventral + 0.20 * _ramp(y, 2.6, 3.8)
    band = 0.27 - 0.13 * _ramp(u, 1.2, 3.2)
    q = depth / thickness

    # Cortical layers I to VI.
    value = GREY
    value += 0.09 * (1.0 - _ramp(q, 0.08, 0.16))
    value -= 0.035 * _bump(q, 0.27, 0.14)
    value -= 0.075 * _bump(q, 0.46, 0.10)
    value += 0.035 * _bump(q, 0.62, 0.12)
    value -= 0.065 * _ramp(q, 0.74, 0.92)
    # The dense second layer of piriform cortex.
    value -= 0.13 * ventral * _bump(q, 0.30, 0.10) * _ramp(u, 2.2, 3.2)
    value += (0.60 - value) * basal

    deep = _ramp(depth, thickness + band - edge, thickness + band + edge)
    white = _ramp(depth, thickness - edge, thickness + edge) * (1.0 - deep)
    white *= (1.0 - _ramp(-z, 0.3, 1.5)) * (1.0 - 0.55 * _ramp(y, 2.9, 3.9))
    white *= 1.0 - (1.0 - _ramp(z, 0.0, 0.8)) * (1.0 - _ramp(u, 0.8, 1.5))
    value += (WHITE - value) * white
    if deep == 0.0:
        return value

    # Striatum with its pencil fibres, which run obliquely from front to back.
    inside = 0.53
    streak = _noise(x / 0.16 + 0.6 * y, y / 0.75 - 0.3 * z, z / 0.16 + 0.5 * y, salt + 11)
    striatum = _ellipsoid(u - 2.05, y - 1.55, z + 0.05, 1.75, 2.35, 1.75)
    inside -= 0.20 * _ramp(streak, 0.55, 1.35) * _ramp(striatum, 0.0, 0.3)
    # Globus pallidus.
    pallidum = _ellipsoid(u - 2.35, y - 0.75, z + 0.55, 0.50, 0.85, 0.70)
    inside += (0.40 - inside) * _ramp(pallidum, -0.08, 0.12)
    # Basal forebrain, hypothalamus and amygdala.
    inside += (0.60 - inside) * _ramp(-z, 0.9, 1.6)
    amygdala = _ellipsoid(u - 2.95, y + 0.05, z + 2.0, 0.75, 1.3, 0.75)
    inside += (0.64 - inside) * _ramp(amygdala, -0.05, 0.12)
    # Septum.
    septum = _ellipsoid(u, y - 2.0, z - 0.35, 0.72, 1.05, 1.25)
    inside += (0.58 - inside) * _ramp(septum, -0.05, 0.10)
    # Thalamus, its nuclei, and the capsule around its sides.
    thalamus = _ellipsoid(u - 0.85, y + 0.30, z + 0.10, 1.55, 1.75, 1.15)
    shell = _bump(thalamus, -0.10, 0.16 + 0.4 * h) * _ramp(u, 1.3, 1.9)
    nuclei = _noise(x / 0.9, y / 1.1, z / 0.8, salt + 12)
    inside += (0.46 + 0.045 * _ramp(nuclei, -0.15, 0.15) - inside) * _ramp(thalamus, -0.06, 0.08)
    inside += (0.66 - inside) * _ramp(
        _ellipsoid(u - 0.20, y + 0.10, z - 0.78, 0.17, 0.55, 0.2), -0.03, 0.05
    )
    inside += (WHITE - inside) * shell * 0.9

    # Hippocampus.
    medial, outward, wide, thick = _hippocampus(u, y, z)
    section = math.sqrt((medial / wide) ** 2 + (outward / thick) ** 2)
    if section < 1.3:
        rim = (1.0 - section) * thick
        body = _ramp(rim, -edge, edge)
        layers = 0.63
        pyramidal = _polyline2(medial, outward, wide, thick, PYRAMIDAL)
        granular = _polyline2(medial, outward, wide, thick, GRANULAR)
        line = 0.028
        seen = max(line, 0.6 * h)
        layers += 0.07 * _bump(granular, 0.14, 0.11)
        layers -= 0.30 * (line / seen) * (1.0 - _ramp(pyramidal, 0.3 * seen, 1.6 * seen))
        layers -= 0.32 * (line / seen) * (1.0 - _ramp(granular, 0.4 * seen, 1.7 * seen))
        alveus = (1.0 - _ramp(rim, 0.07, 0.11 + h)) * _ramp(outward / thick, -0.35, 0.1)
        layers += (0.31 - layers) * alveus
        inside += (layers - inside) * body
        # Thin bright cistern between hippocampus and thalamus.
        inside += (
            0.6
            * (CSF - inside)
            * _bump(rim, -0.05, 0.05 + 0.5 * h)
            * _ramp(-outward / thick, 0.3, 0.7)
        )
    return value + (inside - value) * deep


@_compiled
def _stem(
    x: float, u: float, y: float, z: float, midbrain: float, medulla: float, h: float, salt: int
) -> float:
    """Intensity of midbrain, pons and medulla."""
    edge = 0.04 + 0.5 * h
    streak = _noise(x / 0.22, y / 0.9, z / 0.22, salt + 21)
    value = 0.44 - 0.10 * _ramp(streak, 0.4, 1.3)
    nuclei = _noise(x / 0.6, y / 0.8, z / 0.6, salt + 22)
    value += 0.06 * _ramp(nuclei, 0.3, 0.9)
    if midbrain > 0.0 and z > -0.2:
        # Tectum: the layers of the colliculi run parallel to the surface.
        tectum = 0.60 - 0.19 * _bump(midbrain, 0.42, 0.10) + 0.02 * _bump(midbrain, 0.62, 0.12)
        tectum -= 0.12 * _bump(midbrain, 0.85, 0.12)
        tectum -= 0.10 * _ramp(midbrain, 0.95, 1.15)
        value += (tectum - value) * _ramp(z, -0.1, 0.35)
    grey = _ellipsoid(u, y + 2.75, z - 0.12, 0.55, 1.35, 0.52)
    value += (0.58 - value) * _ramp(grey, -0.04, 0.08)
    # Pontine and interpeduncular grey, and the superficial ventral fibres.
    pons = _ellipsoid(u - 0.45, y + 3.3, z + 2.45, 0.6, 0.6, 0.28)
    value += (0.58 - value) * _ramp(pons, -0.04, 0.08)
    skin = max(midbrain, medulla)
    value += (0.33 - value) * 0.7 * (1.0 - _ramp(skin, 0.10, 0.16 + edge)) * _ramp(-z, 0.6, 1.2)
    return value


@_compiled
def _point(wx: float, wy: float, wz: float, h: float, salt: int) -> float:
    """Intensity at a world position."""
    # Roomy ellipsoids about forebrain, bulbs and hindbrain: most air ends here.
    if (
        (wx / 5.9) ** 2 + ((wy - 0.4) / 5.6) ** 2 + (wz / 3.9) ** 2 > 1.0
        and (wx / 2.8) ** 2 + ((wy - 5.4) / 2.6) ** 2 + (wz / 2.0) ** 2 > 1.0
        and (wx / 5.1) ** 2 + ((wy + 4.8) / 3.9) ** 2 + ((wz + 0.4) / 3.6) ** 2 > 1.0
    ):
        return 0.0
    # The animal does not lie straight: turned and shifted a little.
    x = wx + 0.022 * wy - 0.030 * wz + 0.06
    y = wy - 0.022 * wx + 0.015 * wz
    z = wz + 0.030 * wx - 0.015 * wy
    # Slow warps make it asymmetric, faster ones make borders natural.
    a = _noise(x / 3.1, y / 3.4, z / 2.9, salt + 1)
    b = _noise(x / 3.3 + 7.7, y / 3.0, z / 3.1, salt + 2)
    c = _noise(x / 3.0, y / 3.2 - 4.4, z / 3.3, salt + 3)
    d = _noise(x / 0.95, y / 1.05, z / 1.00, salt + 4)
    e = _noise(x / 1.02, y / 0.97 + 3.1, z / 0.93, salt + 5)
    x += 0.11 * a + 0.024 * d
    y += 0.12 * b + 0.024 * e
    z += 0.11 * c + 0.020 * (d - e)
    u = abs(x)

    # The parts, each by the depth below its own surface.
    cerebrum, radial = _cerebrum(x, y, z)
    cleft, floor = _cleft(u, y, z)
    # Rhinal fissure: a groove along the side of the hemisphere.
    groove = math.sqrt((z + 0.75 - 0.12 * y) ** 2 + max(0.0, cerebrum - 0.28) ** 2)
    cortex = _blend_min(cerebrum, cleft, 0.7)
    if cerebrum > 0.0 and u > 2.0:
        cortex = min(cortex, groove + 0.02)
    bulb = _ellipsoid(u - 0.98, y - 5.45, z + 0.25, 0.97, 1.95, 1.20)
    tegmentum = _ellipsoid(u, y + 2.55, z + 0.95, 2.05, 1.55, 1.75)
    superior = _ellipsoid(u - 0.85, y + 2.55, z - 0.10, 1.25, 1.30, 1.20)
    inferior = _ellipsoid(u - 1.00, y + 3.65, z - 0.30, 0.95, 0.70, 0.85)
    midbrain = _blend_max(tegmentum, _blend_max(superior, inferior, 0.35), 0.8)
    stem_s = (y + 4.2) / 3.9
    if abs(stem_s) < 1.0:
        taper = (1.0 - stem_s**4) ** 0.5
        back = _ramp(-y, 4.0, 7.8)
        stem_w = (2.05 - 0.75 * back) * taper + 1e-3
        stem_h = (1.28 - 0.30 * back) * taper + 1e-3
        medulla = _ellipsoid(x, 0.0, z + 1.72 - 0.25 * back, stem_w, 1.0, stem_h)
    else:
        medulla = -1.0
    vermis = _ellipsoid(x, y + 5.10, z - 0.65, 1.75, 1.75, 1.75)
    lobe = _ellipsoid(u - 1.85, y + 4.85, z - 0.40, 1.90, 1.45, 1.40)
    flocculus = _ellipsoid(u - 3.45, y + 4.40, z + 0.60, 0.95, 0.90, 0.80)
    cerebellum = _blend_max(_blend_max(vermis, lobe, 0.4), flocculus, 0.25)
    stem = _blend_max(midbrain, medulla, 0.6)
    surface = max(cortex, bulb, stem, cerebellum)
    # Cerebrum around the brain stem: there the deep structures continue.
    if cortex < 0.2 and cerebrum > 0.9 and z < floor:
        surface = max(surface, cerebrum)
    if surface < -h:
        return 0.0

    if stem > 0.0 and (stem > 0.25 * cerebellum) and (y < -0.9):
        value = _stem(x, u, y, z, midbrain, medulla, h, salt)
        depth = stem
        merge = _ramp(0.30 * a - 0.12 * e - y - 0.15 * z, 1.15, 2.05)
        if merge < 1.0 and cortex > 0.0:
            front = _forebrain(x, u, y, z, cortex, h, salt)
            value = front + (value - front) * merge
            depth = max(cortex, stem)
    elif cerebellum > cortex and cerebellum > bulb:
        value, depth = _cerebellar_cortex(u, y, z, cerebellum, h)
        depth = cerebellum
    elif bulb > cortex:
        value = _bulb(bulb, h)
        depth = bulb
    else:
        value = _forebrain(x, u, y, z, cortex, h, salt)
        depth = cortex

    # Fibre tracts.
    if surface > 0.05:
        for n in range(TRACTS.shape[0]):
            reach = max(TRACTS[n, 6], TRACTS[n, 7]) + 0.1 + h
            if (
                u < min(TRACTS[n, 0], TRACTS[n, 3]) - reach
                or u > max(TRACTS[n, 0], TRACTS[n, 3]) + reach
                or y < min(TRACTS[n, 1], TRACTS[n, 4]) - reach
                or y > max(TRACTS[n, 1], TRACTS[n, 4]) + reach
            ):
                continue
            distance, t = _segment(
                u, y, z,
                TRACTS[n, 0], TRACTS[n, 1], TRACTS[n, 2],
                TRACTS[n, 3], TRACTS[n, 4], TRACTS[n, 5],
            )  # fmt: skip
            radius = TRACTS[n, 6] + t * (TRACTS[n, 7] - TRACTS[n, 6])
            edge = 0.03 + 0.4 * h
            value += (TRACTS[n, 8] - value) * (1.0 - _ramp(distance, radius - edge, radius + edge))

    # Ventricles, one after another.
    fluid = 0.0
    edge = 0.02 + 0.5 * h
    if 0.1 < y < 3.1:
        # Lateral ventricle: a crescent between septum and striatum.
        s = (y - 1.6) / 1.5
        gape = (0.085 + 0.015 * math.copysign(1.0, x)) * (1.0 - s * s)
        gape *= 1.0 + 0.35 * d
        bow = 1.02 - 0.42 * max(0.0, (z - 0.35) / 0.9) ** 2 - 0.16 * max(0.0, (0.35 - z) / 0.9) ** 2
        lumen = gape * _ramp(z, -0.65, 0.5) * (1.0 - 0.5 * _ramp(z, 0.8, 1.35))
        lateral = abs(u - bow) / (1.0 + 0.5 * _ramp(z, 0.6, 1.2)) - lumen
        if -0.7 < z < 1.36:
            fluid = max(fluid, _ramp(-lateral, -edge, edge) * _ramp(lumen, 0.0, 0.03))
    if -3.4 < y < -0.6 and u > 2.0:
        # Its caudal part outside the hippocampus.
        medial, outward, wide, thick = _hippocampus(u, y, z)
        section = math.sqrt((medial / wide) ** 2 + (outward / thick) ** 2)
        sheet = _bump((section - 1.0) * thick, 0.06, 0.05 + 0.5 * h) * _ramp(
            outward / thick, 0.2, 0.6
        )
        fluid = max(fluid, sheet * _ramp(-y, 0.9, 1.3) * (1.0 - _ramp(-y, 2.6, 3.2)))
    if -1.6 < y < 1.8:
        # Third ventricle: a slit below the thalamus, a small lumen above it.
        slit = 0.055 * _ramp(-z, 0.95, 1.6) * (1.0 - _ramp(-z, 2.75, 2.95))
        slit *= _ramp(1.5 - y, 0.0, 0.6) * _ramp(y + 1.1 - 0.4 * z - 0.9, 0.0, 0.6)
        fluid = max(fluid, _ramp(slit - u, -edge, edge) * _ramp(slit, 0.0, 0.02))
        dorsal, t = _segment(u, y, z, 0.0, 1.0, 0.55, 0.0, -1.6, 0.85)
        fluid = max(fluid, _ramp(0.09 - dorsal, -edge, edge))
    if -4.4 < y < -1.3:
        aqueduct, t = _segment(u, y, z, 0.0, -1.5, 0.55, 0.0, -4.2, 0.10)
        fluid = max(fluid, _ramp(0.07 + 0.05 * t - aqueduct, -edge, edge))
    if -6.9 < y < -3.6:
        fourth = _ellipsoid(u, y + 5.2, z + 0.62 - 0.16 * u, 1.35 - 0.25 * abs(y + 5.0), 1.45, 0.15)
        fluid = max(fluid, _ramp(fourth, -edge, edge))
    value += (CSF - value) * fluid

    # Pial film: fluid on the surface and in the clefts between parts.
    film = 1.0 - _ramp(depth, 0.015, 0.05 + 0.5 * h)
    value += 0.55 * (0.80 - value) * film

    # Vessels: penetrating ones in cortex, pial ones on it, a network everywhere.
    dark = 0.0
    if 0.0 < cortex < 1.15 and radial > 0.3:
        away = 1.0 / radial
        dark = _vessel(x * away, y, z * away, 0.52, 0.020, salt + 31, h)
        dark *= 0.8 * (1.0 - _ramp(cortex, 0.4, 1.1))
    if depth < 0.14:
        line = abs(_noise(x / 1.5, y / 1.5, z / 1.5, salt + 33)) * 1.5 / 4.5
        seen = max(0.05, 0.6 * h)
        pial = (1.0 - _ramp(line, 0.4 * seen, 1.4 * seen)) * (1.0 - _ramp(depth, 0.05, 0.12))
        dark = max(dark, 0.8 * pial)
    dark = max(dark, 0.8 * _vessel(x, y, z, 1.15, 0.028, salt + 34, h))
    if u < 0.4 and z > 1.5:
        sinus = math.sqrt(u * u + (cerebrum - 0.06) ** 2)
        dark = max(dark, 0.9 * (1.0 - _ramp(sinus, 0.06, 0.10 + 0.5 * h)))
    value += (VESSEL - value) * dark

    # Texture, in coordinates turned so that no lattice lines up with the voxels.
    px = 0.8047379 * x - 0.3106172 * y + 0.5058794 * z
    py = 0.5058794 * x + 0.8047379 * y - 0.3106172 * z
    pz = -0.3106172 * x + 0.5058794 * y + 0.8047379 * z
    grain = 0.0
    for n in range(OCTAVES.shape[0]):
        keep = _ramp(OCTAVES[n, 0] / h, 0.95, 1.9)
        if keep > 0.0:
            step = 1.0 / OCTAVES[n, 0]
            grain += keep * OCTAVES[n, 1] * _noise(px * step, py * step, pz * step, salt + 41 + n)
    value *= 1.0 + grain
    return max(0.0, value) * _ramp(surface, -0.6 * h, 0.6 * h)


@_compiled
def fill(
    out: NDArray[np.float32], affine: NDArray[np.float64], first: int, h: float, salt: int
) -> None:
    """Fill slices of a volume.

    Parameters
    ----------
    out : (i, j, k) ndarray of float32
        Slices to fill.
    affine : (4, 4) ndarray
        Voxel to world RAS mm of the whole volume.
    first : int
        Index of ``out[:, :, 0]`` in the whole volume.
    h : float
        Voxel size in mm.
    salt : int
        Selects the animal.
    """
    for k in range(out.shape[2]):
        for j in range(out.shape[1]):
            for i in range(out.shape[0]):
                x = affine[0, 0] * i + affine[0, 1] * j + affine[0, 2] * (k + first) + affine[0, 3]
                y = affine[1, 0] * i + affine[1, 1] * j + affine[1, 2] * (k + first) + affine[1, 3]
                z = affine[2, 0] * i + affine[2, 1] * j + affine[2, 2] * (k + first) + affine[2, 3]
                out[i, j, k] = _point(x, y, z, h, salt)
