#!/usr/bin/env python3
"""Writes src/apimachinery/data/protobuf.txt: the protobuf field numbers of the types in schema.txt.

Usage: scripts/gen-protobuf.py <oracle>/docs/protobuf-fields.json

One line a type, in schema.txt's order: its definition name, then `number field` pairs in number order. A struct that JSON
shows as part of the one around it is `number{ ... }`. What a field holds is known from schema.txt, but for `number=field`:
a list that is a message of its own (Verbs), and `number! field`: no pointer in Go though JSON leaves out the zero value.
"""
import json
import pathlib
import re
import sys

DATA = pathlib.Path(__file__).parent.parent / "src/apimachinery/data"
# JSON names that are not the protobuf name with another case
RENAMED = {
    "ref": "$ref", "schema": "$schema", "xKubernetesEmbeddedResource": "x-kubernetes-embedded-resource",
    "xKubernetesIntOrString": "x-kubernetes-int-or-string", "xKubernetesListMapKeys": "x-kubernetes-list-map-keys",
    "xKubernetesListType": "x-kubernetes-list-type", "xKubernetesMapType": "x-kubernetes-map-type",
    "xKubernetesPreserveUnknownFields": "x-kubernetes-preserve-unknown-fields",
    "xKubernetesValidations": "x-kubernetes-validations",
}
OMITZERO = {"io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta.creationTimestamp"}
# What the codec takes the types of schema.txt for.
LEAVES = {
    "s": "string", "y": "bytes", "b": "bool", "i": "int32", "l": "int64", "f": "double",
    "q": "k8s.io.apimachinery.pkg.api.resource.Quantity", "n": "k8s.io.apimachinery.pkg.util.intstr.IntOrString",
    "t": "k8s.io.apimachinery.pkg.apis.meta.v1.Time", "T": "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime",
    "d": "k8s.io.apimachinery.pkg.apis.meta.v1.Duration", "F": "k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1",
}
RAW = {"k8s.io.apimachinery.pkg.runtime.RawExtension", "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON"}
# Objects whose JSON is one of several forms: their messages are known to the codec.
VARIANTS = re.compile(r"\.JSONSchemaPropsOr\w+$")


def schema():
    types, name = {}, None
    for line in (DATA / "schema.txt").read_text().splitlines():
        if line.startswith("@"):
            name = line[1:].split(" ")[0]
            types[name] = {}
        elif not line.startswith("#"):
            columns = line.split("\t")
            types[name][columns[0]] = columns[1]
    return types


def fits(kind, wire, package):
    """Does the codec read a field of this type?"""
    if kind.startswith("{}"):
        value = re.fullmatch(r"map<string,\.?(.*)>", wire)
        return value is not None and fits(kind[2:], value[1], package)
    names = {wire, package + "." + wire}
    if kind.startswith("#"):
        return message_of(kind[1:]) in names
    if kind.startswith("[]"):
        return wire.endswith((".ExtraValue", ".Verbs")) or wire == "ExtraValue"
    return bool(names & RAW) if kind == "*" else LEAVES[kind] in names


def message_of(definition):
    return "k8s.io." + definition.removeprefix("io.k8s.").removesuffix(".granular").replace("-", "_")


def main():
    source = json.loads(pathlib.Path(sys.argv[1]).read_text())
    lines = ["# Written by scripts/gen-protobuf.py; see there for the format."]
    for definition, fields in schema().items():
        message = message_of(definition)
        if message not in source:
            print(f"no message: {definition}", file=sys.stderr)
            continue
        if VARIANTS.search(definition):
            continue
        left = dict(fields)

        def walk(message):
            words = []
            for name, field in sorted(source[message].items(), key=lambda f: f[1]["n"]):
                names = {f.lower(): f for f in left}
                key = names.get(name.lower()) or names.get(RENAMED.get(name))
                if key:
                    kind = left.pop(key)
                    item = kind[2:] if kind.startswith("[]") and field.get("r") else kind
                    if not fits(item, field["t"], message.rpartition(".")[0]):
                        print(f"another type: {definition}.{key} {kind} {field}", file=sys.stderr)
                    alone = kind.startswith("[]") and not field.get("r")
                    mark = "!" if f"{definition}.{key}" in OMITZERO else ""
                    words.append(f"{field['n']}={key}" if alone else f"{field['n']}{mark} {key}")
                    continue
                target = field["t"] if field["t"] in source else message.rpartition(".")[0] + "." + field["t"]
                if target in source and any(f.lower() in {k.lower() for k in deep(source, target)} for f in left):
                    words.append(f"{field['n']}{{ {' '.join(walk(target))} }}")
                else:
                    print(f"left out: {definition} {field['n']} {name} {field['t']}", file=sys.stderr)
            return words

        words = walk(message)
        for name in left:
            if name not in ("apiVersion", "kind"):
                print(f"no number: {definition}.{name}", file=sys.stderr)
        lines.append(" ".join([definition, *words]))
    (DATA / "protobuf.txt").write_text("\n".join(lines) + "\n")
    for name, message in source.items():
        items = message.get("items", {})
        if name.endswith("List") and items.get("r") and "metadata" in message:
            if (message["metadata"]["n"], items["n"]) != (1, 2):
                print(f"another list: {name}", file=sys.stderr)


def deep(source, message):
    """The field names of a message and of the messages in it."""
    out = set()
    for name, field in source[message].items():
        out.add(name)
        target = field["t"] if field["t"] in source else message.rpartition(".")[0] + "." + field["t"]
        if target in source and target != message and len(source[target]) < 40 and not field.get("r"):
            out |= set(source[target])
    return out


main()
