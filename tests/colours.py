"""Colours by formulas of their own, apart from the package's: spaces, ICC profiles, CIE 1976."""

from __future__ import annotations

import struct

import numpy as np

# columns X, Y, Z of red, green and blue under D50, as the makers of these profiles publish them
# (Adobe RGB (1998) section 4.3.5.3 and ICC's D50 forms of Display P3 and ROMM RGB), and the gamma
SPACES: dict[str, tuple[np.ndarray, float]] = {
    "Adobe RGB": (
        np.array(
            [
                [0.60974, 0.20528, 0.14919],
                [0.31111, 0.62567, 0.06322],
                [0.01947, 0.06087, 0.74457],
            ]
        ),
        563 / 256,
    ),
    "Display P3": (
        np.array(
            [
                [0.51512, 0.29198, 0.15710],
                [0.24120, 0.69225, 0.06657],
                [-0.00105, 0.04189, 0.78407],
            ]
        ),
        2.2,
    ),
    "ProPhoto": (
        np.array(
            [
                [0.79767, 0.13519, 0.03134],
                [0.28804, 0.71188, 0.00009],
                [0.0, 0.0, 0.82490],
            ]
        ),
        1.8,
    ),
}
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
D50 = np.array([0.9642, 1.0, 0.8249])


def linear(levels: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    x = np.asarray(levels, np.float64) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def lab(levels: np.ndarray) -> np.ndarray:
    """CIELAB of sRGB levels."""
    t = linear(levels) @ SRGB.T / D50
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def delta_e(a: np.ndarray, b: np.ndarray) -> float:
    """CIE 1976, the largest of all pixels."""
    return float(np.sqrt(((lab(a) - lab(b)) ** 2).sum(-1)).max())


def levels_in(space: str, srgb: tuple[int, int, int]) -> tuple[int, ...]:
    """What a file in that space has in the place of an sRGB colour."""
    columns, gamma = SPACES[space]
    light = np.linalg.solve(columns, SRGB @ linear(np.array(srgb)))
    return tuple(int(v) for v in np.rint(255 * light.clip(0, 1) ** (1 / gamma)))


def profile_of(space: str) -> bytes:
    """An ICC profile (version 2) with the published numbers."""
    columns, gamma = SPACES[space]

    def fixed(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values.tolist()))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    name = space.encode() + b"\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    tags = [
        (b"desc", described),
        (b"cprt", b"text\0\0\0\0none\0"),
        (b"wtpt", fixed(D50)),
        *((n + b"XYZ", fixed(columns[:, k])) for k, n in enumerate((b"r", b"g", b"b"))),
        *((n + b"TRC", curve) for n in (b"r", b"g", b"b")),
    ]
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for kind, data in tags:
        data += bytes(-len(data) % 4)
        table += kind + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I", at + len(body)) + bytes(4) + b"\x02\x40\0\0mntrRGB XYZ " + bytes(12)
    head += b"acsp" + bytes(28) + fixed(D50)[8:] + bytes(48)
    return head + table + body
