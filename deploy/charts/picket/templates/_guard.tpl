{{/*
The guard of a boot: a systemd unit on the node that closes pods until the agent's pod serves. See bootGuard.enabled.
*/}}

{{/* The node's own paths, since the guard runs outside of any pod. */}}
{{- define "picket.guardPaths" -}}
- --if-possible
- --unit-directory=/host/systemd
- --program-directory=/host/guard
- --program-directory-on-node={{ .Values.bootGuard.programDirectory }}
- --cgroup-root={{ .Values.host.cgroup }}
- --bpffs={{ .Values.host.bpffs }}/picket
- --run-directory={{ .Values.host.run }}
- --state-directory={{ .Values.host.state }}
{{- end }}

{{/* Root without any capability: the folders are root's. */}}
{{- define "picket.guardSecurityContext" -}}
runAsUser: 0
runAsGroup: 0
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- with .Values.agent.seLinuxOptions }}
seLinuxOptions: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "picket.guardMounts" -}}
- {name: guard-unit, mountPath: /host/systemd}
- {name: guard-program, mountPath: /host/guard}
{{- end }}

{{- define "picket.guardVolumes" -}}
- {name: guard-unit, hostPath: {path: {{ .Values.bootGuard.unitDirectory }}, type: DirectoryOrCreate}}
- {name: guard-program, hostPath: {path: {{ .Values.bootGuard.programDirectory }}, type: DirectoryOrCreate}}
{{- end }}
