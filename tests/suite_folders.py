"""Tiny suites in the formats of the releases, made by hand, to be read or to be broken."""

from __future__ import annotations

import base64
import csv
import io
import json

import pyarrow as pa
from PIL import Image as Pillow
from pyarrow import parquet

HR_COLUMNS = ("index", "question", "answer", "A", "B", "C", "D", "category", "image")
POPE_WORDS = ("id", "question_id", "question", "answer", "image_source", "category")
POPE_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def a_jpeg(shade=90, size=(64, 48), quality=95):
    buffer = io.BytesIO()
    Pillow.new("RGB", size, (shade % 256, 120, 200)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def as_base64(data):
    return base64.b64encode(data).decode()


def make_vstar(root, splits=("direct_attributes", "relative_position"), count=3):
    """Write so many questions for each split; gives the folder."""
    for split in splits:
        for number in range(count):
            write_vstar(root, split, f"sa_{number}", shade=number)
    return root


def write_vstar(root, split, stem, *, shade=90, picture=None, told=None, **more):
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.jpg").write_bytes(a_jpeg(shade) if picture is None else picture)
    made = {
        "question": f"What about {stem}?",
        "options": ["right", "wrong", "odd", "off"],
        "target_object": ["dog"],
        "bbox": [[10, 12, 8, 6]],
    }
    text = json.dumps(made | more) if told is None else told
    (folder / f"{stem}.json").write_text(text, encoding="utf-8")


def hr_row(index, **more):
    answer = "ABCD"[index % 4]
    made = {
        "index": index,
        "question": f"Which of {index}?",
        "answer": answer,
        **{letter: f"{letter.lower()} of {index}" for letter in "ABCD"},
        "category": "single",
        "image": as_base64(a_jpeg(index)),
    }
    return made | more


def make_hrbench(root, *, rows=None, names=("hr_bench_4k.tsv", "hr_bench_8k.tsv"), columns=None):
    """Write tables as pandas would, with minimal quoting; gives the folder."""
    root.mkdir(parents=True, exist_ok=True)
    columns = HR_COLUMNS if columns is None else columns
    for name in names:
        with (root / name).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerow(columns)
            for row in [hr_row(i) for i in range(4)] if rows is None else rows:
                table.writerow([row[column] for column in columns])
    return root


def pope_row(number, **more):
    made = {
        "id": str(number),
        "question_id": str(number + 1),
        "question": f"Is there a dog in picture {number}?",
        "answer": "yes" if number % 2 == 0 else "no",
        "image_source": f"COCO_val2014_{number}",
        "category": "random",
        "image": {"bytes": a_jpeg(number), "path": None},
    }
    return made | more


def make_pope(root, *, rows=None, splits=("adversarial", "popular", "random"), schema=None):
    """Write parquet files; gives the folder."""
    (root / "Full").mkdir(parents=True, exist_ok=True)
    rows = [pope_row(number) for number in range(4)] if rows is None else rows
    words = [(name, pa.string()) for name in POPE_WORDS]
    schema = pa.schema([*words, ("image", POPE_IMAGE)]) if schema is None else schema
    for split in splits:
        path = root / "Full" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=3)
    return root


def make_jsonl(root, *lines):
    """Write lines, as text or as values, and a picture; gives the file."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dog.jpg").write_bytes(a_jpeg())
    path = root / "mine.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path
