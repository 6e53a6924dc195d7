{{/*
Constrained impersonation never reaches system:masters, a node or a service account. The plain verb reaches whom it names, so the chart
gives it for no name of Kubernetes' own.
*/}}
{{- define "picket.impersonate.check" -}}
{{- range concat (default list .Values.impersonate.users) (default list .Values.impersonate.groups) }}
{{- if hasPrefix "system:" . }}
{{- $why := "no release before 1.36 limits the right to act as it; `picket grant rbac --plain` prints a right that you give yourself" }}
{{- fail (printf "impersonate: %s is a name of Kubernetes' own: %s" . $why) }}
{{- end }}
{{- end }}
{{- end }}
