# Asks for a path without end, each time by a connection of its own that trusts `ca.crt` as it is then. Four times a second it prints how
# many requests were answered, by the name of who signed the server's certificate, and what went wrong with others.
import collections, http.client, json, os, ssl, sys, threading, time

account = "/var/run/secrets/kubernetes.io/serviceaccount"
host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
path, clients = sys.argv[1], int(sys.argv[2])
lock, answered, failed = threading.Lock(), collections.Counter(), collections.Counter()


def ask():
    while True:
        try:
            context = ssl.create_default_context(cafile=account + "/ca.crt")
            connection = http.client.HTTPSConnection(host, port, context=context, timeout=20)
            try:
                token = open(account + "/token").read()
                connection.request("GET", path, headers={"Authorization": "Bearer " + token})
                names = dict(part[0] for part in connection.sock.getpeercert()["issuer"])
                answer = connection.getresponse()
                answer.read()
            finally:
                connection.close()
            with lock:
                if answer.status == 200:
                    answered[names["commonName"]] += 1
                else:
                    failed["status %d" % answer.status] += 1
        except Exception as error:
            with lock:
                failed[repr(error)] += 1
        time.sleep(0.02)


for _ in range(clients):
    threading.Thread(target=ask, daemon=True).start()
start = time.time()
while True:
    time.sleep(0.25)
    with lock:
        line = {"from": start, "answered": dict(answered), "failed": dict(failed)}
        answered.clear()
        failed.clear()
    start = time.time()
    print(json.dumps(line), flush=True)
