"""A folder of images: one sub-folder a class, with or without sub-folders a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manynet.data._data import Data
from manynet.data._split import Options, Raw, image_data
from manynet.errors import InputError

__all__ = ["SPLITS", "image_folder"]

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_folder(folder: Path, options: Options) -> Data:
    """Return the images below `folder`; a missing val or test split is held out of train."""
    splits = _split_folders(folder)
    classes = [path.name for path in _folders(splits["train"])]
    if len(classes) < 2:
        raise InputError(
            f"{splits['train']} has {len(classes)} sub-folders with images; "
            "it needs one for each class, and at least 2"
        )
    raw = {name: _labelled(path, classes) for name, path in splits.items()}
    missing = [name for name in ("val", "test") if name not in splits]
    held = f"; {' and '.join(missing)} held out of train" if missing else ""
    return image_data(raw, options, classes=classes, origin=f"images in {folder}{held}")


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    found = {
        split: folder / name
        for split, names in SPLITS.items()
        for name in names
        if (folder / name).is_dir()
    }
    return found if "train" in found else {"train": folder}


def _labelled(folder: Path, classes: list[str]) -> Raw:
    unknown = [path.name for path in _folders(folder) if path.name not in classes]
    if unknown:
        raise InputError(
            f"{folder} holds the class {unknown[0]!r}, which the training images do not have "
            f"({', '.join(classes)}); remove it or add training images"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = _images(folder / name)
        files += images
        labels += [label] * len(images)
    return Raw(files, np.array(labels, dtype=np.int64), [str(file) for file in files])


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: every split needs every class's folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(
            f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}); remove the folder or fill it"
        )
    return found
