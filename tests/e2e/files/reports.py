"""What public bug reports about other proxies describe: one function a report, which prints what its client sees.

In: the function's name. Out: a line of JSON, the same in a pod that goes through Picket and in one that does not.
"""

import http.client
import json
import os
import socket
import ssl
import struct
import sys
import time
import urllib.parse

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
HOST, PORT = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
TOKEN = open(ACCOUNT + "/token").read().strip()
MAPS = "/api/v1/namespaces/lab/configmaps"
SEED = MAPS + "/seed"
TARGET = "/api/v1/namespaces/lab/pods/target"


class Connection:
    """TLS to the API server, with bytes as they are."""

    def __init__(self, name=HOST, check=True):
        context = ssl.create_default_context(cafile=ACCOUNT + "/ca.crt")
        context.check_hostname = check
        self.stream = context.wrap_socket(socket.create_connection((HOST, PORT), 10), server_hostname=name)
        self.read = b""

    def send(self, data):
        self.stream.sendall(data if isinstance(data, bytes) else data.encode())

    def more(self):
        try:
            some = self.stream.recv(65536)
        except (ssl.SSLEOFError, ConnectionResetError):
            some = b""
        self.read += some
        return bool(some)

    def exact(self, count):
        while len(self.read) < count and self.more():
            pass
        part, self.read = self.read[:count], self.read[count:]
        return part

    def line(self):
        while b"\r\n" not in self.read:
            if not self.more():
                return None
        line, self.read = self.read.split(b"\r\n", 1)
        return line.decode()

    def head(self):
        """Status and fields; a field that is repeated has its values in a list."""
        status, fields = self.line(), {}
        while line := self.line():
            name, value = line.split(":", 1)
            fields.setdefault(name.lower(), []).append(value.strip())
        return int(status.split()[1]) if status else None, fields

    def body(self, status, fields):
        """The body, and whether it is whole."""
        if status in (101, 204, 304):
            return b"", True
        if "transfer-encoding" in fields:
            body = b""
            while (size := self.line()) is not None:
                if int(size, 16) == 0:
                    return body, self.line() == ""
                body += self.exact(int(size, 16))
                self.exact(2)
            return body, False
        if "content-length" in fields:
            size = int(fields["content-length"][0])
            body = self.exact(size)
            return body, len(body) == size
        while self.more():
            pass
        body, self.read = self.read, b""
        return body, True

    def answer(self):
        """Status, reason or name of the object, and whether the body is whole; 100 is skipped and counted."""
        status, fields = self.head()
        continues = 0
        while status == 100:
            continues += 1
            status, fields = self.head()
        self.ended = "close" in fields.get("connection", [])
        body, whole = self.body(status, fields)
        try:
            read = json.loads(body)
        except ValueError:
            read = {}
        what = read.get("reason") or read.get("metadata", {}).get("name")
        return {"status": status, "what": what, "whole": whole, "continues": continues}

    def closes(self):
        """Whether the other end closes the connection now."""
        self.stream.settimeout(1)
        try:
            return not self.more()
        except TimeoutError:
            return False


def request(method, path, *fields, version="1.1", host=HOST, body=""):
    lines = ["%s %s HTTP/%s" % (method, path, version), "Authorization: Bearer " + TOKEN, *fields]
    if host:
        lines.append("Host: " + host)
    if body:
        lines += ["Content-Type: application/json", "Content-Length: %d" % len(body)]
    return "\r\n".join(lines) + "\r\n\r\n" + body


def ask(*arguments, **options):
    connection = Connection()
    connection.send(request(*arguments, **options))
    return connection.answer()


def config_map(name, text="1"):
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": text}})


def own(name):
    """A name that no other pod uses."""
    return "%s-%s" % (name, socket.gethostbyname(socket.gethostname()).replace(".", "-"))


def chunked(body, extension=""):
    parts = [body[at : at + 16] for at in range(0, len(body), 16)]
    return "".join("%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)


def watch(query, accept="application/json", version="1.1"):
    """A watch to its end: how soon its head comes, its events, and whether it ends in order."""
    connection, began = Connection(), time.time()
    connection.send(request("GET", MAPS + "?watch=true&" + query, "Accept: " + accept, version=version))
    status, fields = connection.head()
    soon = time.time() - began < 1
    body, whole = connection.body(status, fields)
    events = []
    for line in body.split(b"\n") if accept == "application/json" else []:
        if line:
            event = json.loads(line)
            notes = event["object"]["metadata"].get("annotations", {})
            events.append([event["type"], event["object"]["metadata"].get("name"), notes.get("k8s.io/initial-events-end")])
    return {"status": status, "soon": soon, "whole": whole, "events": events, "bytes": bool(body)}


def frame(channel, data):
    """A frame of a WebSocket client, masked by nothing."""
    data = bytes([channel]) + data
    assert len(data) < 126
    return bytes([0x82, 0x80 | len(data)]) + b"\0\0\0\0" + data


def upgrade(path, *fields, protocol="v5.channel.k8s.io", name=HOST, **options):
    connection = Connection(name, check=bool(name))
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    more = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key]
    if protocol:
        more.append("Sec-WebSocket-Protocol: " + protocol)
    connection.send(request("GET", path, *more, *fields, **options))
    return connection


