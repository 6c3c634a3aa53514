#!/usr/bin/env python3
"""Writes src/apimachinery/data/schema.txt: the built-in types as a compact table of facts.

    scripts/gen-schema.py ORACLE_DOCS_DIR

Reads openapi-v2.json.gz (types, required, merge rules), list-types.json (defaults) and protobuf-fields.json (order of
fields) of a real API server, and src/apimachinery/data/go-facts.txt (what OpenAPI does not tell). Format of the result:

    @<definition>  [a=map is atomic] [any=may be a non-object too] [g=group/version/Kind ...]
    <field> TAB <type> TAB <attributes>

in name order, one field a line. Types: s string, y bytes, b bool, i int32, l int64, f float, q quantity, n int-or-string,
t time, T micro time, d duration, F FieldsV1, * any, #<definition>, []<type>, {}<type>. Attributes, space-separated:
p pointer, ! written even when empty, o<N> order in the Go struct, l=set | l=map:key,key, m=atomic, s=merge |
s=retain | s=merge,retain, k=<patch merge key>, t=<Go type name>, r required, and last d=<default as JSON>.
"""
import gzip
import json
import os
import sys

PREFIX = "io.k8s."
LEAVES = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "q",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "n",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "t",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "T",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "F",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Duration": "d",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch": "*",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "*",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": "*",
}
CRD = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
SCHEMA_OR = [CRD + "JSONSchemaPropsOr" + x for x in ("Array", "Bool", "StringArray")]
SCALARS = {
    ("string", None): "s", ("string", "byte"): "y", ("boolean", None): "b", ("integer", "int32"): "i",
    ("integer", "int64"): "l", ("number", "double"): "f",
}


def read_facts(path):
    """{definition.field: set of flags}, {definition.field: Go type}"""
    flags, names = {}, {}
    for line in open(path):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        flag, words = words[0], words[1:]
        name = None
        if flag == "=":
            name, words = words[0], words[1:]
        for field in words[1:]:
            key = words[0] + "." + field
            if name:
                names[key] = name
            else:
                flags.setdefault(key, set()).add(flag)
    return flags, names


def short(definition):
    """The name go-facts.txt uses."""
    for long, brief in (("io.k8s.api.", ""), ("io.k8s.apimachinery.pkg.", ""), (CRD, "crd.v1."), (PREFIX, "")):
        if definition.startswith(long):
            return brief + definition[len(long):]
    return definition


def type_text(prop):
    if "$ref" in prop:
        target = prop["$ref"].split("/")[-1]
        return LEAVES.get(target) or "#" + target
    kind = prop.get("type")
    if kind == "array":
        return "[]" + type_text(prop["items"])
    if kind == "object":
        return "{}" + type_text(prop["additionalProperties"]) if "additionalProperties" in prop else "*"
    return SCALARS[kind, prop.get("format")]


CONTAINER = {
    "envFrom": "ports", "resizePolicy": "resources", "restartPolicy": "resizePolicy",
    "restartPolicyRules": "restartPolicy", "volumeDevices": "volumeMounts", "startupProbe": "readinessProbe",
    "terminationMessagePolicy": "terminationMessagePath",
}
# Fields that stand behind another one in the Go struct than their protobuf numbers say.
MOVED = {
    "core.v1.Container": CONTAINER,
    "core.v1.EphemeralContainer": CONTAINER,
    "crd.v1.CustomResourceDefinitionVersion": {"deprecated": "storage", "deprecationWarning": "deprecated"},
    "crd.v1.WebhookClientConfig": {"service": "url", "caBundle": "service"},
    "core.v1.PodSpec": {
        "initContainers": "volumes", "ephemeralContainers": "containers",
        "automountServiceAccountToken": "serviceAccount", "shareProcessNamespace": "hostIPC",
    },
}


def message_of(definition):
    """The protobuf message of a definition: its package has no dashes."""
    return "k8s.io." + definition[len(PREFIX):].replace("-", "_")


def plain(name):
    """A JSON name as the protobuf name has it: `$ref` is ref, `x-kubernetes-list-type` is xKubernetesListType."""
    return name.replace("$", "").replace("-", "").lower()


def order_of(definition, fields, protobuf):
    """Go's order of fields: TypeMeta, then protobuf numbers with embedded structs in place."""
    own = {name.lower() for name in protobuf.get(message_of(definition), {})}
    ranks = {"kind": (0, 0, 0), "apiVersion": (0, 0, 1)}
    if definition.endswith(".OwnerReference"):
        ranks = {"apiVersion": (0, 0, 0)}  # the one struct that is not in the order of its numbers
    elif own & {"kind", "apiversion"}:
        ranks = {}  # fields of its own, not those of TypeMeta

    def walk(message, at):
        for name, field in sorted(protobuf.get(message, {}).items(), key=lambda x: x[1]["n"]):
            json_name = next((f for f in fields if plain(f) == name.lower()), None)
            if json_name and json_name not in ranks:
                ranks[json_name] = at + (field["n"],)
            elif not json_name and field["t"].startswith("k8s.io"):
                walk(field["t"], at + (field["n"],))
            elif not json_name:
                package = message.rsplit(".", 1)[0]
                walk(package + "." + field["t"], at + (field["n"],))

    walk(message_of(definition), (1,))
    ordered = sorted(fields, key=lambda f: (f not in ranks, ranks.get(f, (2,)), f))
    for field, before in MOVED.get(short(definition), {}).items():
        ordered.remove(field)
        ordered.insert(ordered.index(before) + 1, field)
    return ordered


