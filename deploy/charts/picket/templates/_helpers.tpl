{{/*
The names are fixed: a node has one agent, and the admission policies and roles are the cluster's. One release in a cluster.
*/}}

{{- define "picket.labels" -}}
app.kubernetes.io/name: picket
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "picket.selector" -}}
app.kubernetes.io/name: picket
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "picket.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What the schema cannot say of the release and of two values together. */}}
{{- define "picket.check" -}}
{{- if ne .Release.Namespace "picket-system" }}
{{- $why := "the built-in denies keep AI agents from the Secrets and pods of picket-system alone: give --namespace picket-system" }}
{{- fail (printf "the release's namespace is %s: %s" .Release.Namespace $why) }}
{{- end }}
{{- end }}

{{/* The folder of the service account's projected token: the kubelet renews the token, and the agent reads it anew. */}}
{{- define "picket.credential" -}}
/var/run/secrets/kubernetes.io/serviceaccount
{{- end }}

{{/*
The agent's configuration. nodeName is absent: it comes from the environment variable PICKET_NODE_NAME.
deploy/docs/reference/configuration.md has each key.
*/}}
{{- define "picket.config" -}}
{{- $credential := include "picket.credential" . -}}
{{- $log := dict "format" .Values.log.format -}}
{{- if .Values.log.filter }}{{- $_ := set $log "filter" .Values.log.filter }}{{- end -}}
cluster:
  kubeconfig: /etc/picket/kubeconfig
upstream:
  server: {{ include "picket.apiServer" . | quote }}
  caFile: {{ $credential }}/ca.crt
  tokenFile: {{ $credential }}/token
tls:
  nodeCA: cluster
  extraNames: {{ toJson .Values.tls.extraNames }}
enforce:
  enrolled: true
  unclassifiedPods: {{ .Values.enforce.unclassifiedPods }}
  staticPods: {{ .Values.enforce.staticPods }}
objects:
  cluster: true
protectedEndpoints: {{ toJson .Values.protectedEndpoints }}
kernel:
  cgroupRoot: /host/cgroup
  bpffs: /sys/fs/bpf/picket
audit: {{ toJson (merge (dict "directory" "/var/log/picket/audit") .Values.audit) }}
admin:
  socket: /run/picket/admin.sock
{{- with .Values.metrics }}
{{- if .enabled }}
metrics:
  listen: {{ printf (contains ":" .address | ternary "[%s]:%d" "%s:%d") .address (int .port) | quote }}
  names: [picket-metrics.picket-system.svc]
  {{- if .existingSecret }}
  tls: {certificateFile: /etc/picket/metrics.crt, keyFile: /etc/picket/metrics.key}
  {{- end }}
  {{- if .clientCA }}
  clientCAFile: /etc/picket/metrics-client-ca.crt
  {{- end }}
{{- end }}
{{- end }}
log: {{ toJson $log }}
shutdown:
  drainSeconds: {{ .Values.shutdown.drainSeconds }}
{{- end }}

{{/* For the agent's own watches: the same token as upstream. */}}
{{- define "picket.kubeconfig" -}}
{{- $credential := include "picket.credential" . -}}
apiVersion: v1
kind: Config
clusters:
  - name: cluster
    cluster:
      server: {{ include "picket.apiServer" . | quote }}
      certificate-authority: {{ $credential }}/ca.crt
users:
  - name: picket
    user:
      tokenFile: {{ $credential }}/token
contexts:
  - name: picket
    context: {cluster: cluster, user: picket}
current-context: picket
{{- end }}

{{/*
The rights of the container. It is not privileged; each capability has its reason. The agent runs as root, since the admin socket, the
pins and the records are root's alone.
*/}}
{{- define "picket.securityContext" -}}
runAsUser: 0
runAsGroup: 0
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add:
    # Destroy sockets that a pod opened before it was enforced (SOCK_DESTROY).
    - NET_ADMIN
    # Enter a pod's network namespace (setns), where the agent listens for that pod. Load the kernel programs, and make, read, pin and
    # attach their maps and links: the kernel lets who has SYS_ADMIN do what BPF and PERFMON are for, so that these give no more.
    - SYS_ADMIN
    # Look into /proc of the pods' processes: network namespace and executable.
    - SYS_PTRACE
