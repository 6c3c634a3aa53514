#!/usr/bin/env python3
"""Packs Kubernetes' published OpenAPI documents into src/apiserver/data/openapi.

Usage: scripts/gen-openapi.py <oracle>/docs

Writes v2.json.gz, v2.pb.gz (the gnostic openapi_v2.Document form that kubectl up to 1.27 asks for), v3/<path>.json.gz,
and documents.rs, the list of the v3 documents.
"""
import gzip
import json
import pathlib
import struct
import sys

OUT = pathlib.Path(__file__).parent.parent / "src/apiserver/data/openapi"


def pack(data):
    return gzip.compress(data, 9, mtime=0)


# --- protobuf: a message is built from (field number, encoded value) calls ---

def varint(n):
    out = bytearray()
    n &= (1 << 64) - 1
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


class Message:
    def __init__(self):
        self.out = bytearray()

    def bytes(self, number, value):
        self.out += varint(number << 3 | 2) + varint(len(value)) + value
        return self

    def text(self, number, value):
        return self.bytes(number, value.encode()) if value else self

    def texts(self, number, values):
        for value in values or []:
            self.bytes(number, value.encode())
        return self

    def message(self, number, message):
        return self.bytes(number, bytes(message.out)) if message is not None else self

    def flag(self, number, value):
        if value:
            self.out += varint(number << 3) + b"\x01"
        return self

    def integer(self, number, value):
        if value:
            self.out += varint(number << 3) + varint(value)
        return self

    def double(self, number, value):
        if value:
            self.out += varint(number << 3 | 1) + struct.pack("<d", value)
        return self


def any_of(value):
    return Message().text(2, json.dumps(value, separators=(",", ":")) + "\n")


def named(name, message):
    return Message().text(1, name).message(2, message)


def extensions(message, number, source):
    for key in sorted(k for k in source if k.startswith("x-")):
        message.message(number, named(key, any_of(source[key])))
    return message


def schema(s):
    m = Message()
    m.text(1, s.get("$ref")).text(2, s.get("format")).text(3, s.get("title")).text(4, s.get("description"))
    if "default" in s:
        m.message(5, any_of(s["default"]))
    m.double(7, s.get("maximum")).flag(8, s.get("exclusiveMaximum"))
    m.double(9, s.get("minimum")).flag(10, s.get("exclusiveMinimum"))
    m.integer(11, s.get("maxLength")).integer(12, s.get("minLength")).text(13, s.get("pattern"))
    m.integer(14, s.get("maxItems")).integer(15, s.get("minItems")).flag(16, s.get("uniqueItems"))
    m.integer(17, s.get("maxProperties")).integer(18, s.get("minProperties")).texts(19, s.get("required"))
    for value in s.get("enum") or []:
        m.message(20, any_of(value))
    extra = s.get("additionalProperties")
    if isinstance(extra, bool):
        m.message(21, Message().flag(2, extra))
    elif extra is not None:
        m.message(21, Message().message(1, schema(extra)))
    kind = s.get("type")
    if kind:
        m.message(22, Message().texts(1, [kind] if isinstance(kind, str) else kind))
    if "items" in s:
        m.message(23, Message().message(1, schema(s["items"])))
    for one in s.get("allOf") or []:
        m.message(24, schema(one))
    if "properties" in s:
        m.message(25, properties(s["properties"]))
    return extensions(m, 31, s)


def properties(table):
    m = Message()
    for name in sorted(table):
        m.message(1, named(name, schema(table[name])))
    return m


def parameter(p):
    """A Parameter."""
    if p["in"] == "body":
        body = Message().text(1, p.get("description")).text(2, p["name"]).text(3, "body").flag(4, p.get("required"))
        body.message(5, schema(p["schema"]))
        return Message().message(1, extensions(body, 6, p))
    number, skip = {"query": (3, 1), "path": (4, 0)}[p["in"]]
    m = Message().flag(1, p.get("required")).text(2, p["in"]).text(3, p.get("description")).text(4, p["name"])
    m.text(5 + skip, p.get("type")).text(6 + skip, p.get("format")).flag(19 + skip, p.get("uniqueItems"))
    extensions(m, 22 + skip, p)
    return Message().message(2, Message().message(number, m))


def parameters_item(p):
    if "$ref" in p:
        return Message().message(2, Message().text(1, p["$ref"]))
    return Message().message(1, parameter(p))


def response(r):
    m = Message().text(1, r.get("description"))
    if "schema" in r:
        m.message(2, Message().message(1, schema(r["schema"])))
    return Message().message(1, m)


def operation(o):
    m = Message().texts(1, o.get("tags")).text(3, o.get("description")).text(5, o.get("operationId"))
    m.texts(6, o.get("produces")).texts(7, o.get("consumes"))
    for p in o.get("parameters") or []:
        m.message(8, parameters_item(p))
    responses = Message()
    for code in sorted(o["responses"]):
        responses.message(1, named(code, response(o["responses"][code])))
    m.message(9, responses).texts(10, o.get("schemes")).flag(11, o.get("deprecated"))
    return extensions(m, 13, o)


def path_item(item):
    m = Message()
    for number, method in enumerate(["get", "put", "post", "delete", "options", "head", "patch"], 2):
        if method in item:
            m.message(number, operation(item[method]))
    for p in item.get("parameters") or []:
        m.message(9, parameters_item(p))
    return extensions(m, 10, item)


def document(d):
    m = Message().text(1, d["swagger"])
    m.message(2, Message().text(1, d["info"]["title"]).text(2, d["info"]["version"]))
    paths = Message()
    for path in sorted(d["paths"]):
        paths.message(2, named(path, path_item(d["paths"][path])))
    m.message(8, paths).message(9, properties(d["definitions"]))
    if d.get("parameters"):
        table = Message()
        for name in sorted(d["parameters"]):
            table.message(1, named(name, parameter(d["parameters"][name])))
        m.message(10, table)
    return bytes(m.out)


def main():
    docs = pathlib.Path(sys.argv[1])
    (OUT / "v3").mkdir(parents=True, exist_ok=True)
    v2 = gzip.decompress((docs / "openapi-v2.json.gz").read_bytes())
    (OUT / "v2.json.gz").write_bytes(pack(v2))
    (OUT / "v2.pb.gz").write_bytes(pack(document(json.loads(v2))))
    rows = []
    for file in sorted((docs / "openapi-v3").glob("*.json.gz")):
        path = file.name.removesuffix(".json.gz").replace("__", "/")
        target = file.name.lstrip(".")
        (OUT / "v3" / target).write_bytes(pack(gzip.decompress(file.read_bytes())))
        rows.append(f'    ("{path}", include_bytes!("v3/{target}")),\n')
    (OUT / "documents.rs").write_text(
        "// Made by scripts/gen-openapi.py.\n&[\n" + "".join(sorted(rows)) + "]\n"
    )
    total = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"{OUT}: {len(rows)} documents, {total} bytes")


main()