def frames(connection, *typed):
    """Status, what each channel of the WebSocket said, and whether it was closed in order; `typed` is sent once it is open."""
    status, fields = connection.head()
    if status != 101:
        return {"status": status}
    for sent in typed:
        connection.send(sent)
    said, closed = {}, False
    while len(head := connection.exact(2)) == 2:
        size = head[1] & 127
        if size == 126:
            size = struct.unpack(">H", connection.exact(2))[0]
        data = connection.exact(size)
        if head[0] & 15 == 8:
            closed = True
            break
        if data:
            said.setdefault(str(data[0]), []).append(data[1:].decode())
    said = {channel: "".join(parts) for channel, parts in said.items()}
    if "3" in said:
        end = json.loads(said["3"])
        causes = end.get("details", {}).get("causes", [])
        said["3"] = [end["status"], end.get("reason"), [cause["message"] for cause in causes]]
    return {"status": status, "said": said, "closed": closed}


def watch_list():
    query = "timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    return [
        watch(query + "&fieldSelector=metadata.name%3Dseed"),
        watch(query, accept="application/vnd.kubernetes.protobuf;stream=watch"),
    ]


def quiet_watch():
    asked = Connection()
    asked.send(request("GET", MAPS + "?limit=1"))
    version = json.loads(asked.body(*asked.head())[0])["metadata"]["resourceVersion"]
    query = "timeoutSeconds=1&fieldSelector=metadata.name%3Dnobody&resourceVersion=" + version
    return [watch(query), watch(query, version="1.0")]


def watch_by_websocket():
    connection = upgrade(SEED.replace("/seed", "?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dseed"),
                         "Origin: http://" + HOST, protocol=None)
    status, _ = connection.head()
    while b'"resourceVersion"' not in connection.read and connection.more():
        pass
    return [status, b'"type":"ADDED"' in connection.read]


def followed_log():
    connection = http.client.HTTPSConnection(HOST, PORT, context=ssl.create_default_context(cafile=ACCOUNT + "/ca.crt"))
    connection.request("GET", TARGET + "/log?follow=true&limitBytes=4", headers={"Authorization": "Bearer " + TOKEN})
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.request("GET", SEED, headers={"Authorization": "Bearer " + TOKEN})
    return [answer.status, said, connection.getresponse().status]


def exec_status():
    line = "command=sh&command=-c&command=echo+out%3Becho+err+1%3E%262%3Bexit+7"
    return frames(upgrade(TARGET + "/exec?" + line + "&stdout=true&stderr=true"))


def exec_without_name():
    return frames(upgrade(TARGET + "/exec?command=echo&command=nameless&stdout=true", name=None))


def exec_resized():
    # The kubelet takes the channels apart, so the size may come after the line that is typed.
    waits = 'read x; i=0; while [ "$(stty size 2>/dev/null)" != "41 133" ] && [ $i -lt 200 ]; do i=$((i+1)); sleep 0.05; done; stty size'
    line = "command=sh&command=-c&command=" + urllib.parse.quote_plus(waits)
    connection = upgrade(TARGET + "/exec?" + line + "&stdout=true&stdin=true&tty=true")
    return frames(connection, frame(4, b'{"Width":133,"Height":41}'), frame(0, b"go\n"))


def container_twice():
    twice = "&container=main&container=main"
    command = "/exec?command=echo&command=twice&stdout=true"
    other = upgrade(TARGET + command + "&container=main&container=other")
    return [
        frames(upgrade(TARGET + command + twice)),
        ask("GET", TARGET + "/log?limitBytes=4" + twice)["status"],
        other.head()[0],
    ]


def offered_upgrades():
    offers = ["h2c", "TLS/1.2", "TLS/1.2, TLS/1.3"]
    settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    return [ask("GET", SEED, "Connection: Upgrade, HTTP2-Settings", "Upgrade: " + offer, settings) for offer in offers]


def http_1_0():
    connection = Connection()
    seen = []
    for last in (False, True):
        keep = [] if last else ["Connection: Keep-Alive"]
        connection.send(request("GET", SEED, *keep, version="1.0", host=None))
        status, fields = connection.head()
        _, whole = connection.body(status, fields)
        seen.append([status, whole, fields.get("connection"), fields.get("transfer-encoding")])
    seen.append(connection.closes())
    connection = Connection()
    connection.send(request("GET", TARGET + "/log?limitBytes=4", version="1.0"))
    status, fields = connection.head()
    return seen + [status, fields.get("transfer-encoding"), connection.body(status, fields)[0].decode()]


