#!/usr/bin/env python3
"""The calls that the `clients` suite compares, made with the Kubernetes client from PyPI.

In: the namespace, and in it a ConfigMap `seed` and a pod `target`. Out: for each call a line `=== NAME` and below it the
answer as JSON. Nothing about the server is configured here: `load_incluster_config` finds it, as an agent's program would.
"""

import json
import sys
import threading

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream


def show(name, answer):
    """Prints one answer."""
    if not isinstance(answer, (dict, list, str, int)):
        answer = client.ApiClient().sanitize_for_serialization(answer)
    print(f"=== {name}\n{json.dumps(answer, sort_keys=True)}", flush=True)


def watch_object(core, namespace, name, version, seen, failed):
    """Collects the events of one ConfigMap until it is deleted."""
    try:
        selector = f"metadata.name={name}"
        events = watch.Watch().stream(
            core.list_namespaced_config_map,
            namespace,
            field_selector=selector,
            resource_version=version,
            timeout_seconds=30,
        )
        for event in events:
            seen.append([event["type"], event["object"].data])
            if event["type"] == "DELETED":
                return
    except Exception as error:  # the thread's end must not hide why
        failed.append(repr(error))


def run_command(core, namespace, command):
    """Runs a command in the pod `target`; gives its output and its exit code."""
    session = stream(
        core.connect_get_namespaced_pod_exec,
        "target",
        namespace,
        command=command,
        stdin=False,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    session.run_forever(timeout=30)
    return {"stdout": session.read_stdout(), "stderr": session.read_stderr(), "code": session.returncode}


def main():
    """Makes the calls in order."""
    namespace, name = sys.argv[1], "made-by-python"
    config.load_incluster_config()
    core = client.CoreV1Api()

    listed = core.list_namespaced_config_map(namespace)
    show("list", {item.metadata.name: item.data for item in listed.items if item.metadata.name == "seed"})
    show("get", core.read_namespaced_config_map("seed", namespace))

    seen, failed = [], []
    watcher = threading.Thread(
        target=watch_object,
        args=(core, namespace, name, listed.metadata.resource_version, seen, failed),
        daemon=True,
    )
    watcher.start()
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data={"step": "created"})
    show("create", core.create_namespaced_config_map(namespace, body))
    show("patch", core.patch_namespaced_config_map(name, namespace, {"data": {"step": "patched"}}))
    show("exec", run_command(core, namespace, ["sh", "-c", "echo out; echo err >&2"]))
    show("exec-fails", run_command(core, namespace, ["sh", "-c", "exit 3"]))
    show("delete", core.delete_namespaced_config_map(name, namespace))
    watcher.join(30)
    show("watch", {"events": seen, "failed": failed})

    try:
        core.read_namespaced_config_map("missing", namespace)
        show("missing", "was found")
    except ApiException as error:
        show("missing", json.loads(error.body))


if __name__ == "__main__":
    main()
