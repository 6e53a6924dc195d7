{{/*
What takes Picket out of the cluster, before Helm deletes the release: see uninstall.yaml.
*/}}

{{- define "picket.uninstallLabels" -}}
app.kubernetes.io/name: picket
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: uninstall
{{- end }}

{{/* What Helm makes before it deletes the release, and deletes where that went well. A Job that failed stays, for its log. */}}
{{- define "picket.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/*
Removes Picket's programs, links and maps from each node's kernel, and the folders of the agent on the node. A pod is Ready once its
node is clean.
*/}}
{{- define "picket.uninstallDaemonSet" -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: picket-uninstall
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "picket.labels" . | nindent 4 }}
    app.kubernetes.io/component: uninstall
spec:
  selector:
    matchLabels:
      {{- include "picket.uninstallLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "picket.uninstallLabels" . | nindent 8 }}
    spec:
      {{- include "picket.podSpec" . | nindent 6 }}
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 5
      initContainers:
        {{- if .Values.bootGuard.enabled }}
        # After it no boot closes the node's pods.
        - name: remove-guard
          image: {{ include "picket.image" . | quote }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args: [guard, remove, --unit-directory, /host/systemd, --program-directory, /host/guard]
          securityContext:
            {{- include "picket.guardSecurityContext" . | nindent 12 }}
          volumeMounts:
            {{- include "picket.guardMounts" . | nindent 12 }}
        {{- end }}
        # Fails while the node's agent runs, and is started again.
        - name: uninstall
          image: {{ include "picket.image" . | quote }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args:
            - uninstall
            - --config=/etc/picket/agent.yaml
            # The Job tells it. The kubelet may read a log's last lines too early.
            - --error-file=/dev/termination-log
            - --remove-folder=/host/run/{{ base .Values.host.run }}
            - --remove-folder=/host/state/{{ base .Values.host.state }}
            {{- if .Values.uninstall.deleteRecords }}
            - --remove-folder=/host/log/{{ base .Values.host.log }}
            {{- end }}
          env:
            - name: PICKET_NODE_NAME
              valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext:
            {{- include "picket.securityContext" . | nindent 12 }}
          volumeMounts:
            - {name: config, mountPath: /etc/picket, readOnly: true}
            - {name: bpffs, mountPath: /sys/fs/bpf}
            - {name: run, mountPath: /run/picket}
            - {name: state, mountPath: /var/lib/picket}
            # A folder is removed from the folder that it is in.
            - {name: above-run, mountPath: /host/run}
            - {name: above-state, mountPath: /host/state}
            {{- if .Values.uninstall.deleteRecords }}
            - {name: above-log, mountPath: /host/log}
            {{- end }}
      containers:
        # Removes nothing, sees nothing of the node, and stays, so that the pod is Ready.
        - name: clean
          image: {{ include "picket.image" . | quote }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args: [uninstall, --stay]
          securityContext:
            runAsUser: 65534
            runAsGroup: 65534
            runAsNonRoot: true
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
      volumes:
        - {name: config, configMap: {name: picket}}
        - {name: bpffs, hostPath: {path: {{ .Values.host.bpffs }}, type: Directory}}
        - {name: run, hostPath: {path: {{ .Values.host.run }}, type: DirectoryOrCreate}}
        - {name: state, hostPath: {path: {{ .Values.host.state }}, type: DirectoryOrCreate}}
        - {name: above-run, hostPath: {path: {{ dir .Values.host.run }}, type: Directory}}
        - {name: above-state, hostPath: {path: {{ dir .Values.host.state }}, type: Directory}}
        {{- if .Values.uninstall.deleteRecords }}
        - {name: above-log, hostPath: {path: {{ dir .Values.host.log }}, type: Directory}}
        {{- end }}
        {{- if .Values.bootGuard.enabled }}
        {{- include "picket.guardVolumes" . | nindent 8 }}
        {{- end }}
{{- end }}
