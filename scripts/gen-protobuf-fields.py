#!/usr/bin/env python3
"""Packs the recorded protobuf field numbers into src/apiserver/data/protobuf-fields.txt.gz.

Usage: scripts/gen-protobuf-fields.py <oracle>/docs/protobuf-fields.json

One line a message: its name, then `number name type` per field, `*` before the type of repeated ones; types that are
messages are line numbers (from 0). Messages of alpha and beta versions are left out.
"""
import gzip
import json
import pathlib
import re
import sys

OUT = pathlib.Path(__file__).parent.parent / "src/apiserver/data/protobuf-fields.txt.gz"


def main():
    source = json.loads(pathlib.Path(sys.argv[1]).read_text())
    kept = sorted(name for name in source if not re.search(r"\.v\d+(alpha|beta)\d+\.", name))
    at = {name: number for number, name in enumerate(kept)}

    def message(parent, name):
        """A type's line, or the scalar itself; short names are of the parent's package."""
        name = name.lstrip(".")
        for full in (name, parent.rpartition(".")[0] + "." + name):
            if full in at:
                return str(at[full])
        return name

    def type_of(parent, text):
        inner = re.fullmatch(r"map<string,(.*)>", text)
        return f"map:{message(parent, inner[1])}" if inner else message(parent, text)

    lines = []
    for name in kept:
        fields = sorted(source[name].items(), key=lambda f: f[1]["n"])
        rows = [f"{f['n']} {key} {'*' if f.get('r') else ''}{type_of(name, f['t'])}" for key, f in fields]
        lines.append("\t".join([name, *rows]))
    packed = gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0)
    OUT.write_bytes(packed)
    print(f"{OUT}: {len(lines)} messages, {len(packed)} bytes")


main()
