"""Loading of photos: a folder or archive of images, or a folder of IDX files, becomes an array
(n, size, size, 3) uint8 with labels.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ..core.files import JsonObject
from ..errors import InputError, ResourceError, UsageError, escaped
from . import idx
from .layout.description import Bad, FolderDescription
from .layout.tree import LINK
from .layout.understand import understand
from .light import UsedPhoto, dark_and_bright
from .magic import FORMATS
from .order import picks, share
from .photos import BadPhoto, Fit, Want
from .pool import Pool, default_workers
from .reading import PhotoReading
from .sizes import spread

REASONS, NAMED = 20, 3  # reasons in an error message, and files named for each; the report has all
BAD_LIMIT = 0.05  # largest share of bad photos to skip; with more, the folder itself is wrong
FEW = 200  # photos below which another decoder process is not worth its start

Progress = Callable[[int, int], None]
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Photos:
    """Photos in memory, in a fixed order.

    pixels: (n, size, size, 3) uint8; labels: (n,) int64 indices into classes, which are empty for
    photos without classes (then all labels are 0).
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The height, width and channels of each photo."""
        return self.pixels.shape[1:]

    def batch(
        self, step: int, size: int, seed: int, rank: int = 0, world: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of process `rank` of `world` in the step's batch; see Source."""
        return self.read(share(picks(len(self), size, step, seed), rank, world))

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels and labels of these photos."""
        return self.pixels[indices], self.labels[indices]

    @property
    def fingerprint(self) -> str:
        """The sha256 over pixels and labels, which identifies the data in checkpoints without
        naming files.
        """
        digest = hashlib.sha256(
            repr((self.pixels.shape, self.classes)).encode(errors="surrogatepass")
        )
        digest.update(np.ascontiguousarray(self.pixels).tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Report:
    """The report of load(), which stays at the site because it names files.

    found = kept + bad + dropped duplicates. fit: how photos that are not square were fitted, see
    Want; sizes: number of kept photos by upright width and height.
    """

    found: int
    kept: int
    classes: dict[str, int] = field(default_factory=dict)
    bad: tuple[Bad, ...] = ()
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    duplicates: tuple[tuple[str, ...], ...] = ()
    fit: Fit = "pad"
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return the fields as plain data, with sizes as a spread and `counts` of warnings."""
        counts = {code: len(names) for code, names in sorted(self.warnings.items())}
        return {**asdict(self), "sizes": spread(self.sizes), "counts": counts}


@dataclass(frozen=True)
class Survey:
    """The result of reading a folder, even if load() would refuse it.

    names: of the photos, in order; described: the folder's layout; refusal: the error that load()
    raises, if any.
    """

    photos: Photos
    report: Report
    names: tuple[str, ...]
    described: FolderDescription
    refusal: InputError | None = None


class BadPhotos(InputError):
    """Too many photos cannot be used, or any with on_bad="fail"; `report` names all of them."""

    def __init__(self, report: Report, path: Path, hint: str) -> None:
        super().__init__(
            "E-DATA-BAD",
            f"{len(report.bad)} of {report.found} photos cannot be used: "
            f"{'; '.join(_by_reason(report.bad))}",
            path=path,
            hint=hint,
        )
        self.report = report


