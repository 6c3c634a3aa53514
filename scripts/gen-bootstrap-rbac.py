#!/usr/bin/env python3
"""Packs the recorded bootstrap RBAC objects into src/apiserver/data/bootstrap-rbac.json.

Usage: scripts/gen-bootstrap-rbac.py <oracle>/docs/bootstrap-rbac.json

The result holds only what differs between objects; src/apiserver/bootstrap/ adds the rest (apiVersion, kind, the
bootstrapping label and the autoupdate annotation).
"""
import json
import pathlib
import sys

LABEL = "kubernetes.io/bootstrapping"
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"


def pack(obj):
    meta = obj["metadata"]
    out = {"name": meta["name"]}
    if meta.get("namespace"):
        out["namespace"] = meta["namespace"]
    assert meta["labels"].pop(LABEL) == "rbac-defaults", meta
    assert meta["annotations"].pop(AUTOUPDATE) == "true" and not meta["annotations"], meta
    if meta["labels"]:
        out["labels"] = meta["labels"]
    for key in ("rules", "aggregationRule", "roleRef", "subjects"):
        if obj.get(key) is not None:
            out[key] = obj[key]
    return out


def main():
    source = json.loads(pathlib.Path(sys.argv[1]).read_text())
    packed = {kind: [pack(o) for o in source[kind]] for kind in sorted(source)}
    target = pathlib.Path(__file__).parent.parent / "src/apiserver/data/bootstrap-rbac.json"
    target.write_text(json.dumps(packed, separators=(",", ":"), sort_keys=True) + "\n")
    print(f"{target}: {target.stat().st_size} bytes")


main()
