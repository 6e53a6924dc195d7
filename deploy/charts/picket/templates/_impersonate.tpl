{{/*
The two forms of the right to impersonate. The API server has constrained impersonation on by default from Kubernetes 1.36; earlier it takes
the verb impersonate alone.
*/}}

{{/* Whether the agents get the verb impersonate: a text, or nothing. */}}
{{- define "picket.impersonate.plain" -}}
{{- $mode := .Values.impersonate.mode -}}
{{- if or (eq $mode "plain") (and (eq $mode "auto") (semverCompare "<1.36.0-0" .Capabilities.KubeVersion.Version)) -}}
plain
{{- end }}
{{- end }}

{{/*
The rules of the verb impersonate. Constrained impersonation never reaches system:masters, a node or a service account; this verb reaches
whom it names. So no name of Kubernetes' own is taken.
*/}}
{{- define "picket.impersonate.rules" -}}
{{- range concat .Values.impersonate.users .Values.impersonate.groups }}
{{- if hasPrefix "system:" . }}
{{- $why := "below Kubernetes 1.36 nothing limits such a right; `picket grant rbac --plain` prints one that you give yourself" }}
{{- fail (printf "impersonate: %s is a name of Kubernetes' own: %s" . $why) }}
{{- end }}
{{- end }}
{{- with .Values.impersonate.users }}
- apiGroups: [""]
  resources: ["users"]
  resourceNames: {{ toJson . }}
  verbs: ["impersonate"]
{{- end }}
{{- with .Values.impersonate.groups }}
- apiGroups: [""]
  resources: ["groups"]
  resourceNames: {{ toJson . }}
  verbs: ["impersonate"]
{{- end }}
# Extra facts about the impersonated user, for the API server's own audit log.
- apiGroups: ["authentication.k8s.io"]
  resources: ["userextras/picket.dev/identity", "userextras/picket.dev/pod", "userextras/picket.dev/session"]
  verbs: ["impersonate"]
{{- end }}
