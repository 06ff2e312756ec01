"""Lists the tokens whose loss falls most when the model sees more context: a stage of its own, in any language.

    outliers.py --short FOLDER --long FOLDER --tokens FOLDER --out FILE [--top N]

Reads twdag's artifacts with the standard library alone (a safetensors file is a JSON header and raw numbers).
"""

import argparse
import array
import json
import struct
from pathlib import Path


def tensors(folder, name):
    """Yields (shape, numbers) of one tensor from every part, in order."""
    for path in sorted(Path(folder).glob("part-*.safetensors")):
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        about = json.loads(data[8 : 8 + size])[name]
        begin, end = about["data_offsets"]
        numbers = array.array({"F32": "f", "U32": "I"}[about["dtype"]])
        numbers.frombytes(data[8 + size + begin : 8 + size + end])
        yield about["shape"], numbers


def main():
    parser = argparse.ArgumentParser()
    for name in ("--short", "--long", "--tokens", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--top", type=int, default=20)
    arguments = parser.parse_args()

    vocabulary = json.loads((Path(arguments.tokens) / "tokenizer.json").read_text())["model"]["vocab"]
    text = {number: token for token, number in vocabulary.items()}
    rows, sequence = [], 0
    sources = (tensors(arguments.short, "cross_entropy"), tensors(arguments.long, "cross_entropy"), tensors(arguments.tokens, "input_ids"))
    for (shape, short), (_, long), (_, ids) in zip(*sources):
        for row in range(shape[0]):
            for i in range(shape[1]):
                gain = short[row * shape[1] + i] - long[row * shape[1] + i]
                token = ids[row * (shape[1] + 1) + i + 1]
                rows.append((round(gain, 6), sequence + row, i + 1, text.get(token, str(token))))
        sequence += shape[0]
    rows.sort(key=lambda row: (-row[0], row[1], row[2]))
    with open(arguments.out, "w", encoding="utf-8") as out:
        out.write("gain_nats\tsequence\tposition\ttoken\n")
        for row in rows[: arguments.top]:
            out.write("\t".join(json.dumps(field, ensure_ascii=False) if isinstance(field, str) else str(field) for field in row) + "\n")


if __name__ == "__main__":
    main()
