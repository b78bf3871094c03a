"""A report in a file: JSON, and beside it, where they were asked for, the channel vectors as ``.safetensors``.

The JSON names its vectors by their SHA-256 and is put in place between the two steps that write them (under another
name, then under their own), so that a reader finds the old pair or the new one, wherever a writer was killed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from bninspect import codec, writing
from bninspect.errors import BNInspectError, SourceError
from bninspect.report import Channels, Report, Vector
from bninspect.text import printable

if TYPE_CHECKING:
    from pathlib import Path

_MARK = "bninspect"  # in the companion's metadata: this file is ours to overwrite
_LIMIT = 1 << 30  # bytes of JSON; a report of a million channels has less


def is_stored_report(path: Path) -> bool:
    """Whether a file is JSON with a schema of bninspect's kind, so that it can be told from an index of weights."""
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return False
        with path.open("rb") as file:
            head = file.read(4096)
    except (OSError, ValueError):
        return False
    return (path.suffix == ".json" and b'"weight_map"' not in head) or head.lstrip().startswith(b'{"schema"')


def load(path: Path) -> Report:
    """The report in a file, with the vectors beside it.

    Raises:
        SourceError: the file or its companion is missing or unreadable, is damaged, or is no report.
    """
    report = codec.decode(_read(path), str(path))
    digest = getattr(report, "vectors", None)
    if digest is not None:
        report = _with_vectors(report, _companion_of(path, digest), path)
    _check(report, path)
    return report


def save(path: Path, report: Report, *, vectors: bool = False) -> None:
    """Write a report so that a reader sees the old one or the new one, and never half.

    Args:
        path: of the JSON; vectors go beside it, under the same name with the suffix ``.safetensors``.
        report: what to store.
        vectors: store the channel vectors too, where the report has them.

    Raises:
        BNInspectError: the folder cannot be written, the disk is full, or a companion would overwrite another file.
    """
    if not hasattr(report, "vectors"):
        writing.write(path, codec.encode(_without_channels(report)))
        return
    companion = _companion(path)
    _finish(path, companion)
    found = _vectors_of(report) if vectors else {}
    plain = _without_channels(report)
    if not found:
        writing.write(path, codec.encode(plain))
        if _is_ours(companion):
            companion.unlink(missing_ok=True)
        return
    _refuse_foreign(path, companion)
    blob = _packed(found)
    plain = msgspec.structs.replace(plain, vectors=hashlib.sha256(blob).hexdigest())
    writing.write(_fresh(companion), blob)
    try:
        writing.write(path, codec.encode(plain))
    except BNInspectError:
        _fresh(companion).unlink(missing_ok=True)
        raise
    writing.move(_fresh(companion), companion)


def _finish(path: Path, companion: Path) -> None:
    """Rename what an earlier writer, killed between its last two steps, had yet to rename: the JSON needs it."""
    fresh = _fresh(companion)
    if fresh.is_file() and path.is_file():
        digest = hashlib.sha256(_read(fresh)).hexdigest()
        if digest.encode() in _read(path):
            writing.move(fresh, companion)


def as_stored(report: Report, *, vectors: bool) -> Report:
    """The report as it would be read back, with or without its vectors.

    What JSON cannot tell apart (infinity, NaN, nothing) is made alike, but for the vectors, which are not in it.
    """
    live = has_vectors(report)
    back: Any = codec.decode(codec.encode(_without_channels(report) if live else report).encode(), "the report")
    if not live or not vectors:
        return back  # type: ignore[no-any-return]
    pairs = zip(back.layers, report.layers, strict=True)  # type: ignore[union-attr]
    filled = tuple(msgspec.structs.replace(layer, channels=full.channels) for layer, full in pairs)
    return msgspec.structs.replace(back, layers=filled)  # type: ignore[no-any-return]


def has_vectors(report: Report) -> bool:
    """Whether a report holds the channel vectors of any layer."""
    return bool(_layers_with_channels(report))