def _by_reason(bad: Sequence[Bad]) -> Iterator[str]:
    """Yield a short clause for each reason, which names the first files concerned."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in bad:
        found.setdefault((one.code, one.reason), []).append(escaped(one.name))
    for (code, reason), names in list(found.items())[:REASONS]:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"{', '.join(names[:NAMED])}{more}: {code} {reason}"
    if len(found) > REASONS:
        yield f"and {len(found) - REASONS} more reasons"


def load(
    path: Path | FolderDescription,
    size: int,
    reading: PhotoReading | None = None,
    split: Split = "train",
    progress: Progress | None = None,
) -> tuple[Photos, Report]:
    """Load the photos of a folder or a zip archive at size x size RGB, sorted by relative name, and
    return them with a report of what was skipped or changed.

    understand() decides which files are photos, and their classes. Photos are turned upright by
    EXIF, converted to sRGB, composited on the background if they have alpha, and resized (bicubic,
    antialiased) with the aspect kept: centred on a square of the background or, with fit="crop",
    cut to the centred square. Of exact duplicates the first stays. Only the pixels of a file are
    kept. For IDX files (MNIST names) `split` chooses the files; 28 px is padded with 0 to 32, other
    sizes are resized first, and duplicates stay. progress(done, of) is called after each photo.
    InputError also if the folder can be understood in two ways; BadPhotos if more than 5 % of the
    files are bad, or any with on_bad="fail".
    """
    seen = survey(path, size, reading, split, progress)
    if seen.refusal:
        raise seen.refusal
    return seen.photos, seen.report


def survey(
    path: Path | FolderDescription,
    size: int,
    reading: PhotoReading | None = None,
    split: Split = "train",
    progress: Progress | None = None,
) -> Survey:
    """Read photos as load() does, but return its refusal of bad or useless photos instead of
    raising it.
    """
    reading = reading or PhotoReading()
    want = reading.want(size)
    if split not in idx.PREFIX:
        raise UsageError("E-CONFIG", f"split={split!r} must be train or test")
    about = path if isinstance(path, FolderDescription) else described(path, reading)
    if about.question:
        raise about.question
    if files := idx.find(about.path, split) if about.kind == "idx" else None:
        photos, sizes = read_idx(*files, size, reading.fit)
        report, names = _idx_report(photos, sizes, reading.fit), map(str, range(len(photos)))
        refusal = _refusal(photos, report, about.path, reading.on_bad)
        if not reading.classes:
            photos = Photos(photos.pixels, photos.labels * 0, ())
        return Survey(photos, report, tuple(names), about, refusal)
    if not about.photos and not about.bad:
        raise InputError(
            "E-DATA-EMPTY",
            f"found 0 images (looked for {FORMATS}, whatever they are called): {about.sentence()}",
            path=about.path,
        )
    _need_memory(len(about.photos), size, about.path)
    warnings = {code: list(names) for code, names in about.warnings.items()}
    pixels, used, bad = _decode_all(about, want, warnings, progress)
    dark_and_bright(pixels, used, reading.fit, warnings)
    photos, report, photo_names = _without_duplicates(pixels, used, bad, warnings, reading.fit)
    refusal = _refusal(photos, report, about.path, reading.on_bad)
    return Survey(photos, report, photo_names, about, refusal)


def described(path: Path, reading: PhotoReading) -> FolderDescription:
    """Return the layout of the photos at a path, understood with these settings."""
    return understand(path, reading.classes, reading.follow_links)


def read_idx(
    images: Path, labels: Path, size: int, fit: Fit = "pad"
) -> tuple[Photos, dict[tuple[int, int], int]]:
    """Return the photos of a pair of IDX files, with classes "0", "1", ..., and their sizes.

    InputError for a damaged file.
    """
    pictures, numbers = idx.pair(images, labels)
    _need_memory(len(pictures), size, images)
    count, height, width = pictures.shape
    classes = tuple(str(k) for k in range(int(numbers.max()) + 1))
    return Photos(idx.to_square(pictures, size, fit == "crop"), numbers, classes), {
        (width, height): count
    }


def refuse_bad(report: Report, path: Path, on_bad: str) -> None:
    """Raise BadPhotos if more than BAD_LIMIT of the photos are bad, or any with on_bad="fail"."""
    if report.bad and (on_bad == "fail" or len(report.bad) > BAD_LIMIT * report.found):
        unfollowed = any(bad.reason == LINK for bad in report.bad)
        hint = "follow the links, --follow-links, or " if unfollowed else ""
        hint += "repair or remove them" + (
            "" if on_bad == "fail" else f"; at most {BAD_LIMIT:.0%} may be skipped"
        )
        raise BadPhotos(report, path, hint)


def need(photos: Photos, count: int, use: str) -> None:
    """Raise InputError unless there are at least `count` photos.

    use: what needs them, such as "calibration".
    """
    if len(photos) < count:
        raise InputError(
            "E-DATA-TOO-FEW", f"{use} needs at least {count} photos, got {len(photos)}"
        )


def digests(pixels: np.ndarray) -> list[bytes]:
    """Return the sha256 of the pixels of each image (n, h, w, c)."""
    return [hashlib.sha256(image.tobytes()).digest() for image in pixels]


def groups(pixels: np.ndarray) -> list[list[int]]:
    """Return groups of two or more indices of equal images, in order."""
    by: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests(pixels)):
        by.setdefault(digest, []).append(index)
    return [group for group in by.values() if len(group) > 1]


def _need_memory(count: int, size: int, path: Path) -> None:
    needed = count * size * size * 3
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory // 2:
        what = (
            f"{count} photos at {size} px need {needed / 1e9:.1f} GB, this machine has "
            f"{memory / 1e9:.1f} GB"
        )
        raise ResourceError("E-MEMORY", what, path=path, hint="use fewer photos or a smaller size")


def _decode_all(
    about: FolderDescription,
    want: Want,
    warnings: dict[str, list[str]],
    progress: Progress | None,
) -> tuple[np.ndarray, list[UsedPhoto], list[Bad]]:
    """Decode all photos, and return the pixels (n, size, size, 3) of those that can be used, in
    order, their descriptions, and the bad photos.
    """
    bad, used, photos = list(about.bad), list[UsedPhoto](), about.photos
    pixels = np.empty((len(photos), want.size, want.size, 3), np.uint8)
    with Pool(want, min(default_workers(), len(photos) // FEW + 1)) as pool:
        answers = pool.map((photo.file, photo.span) for photo in photos)
        for done, (photo, answer) in enumerate(zip(photos, answers, strict=True), 1):
            try:
                data, codes, shape = answer.result()
            except BadPhoto as error:
                bad.append(Bad(photo.name, error.code, error.reason))
            else:
                pixels[len(used)] = np.frombuffer(data, np.uint8).reshape(want.size, want.size, 3)
                used.append(UsedPhoto(photo.name, photo.label, shape))
                for code in codes:
                    warnings.setdefault(code, []).append(photo.name)
            if progress:
                progress(done, len(photos))
    return pixels[: len(used)], used, bad


def _without_duplicates(
    pixels: np.ndarray,
    used: list[UsedPhoto],
    bad: list[Bad],
    warnings: dict[str, list[str]],
    fit: Fit,
) -> tuple[Photos, Report, tuple[str, ...]]:
    """Return the photos, the report and the photos' names, with the first of equal photos only."""
    equal = groups(pixels)
    dropped = {index for group in equal for index in group[1:]}
    for group in equal:
        warnings.setdefault("W-DATA-DUP", []).extend(used[i].name for i in group[1:])
        # Equal photos of two classes keep the first one's class, so the user should check them.
        if len({used[i].label for i in group}) > 1:
            warnings.setdefault("W-DATA-DUP-CLASS", []).append(used[group[0]].name)
    staying = [k for k in range(len(used)) if k not in dropped]
    labels = [used[k].label for k in staying]
    known = tuple(sorted({label for label in labels if label}))
    number = {label: k for k, label in enumerate(known)}
    numbers = np.array([number.get(label, 0) for label in labels], np.int64)
    report = Report(
        len(used) + len(bad),
        len(staying),
        {label: labels.count(label) for label in known},
        tuple(sorted(bad, key=lambda b: b.name)),
        {code: tuple(sorted(n)) for code, n in sorted(warnings.items())},
        tuple(tuple(used[i].name for i in group) for group in equal),
        fit,
        dict(Counter(used[k].shape for k in staying)),
    )
    return (
        Photos(pixels[staying] if dropped else pixels, numbers, known),
        report,
        tuple(used[k].name for k in staying),
    )