GRANULAR = ".granular"


def granular(defaults, definition, field, type_):
    """A reference that is granular although its type is atomic goes to a twin of the type."""
    is_granular = defaults.get(definition, {}).get(field, {}).get("mapType") == "granular"
    return type_ + GRANULAR if is_granular and type_.startswith("#") else type_


def attributes(definition, field, prop, required, default, facts, names):
    key = short(definition) + "." + field
    flags = facts.get(key, set())
    type_ = type_text(prop)
    pointer = always = False
    if type_.startswith("#"):
        pointer = default is None
        always = not pointer or required
    elif type_ in "tT":
        pointer = "*" in flags
        always = not pointer
    elif type_ == "*" and "$ref" in prop:
        pointer = "*" in flags or "JSONSchemaProps" in key
        always = not pointer
    elif type_ in "qnF":
        always = required or "!" in flags
        pointer = not always
    elif type_.startswith(("[]", "{}")) or type_ in "*y":
        always = required and type_ != "y"
    else:
        pointer = "*" in flags if type_ == "s" else "v" not in flags and not required and default is None
        if type_ != "s" and "*" in flags:
            pointer = True
        # a required field without a default is one of the newer ones that have omitempty all the same
        always = required and default is not None
        if default in (0, False) and not pointer and "v" not in flags:
            always = True
    if "!" in flags:
        always = True
    if "o" in flags:
        always = False
    out = (["p"] if pointer else []) + (["!"] if always else []) + (["r"] if required else [])
    list_type = prop.get("x-kubernetes-list-type")
    if list_type == "set":
        out.append("l=set")
    elif list_type == "map":
        out.append("l=map:" + ",".join(prop["x-kubernetes-list-map-keys"]))
    if prop.get("x-kubernetes-map-type") == "atomic":
        out.append("m=atomic")
    strategy = prop.get("x-kubernetes-patch-strategy")
    if strategy:
        out.append("s=" + strategy.replace("retainKeys", "retain"))
    if "x-kubernetes-patch-merge-key" in prop:
        out.append("k=" + prop["x-kubernetes-patch-merge-key"])
    if key in names:
        out.append("t=" + names[key])
    return type_, out, flags


def main():
    docs = sys.argv[1]
    data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../src/apimachinery/data")
    definitions = json.load(gzip.open(os.path.join(docs, "openapi-v2.json.gz")))["definitions"]
    defaults = json.load(open(os.path.join(docs, "list-types.json")))
    protobuf = json.load(open(os.path.join(docs, "protobuf-fields.json")))
    facts, names = read_facts(os.path.join(data, "go-facts.txt"))
    used = set()
    lines = ["# Written by scripts/gen-schema.py; see there for the format."]
    twins = {
        type_text(definitions[definition]["properties"][field])[1:]
        for definition, fields in defaults.items() for field, facts_of in fields.items()
        if facts_of.get("mapType") == "granular"
        and type_text(definitions[definition]["properties"][field]).startswith("#")
    }
    for name in sorted(list(definitions) + [twin + GRANULAR for twin in twins]):
        definition = name.removesuffix(GRANULAR)
        if definition in LEAVES:
            continue
        body = definitions[definition]
        head = ["@" + name]
        if body.get("x-kubernetes-map-type") == "atomic" and name == definition:
            head.append("a")
        source = definition
        if definition in SCHEMA_OR:
            source, head = CRD + "JSONSchemaProps", head + ["any"]
            body = definitions[source]
        kinds = body.get("x-kubernetes-group-version-kind", []) if source == name else []
        # kinds that every group has stand for all of them
        if len(kinds) > 8:
            head.append("g=*/*/" + kinds[0]["kind"])
        else:
            head += ["g=%s/%s/%s" % (k["group"], k["version"], k["kind"]) for k in kinds]
        lines.append(" ".join(head))
        properties = body.get("properties", {})
        rank = {f: i for i, f in enumerate(order_of(source, list(properties), protobuf))}
        for field in sorted(properties):
            prop = properties[field]
            default = defaults.get(source, {}).get(field, {}).get("default")
            type_, out, flags = attributes(
                source, field, prop, field in body.get("required", []), default, facts, names)
            if field in ("apiVersion", "kind") and "x-kubernetes-group-version-kind" in body:
                out = [a for a in out if a not in ("p", "!")]
            type_ = granular(defaults, source, field, type_)
            out.append("o%d" % rank[field])
            if default is not None:
                out.append("d=" + json.dumps(default, separators=(",", ":")))
            used.add(short(source) + "." + field)
            lines.append("%s\t%s\t%s" % (field, type_, " ".join(out)))
    unknown = (set(facts) | set(names)) - used
    if unknown:
        sys.exit("go-facts.txt names fields that do not exist: %s" % ", ".join(sorted(unknown)))
    with open(os.path.join(data, "schema.txt"), "w") as out:
        out.write("\n".join(lines) + "\n")


main()
