"""A conversion webhook: v1 has spec.size, v2 has spec.dimensions.size. Arguments: port, certificate, key, log."""
import http.server
import json
import ssl
import sys

PORT, CERTIFICATE, KEY, LOG = sys.argv[1:]


def convert(thing, desired):
    if thing["metadata"]["name"] == "stubborn":
        raise ValueError("stubborn does not convert")
    spec = thing.get("spec", {})
    if desired.endswith("/v2") and "size" in spec:
        spec["dimensions"] = {"size": spec.pop("size")}
    elif desired.endswith("/v1") and "dimensions" in spec:
        spec["size"] = spec.pop("dimensions")["size"]
    thing["apiVersion"] = desired
    return thing


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["content-length"])))
        request = review.pop("request")
        response = {"uid": request["uid"], "result": {"status": "Success"}}
        try:
            response["convertedObjects"] = [convert(o, request["desiredAPIVersion"]) for o in request["objects"]]
        except ValueError as error:
            response["result"] = {"status": "Failed", "message": str(error)}
        review["response"] = response
        with open(LOG, "a") as log:
            log.write(f"{self.path} {request['desiredAPIVersion']} {len(request['objects'])}\n")
        body = json.dumps(review).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(PORT)), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