def _idx_report(photos: Photos, sizes: dict[tuple[int, int], int], fit: Fit) -> Report:
    equal = groups(photos.pixels)
    warnings = {"W-DATA-DUP": tuple(str(i) for group in equal for i in group[1:])} if equal else {}
    counts = Counter(photos.labels.tolist())
    return Report(
        len(photos),
        len(photos),
        {name: counts[k] for k, name in enumerate(photos.classes)},
        (),
        warnings,
        tuple(tuple(map(str, group)) for group in equal),
        fit,
        sizes,
    )


def _refusal(photos: Photos, report: Report, path: Path, on_bad: str) -> InputError | None:
    """Return the error for too many bad photos, or for photos that are all equal or each of one
    colour; None if there is none.
    """
    try:
        refuse_bad(report, path, on_bad)
    except BadPhotos as error:
        return error
    total = report.found - len(report.bad)  # those that were dropped as duplicates, too
    if total > 1 and (len(photos) == 1 or (photos.pixels == photos.pixels[0]).all()):
        return InputError("E-DATA-CONSTANT", f"all {total} photos are identical", path=path)
    if total > 1 and (photos.pixels == photos.pixels[:, :1, :1]).all():
        return InputError(
            "E-DATA-CONSTANT", f"each of the {total} photos is of one colour", path=path
        )
    return None