def _without_channels(report: Any) -> Any:
    if not has_vectors(report):
        return report
    layers = tuple(msgspec.structs.replace(layer, channels=None) for layer in report.layers)
    others = {"vectors": None} if hasattr(report, "vectors") else {}
    return msgspec.structs.replace(report, layers=layers, **others)


def _layers_with_channels(report: Any) -> list[Any]:
    return [layer for layer in getattr(report, "layers", ()) if getattr(layer, "channels", None) is not None]


def _read(path: Path) -> bytes:
    shown = printable(str(path))
    try:
        if not path.is_file():
            raise SourceError(f"there is no file {shown}" if not path.exists() else f"{shown} is no regular file")
        if path.stat().st_size > _LIMIT:
            raise SourceError(f"{shown} is too large for a report: {path.stat().st_size:,} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _companion(path: Path) -> Path:
    if path.suffix == ".safetensors":
        raise SourceError(f"{printable(str(path))} names the vectors: a stored report is JSON, such as bn.json")
    return path.with_suffix(".safetensors")


def _fresh(companion: Path) -> Path:
    return companion.with_name(companion.name + ".new")


def _companion_of(path: Path, digest: str) -> bytes:
    """The vectors that the JSON means; those that a killed writer had not yet renamed, where it means them."""
    companion = _companion(path)
    for candidate in (companion, _fresh(companion)):
        if candidate.is_file():
            blob = _read(candidate)
            if hashlib.sha256(blob).hexdigest() == digest:
                return blob
    state = "is not the one that was written with it" if companion.exists() else "is missing"
    raise SourceError(
        f"{printable(str(companion))}, the channel vectors of {printable(str(path))}, {state}: restore the pair, or "
        "delete it and write it again"
    )


def _is_ours(companion: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(companion, framework="np") as file:
            return _MARK in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _refuse_foreign(path: Path, companion: Path) -> None:
    if companion.exists() and not _is_ours(companion):
        raise SourceError(
            f"the channel vectors of {printable(str(path))} would overwrite {printable(str(companion))}, which holds "
            "something else: give the snapshot another name"
        )


def _vectors_of(report: Any) -> dict[str, Vector]:
    return {
        _key(layer, name): vector
        for layer in _layers_with_channels(report)
        for name in Channels.__struct_fields__
        if (vector := getattr(layer.channels, name)) is not None
    }


def _key(layer: Any, name: str) -> str:
    path: str = layer.path
    return f"{path.encode('utf-8', 'backslashreplace').decode()}.{name}"


def _packed(vectors: dict[str, Vector]) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(vector) for name, vector in vectors.items()}, {_MARK: "channels"})


def _with_vectors(report: Any, blob: bytes, path: Path) -> Report:
    from safetensors import SafetensorError
    from safetensors.numpy import load as unpack

    try:
        vectors = unpack(blob)
    except (SafetensorError, ValueError, KeyError) as error:
        raise SourceError(f"the channel vectors of {printable(str(path))} cannot be read: {error}") from error
    layers = []
    for layer in report.layers:
        own = {name: vectors.get(_key(layer, name)) for name in Channels.__struct_fields__}
        known = any(vector is not None for vector in own.values())
        layers.append(msgspec.structs.replace(layer, channels=Channels(**own) if known else None))
    full: Report = msgspec.structs.replace(report, layers=tuple(layers))
    return full


def _check(report: Any, path: Path) -> None:
    """Refuse what the schema lets through and no writer wrote: vectors that do not have the layer's length."""
    for layer in _layers_with_channels(report):
        index = getattr(layer.channels, "index", None)
        length = layer.num_features if index is None else len(index)
        for name in layer.channels.__struct_fields__:
            vector = getattr(layer.channels, name)
            if vector is not None and vector.shape != (length,):
                raise SourceError(
                    f"{printable(str(path))}: {name} of {printable(layer.path)} has {list(vector.shape)} numbers, and "
                    f"the layer {length} channels"
                )