# The container runtime's default profile. It lets bpf() through for CAP_BPF or CAP_SYS_ADMIN, and setns() for CAP_SYS_ADMIN, so that no
# profile of Picket's own is needed. In a container without these capabilities the same profile refuses both.
seccompProfile:
  type: RuntimeDefault
# The runtime's default AppArmor profile denies writes below /sys/fs/bpf and looks into processes of other profiles, whatever the
# capabilities. A node without AppArmor ignores the field.
appArmorProfile:
  type: Unconfined
{{- with .Values.agent.seLinuxOptions }}
seLinuxOptions: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "picket.volumeMounts" -}}
- {name: config, mountPath: /etc/picket, readOnly: true}
# Pins of links and maps, which outlive the agent.
- {name: bpffs, mountPath: /sys/fs/bpf}
# The node's cgroup v2 tree. To attach a program to a folder the agent opens the folder, and writes nothing there.
- {name: cgroup, mountPath: /host/cgroup, readOnly: true}
# The sockets by which a successor finds its predecessor, so of the node and not of the pod.
- {name: run, mountPath: /run/picket}
# The node CA, and what the next agent needs after a boot, before the API server answers.
- {name: state, mountPath: /var/lib/picket}
# Audit records.
- {name: log, mountPath: /var/log/picket}
{{- end }}

{{- define "picket.volumes" -}}
- name: config
  projected:
    defaultMode: 0400
    sources:
      - configMap: {name: picket}
      {{- if and .Values.metrics.enabled .Values.metrics.existingSecret }}
      - secret:
          name: {{ .Values.metrics.existingSecret | quote }}
          items: [{key: tls.crt, path: metrics.crt}, {key: tls.key, path: metrics.key}]
      {{- end }}
- {name: bpffs, hostPath: {path: {{ .Values.host.bpffs }}, type: Directory}}
- {name: cgroup, hostPath: {path: {{ .Values.host.cgroup }}, type: Directory}}
- {name: run, hostPath: {path: {{ .Values.host.run }}, type: DirectoryOrCreate}}
- {name: state, hostPath: {path: {{ .Values.host.state }}, type: DirectoryOrCreate}}
- {name: log, hostPath: {path: {{ .Values.host.log }}, type: DirectoryOrCreate}}
{{- end }}

{{/* Nodes with these labels, and of no other system: a pod on a node of Windows never starts, and Helm waits for it. */}}
{{- define "picket.nodeSelector" -}}
nodeSelector: {{ toJson (merge (dict "kubernetes.io/os" "linux") (default dict .)) }}
{{- end }}

{{/* What both DaemonSets have of a pod: the agent's, and the one that takes Picket out of the nodes (_uninstall.tpl). */}}
{{- define "picket.podSpec" -}}
serviceAccountName: picket
# The agent listens in the node's network for pods that share it, and must reach the API server before the pods' network works.
hostNetwork: true
# Which process of a pod opened a connection, and its executable.
hostPID: true
# The node's resolver: cluster DNS may wait for the agent.
dnsPolicy: Default
enableServiceLinks: false
{{- with .Values.agent.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{ include "picket.nodeSelector" .Values.agent.nodeSelector }}
{{- with .Values.agent.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with .Values.agent.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The controller's pods. */}}
{{- define "picket.controllerSelector" -}}
app.kubernetes.io/name: picket
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: controller
{{- end }}

{{/* What the schema cannot say of the values of `trust` together. */}}
{{- define "picket.checkTrust" -}}
{{- if and .Values.trust.existingSecret .Values.trust.volume }}
{{- fail "trust.existingSecret and trust.volume: give one of them, the root has one place" }}
{{- end }}
{{- if eq .Values.trust.existingSecret "picket-root-ca" }}
{{- fail "trust.existingSecret: picket-root-ca is the Secret that the controller keeps: leave the value empty, or give the root another name" }}
{{- end }}
{{- end }}

{{/* By which verbs the agents act as the users of grants. No list of an API server says whether it has the constrained ones. */}}
{{- define "picket.impersonation" -}}
{{- if ne .Values.impersonate.mode "auto" -}}
{{ .Values.impersonate.mode }}
{{- else if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
constrained
{{- else -}}
plain
{{- end }}
{{- end }}
