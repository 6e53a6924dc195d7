# The calls that the `clients` suite compares, made with kubectl. Arguments: the program, and a name for what it makes.
# Nothing about the server is configured: kubectl finds it as every program in a pod does.
k=$1 name=$2 ns=lab
work=$(mktemp -d)
say() { echo "=== $1"; }

say list; $k get configmaps -n $ns -l watched=yes -o json
say get; $k get configmap seed -n $ns -o json
say table; $k get configmaps -n $ns -l watched=yes --no-headers | awk '{print $1, $2}'
say logs; $k logs target -n $ns

# The watch is open once it has shown what was there before.
$k get configmaps -n $ns -l watched=yes --watch --output-watch-events \
  -o jsonpath='{.type} {.object.metadata.name} {.object.data.step}{"\n"}' > "$work/watch" 2> "$work/watch.err" &
watcher=$!
tries=0
until grep -q seed "$work/watch" || [ $tries -ge 150 ]; do sleep 0.2; tries=$((tries + 1)); done

printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s, labels: {watched: "yes"}}\ndata: {step: created}\n' \
  "$name" $ns > "$work/object.yaml"
say create; $k create -f "$work/object.yaml" -o json
say patch; $k patch configmap "$name" -n $ns --type merge -p '{"data":{"step":"patched"}}' -o json
say exec; $k exec target -n $ns -- sh -c 'echo out; echo err >&2; exit 3' 2> "$work/err"; echo "code $?"
sort "$work/err"
say exec-by-spdy; KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false $k exec target -n $ns -- sh -c 'echo out; exit 4' 2>&1; echo "code $?"
say delete; $k delete configmap "$name" -n $ns; echo "code $?"
say missing; $k get configmap missing -n $ns 2>&1; echo "code $?"

tries=0
until grep -q DELETED "$work/watch" || [ $tries -ge 150 ]; do sleep 0.2; tries=$((tries + 1)); done
kill $watcher
say watch; cat "$work/watch" "$work/watch.err"
rm -r "$work"
