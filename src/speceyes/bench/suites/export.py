"""The built-in suite written down in the formats of the public suites, to be read as one of them.

Not every question fits every format, and what does not is left out:
- `vstar` takes questions with options: attribute becomes direct_attributes, position becomes
  relative_position. The right option is put first; pictures become JPEG of quality 95.
- `hrbench` takes questions with four options. Each is asked in four orders, in which the right
  option stands at A, B, C and D; questions go to 4k and 8k in turn. Pictures stay as they are.
- `pope` takes the existence questions; they go to adversarial, popular and random in turn. Pictures
  stay as they are.
It refuses to know how the formats are read.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from speceyes.bench.items import Item
from speceyes.bench.suites import hrbench, pope, vstar
from speceyes.builtin.questions import SPLITS
from speceyes.builtin.suite import draw_item
from speceyes.errors import ConfigError
from speceyes.pictures import decode

ExportFormat: TypeAlias = Literal["vstar", "hrbench", "pope"]
Dealt: TypeAlias = Iterator[tuple[str, int, Item]]  # (split there, number within it, item)

DEFAULT_PER_SPLIT: Final = 40
JPEG_QUALITY: Final = 95
_VSTAR_SPLITS: Final[Mapping[str, str]] = {
    "attribute": "direct_attributes",
    "position": "relative_position",
}
_RELEASED: Final[Mapping[ExportFormat, Mapping[str, int]]] = {
    "vstar": vstar.RELEASED,
    "hrbench": hrbench.RELEASED,
    "pope": pope.RELEASED,
}
_NOTES: Final[Mapping[ExportFormat, str]] = {
    "vstar": "questions with options, the right one first; pictures as JPEG of quality 95",
    "hrbench": "questions with four options, each in four orders; pictures as they are",
    "pope": "existence questions, dealt to the splits in turn; pictures as they are",
}
_GROUP_ROWS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: where, how many entries of each split, and which questions were taken."""

    out: Path
    counts: Mapping[str, int]
    note: str


def export_suite(
    form: ExportFormat, out: Path, *, per_split: int = DEFAULT_PER_SPLIT, seed: int = 0
) -> Exported:
    """Write the built-in suite's test items, in the order of their drawing, in a public format.

    Every split gets `per_split` entries; HR-Bench's come in fours, so there it is rounded up.
    Raises: ConfigError if the folder is not empty or cannot be written to, or a number is below 1.
    """
    if per_split < 1:
        raise ConfigError("per_split", f"{per_split} is below 1")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError("out", f"{out} is not empty; name a new folder")
        counts = _WRITERS[form](out, per_split, seed)
    except OSError as error:
        raise ConfigError(
            "out", f"{out} cannot be written to: {error.strerror or error}"
        ) from error
    return Exported(out=out, counts=counts, note=_NOTES[form])


def _fits(form: ExportFormat, item: Item) -> bool:
    options = len(item.query.options)
    return {"vstar": options > 1, "hrbench": options == 4, "pope": options == 0}[form]


def _dealt(form: ExportFormat, questions: int, seed: int) -> Dealt:
    """Deal fitting items to the splits of a format until each has so many."""
    numbers, turns = dict.fromkeys(_RELEASED[form], 0), cycle(_RELEASED[form])
    for index in count():
        if form == "pope" and SPLITS[index % len(SPLITS)] != "existence":
            continue  # not worth a drawing
        item = draw_item(index, seed=seed)
        if not _fits(form, item):
            continue
        split = _VSTAR_SPLITS[item.split] if form == "vstar" else next(turns)
        if numbers[split] < questions:
            yield split, numbers[split], item
            numbers[split] += 1
        if min(numbers.values()) == questions:
            return


def _right_first(item: Item) -> tuple[str, ...]:
    return (item.answer, *(option for option in item.query.options if option != item.answer))


def _write_vstar(out: Path, per_split: int, seed: int) -> Mapping[str, int]:
    for split in vstar.RELEASED:
        (out / split).mkdir()
    for split, number, item in _dealt("vstar", per_split, seed):
        path = out / split / f"builtin_{number:05}"
        boxes = [[box.left_px, box.top_px, *box.size] for box in item.targets_px]
        told = {"question": item.query.question, "options": _right_first(item), "bbox": boxes}
        path.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
        image = decode(item.query.pictures[0])
        image.save(path.with_suffix(".jpg"), format="JPEG", quality=JPEG_QUALITY)
    return dict.fromkeys(vstar.RELEASED, per_split)


def _write_hrbench(out: Path, per_split: int, seed: int) -> Mapping[str, int]:
    orders = len(hrbench.LETTERS)
    questions = -(-per_split // orders)
    with ExitStack() as stack:
        tables = {}
        for split in hrbench.RELEASED:
            path = out / f"hr_bench_{split}.tsv"
            file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
            tables[split] = csv.writer(file, delimiter="\t", lineterminator="\n")
            tables[split].writerow(hrbench.COLUMNS)
        for split, number, item in _dealt("hrbench", questions, seed):
            image = base64.b64encode(item.query.pictures[0].data).decode("ascii")
            options = _right_first(item)
            for turn, letter in enumerate(hrbench.LETTERS):
                shown = (options[place - turn] for place in range(orders))
                index = number * orders + turn
                row = (index, item.query.question, letter, *shown, "single", image)
                tables[split].writerow(row)
    return dict.fromkeys(hrbench.RELEASED, questions * orders)


def _write_pope(out: Path, per_split: int, seed: int) -> Mapping[str, int]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError("format", "pope takes pyarrow: pip install 'speceyes[lab]'") from error
    words = ("id", "question_id", "question", "answer", "image_source", "category")
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([*((name, pa.string()) for name in words), ("image", image_type)])
    (out / pope.FOLDER).mkdir()
    waiting: dict[str, list[dict[str, Any]]] = {split: [] for split in pope.RELEASED}
    with ExitStack() as stack:
        files = {}
        for split in pope.RELEASED:
            path = out / pope.FOLDER / pope.file_name(split)
            files[split] = stack.enter_context(parquet.ParquetWriter(path, schema))
        for split, number, item in _dealt("pope", per_split, seed):
            waiting[split].append(_pope_row(split, number, item))
            if len(waiting[split]) == _GROUP_ROWS or number + 1 == per_split:
                files[split].write_table(pa.Table.from_pylist(waiting.pop(split), schema=schema))
                waiting[split] = []
    return dict.fromkeys(pope.RELEASED, per_split)


def _pope_row(split: str, number: int, item: Item) -> dict[str, Any]:
    return {
        "id": str(number),
        "question_id": str(number + 1),
        "question": item.query.question,
        "answer": item.answer,
        "image_source": item.item_id,
        "category": split,
        "image": {"bytes": item.query.pictures[0].data, "path": f"{item.item_id}.png"},
    }


_WRITERS: Final[Mapping[ExportFormat, Callable[[Path, int, int], Mapping[str, int]]]] = {
    "vstar": _write_vstar,
    "hrbench": _write_hrbench,
    "pope": _write_pope,
}