def expect_continue():
    body = config_map("expected")
    whole = request("POST", MAPS + "?dryRun=All", "Expect: 100-continue", body=body)
    connection, seen = Connection(), []
    connection.send(whole[: -len(body)])
    seen.append(connection.head()[0])
    connection.send(body)
    seen.append(connection.answer())
    connection.send(request("GET", SEED))
    seen.append(connection.answer())
    # Nothing is asked for that is refused anyway.
    connection = Connection()
    refused = request("POST", "/api/v1/namespaces/vault/secrets", "Expect: 100-continue", body=body)
    connection.send(refused[: -len(body)])
    refusal = connection.answer()
    return seen + [[refusal["status"], refusal["continues"]]]


def chunked_bodies():
    body = config_map("chunked")
    head = ["Content-Type: application/json", "Transfer-Encoding: chunked"]
    post = request("POST", MAPS + "?dryRun=All", *head)
    seen = []
    for text in (
        post + chunked(body) + "0\r\n\r\n",
        post + chunked(body, ";part=1") + "0\r\n\r\n",
        post + chunked(body) + "0\r\nX-Sum: 1\r\n\r\n",
        request("GET", SEED, "Transfer-Encoding: gzip, chunked") + "0\r\n\r\n",
    ):
        connection = Connection()
        connection.send(text)
        seen.append(connection.answer())
    # Of the last: no answer but a refusal. Which one is as the server likes.
    return seen[:-1] + [seen[-1]["status"] >= 400]


def delete_options():
    name = own("kept")
    wrong = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    head = ["Content-Type: application/json", "Transfer-Encoding: chunked"]
    connection = Connection()
    seen = []
    for text in (
        request("POST", MAPS, body=config_map(name)),
        request("DELETE", MAPS + "/" + name, body=json.dumps(wrong)),
        request("DELETE", MAPS + "/" + name, *head) + chunked(json.dumps(wrong)) + "0\r\n\r\n",
        request("DELETE", MAPS + "/" + name),
    ):
        connection.send(text)
        seen.append(connection.answer()["status"])
        # Picket ends the connection after a chunked body, as it says in the answer (RFC 9112 section 9.6).
        if connection.ended:
            connection = Connection()
    return seen


def pipelined():
    name = own("pipelined")
    connection = Connection()
    connection.send(
        request("POST", MAPS, body=config_map(name))
        + request("GET", MAPS + "/" + name)
        + request("DELETE", MAPS + "/" + name)
        + request("GET", MAPS + "/" + name)
        + request("GET", SEED, "Connection: close")
    )
    return [connection.answer()["status"] for _ in range(5)] + [connection.closes()]


def large_writes():
    name = own("large")
    seen = [ask("POST", MAPS, body=config_map(name, "x" * 1_000_000))["status"]]
    patch = json.dumps({"data": {"text": "y" * 1_000_000}})
    connection = Connection()
    head = ["Content-Type: application/merge-patch+json", "Content-Length: %d" % len(patch)]
    connection.send(request("PATCH", MAPS + "/" + name, *head) + patch)
    status, fields = connection.head()
    body, whole = connection.body(status, fields)
    seen += [status, whole, json.loads(body)["data"]["text"] == "y" * 1_000_000]
    seen.append(ask("DELETE", MAPS + "/" + name)["status"])
    seen.append(ask("POST", MAPS, body=config_map(name, "x" * 1_100_000))["status"])
    return seen + [ask("POST", MAPS, body=config_map(name, "x" * 3_200_000))]


def early_answers():
    seen = []
    for path, size in ((MAPS, 8_000_000), (MAPS, 20_000_000), ("/api/v1/namespaces/vault/secrets", 8_000_000)):
        connection = Connection()
        connection.send(request("POST", path, body=config_map("early", "x" * size)))
        seen.append(connection.answer()["status"])
    return seen


def without_tls():
    connection = socket.create_connection((HOST, PORT), 10)
    connection.sendall(b"GET /version HTTP/1.1\r\nHost: kubernetes\r\n\r\n")
    said = b""
    while some := connection.recv(4096):
        said += some
    return said.decode(errors="replace")


def named_with_a_dot():
    # Python checks no name with a dot at its end; the connection is what matters here.
    try:
        connection = Connection("kubernetes.default.svc.", check=False)
    except ssl.SSLError:
        return None
    connection.send(request("GET", SEED, host="kubernetes.default.svc."))
    return connection.answer()["status"]


def absolute_targets():
    seen = []
    for target, host in ((HOST + ":443", HOST), (HOST, HOST + ":443"), ("kubernetes", "KUBERNETES")):
        seen.append(ask("GET", "https://" + target + SEED, host=host))
    return seen


def options():
    return ask("OPTIONS", SEED, "Origin: https://console.example", "Access-Control-Request-Method: GET")


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](), sort_keys=True))
