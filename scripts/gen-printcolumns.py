#!/usr/bin/env python3
"""Packs the recorded Table columns (docs/printcolumns.json of the oracle) into src/api/data/printcolumns.json.

Usage: gen-printcolumns.py <printcolumns.json> <out.json>

Form: {"texts": [description...], "columns": {"v1/pods": [[name, type, format, index into texts, priority]...]}}.
Descriptions repeat a lot, hence the table of texts.
"""
import json
import sys


def main() -> None:
    source, target = sys.argv[1:3]
    with open(source, encoding="utf-8") as file:
        kinds = json.load(file)
    texts: list[str] = []
    index: dict[str, int] = {}
    columns = {}
    for key in sorted(kinds):
        rows = []
        for column in kinds[key]["columnDefinitions"]:
            text = column["description"]
            if text not in index:
                index[text] = len(texts)
                texts.append(text)
            rows.append([column["name"], column["type"], column["format"], index[text], column["priority"]])
        columns[key] = rows
    with open(target, "w", encoding="utf-8") as file:
        file.write('{"texts":[\n' + ",\n".join(json.dumps(t, ensure_ascii=False) for t in texts))
        file.write('\n],"columns":{\n')
        file.write(",\n".join(json.dumps(k) + ":" + json.dumps(v, separators=(",", ":")) for k, v in columns.items()))
        file.write("\n}}\n")


if __name__ == "__main__":
    main()
