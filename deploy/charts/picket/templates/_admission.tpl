{{/*
How admission changes what is created: by policies where the API server has them, else by webhooks of the controller. Helm that does not
ask a cluster (helm template) knows its version alone.
*/}}
{{- define "picket.mutation" -}}
{{- $asked := .Values.enrol.admission }}
{{- $api := .Capabilities.APIVersions }}
{{- $isNew := semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version }}
{{- /* Each API server has this group, and Helm's own list does not. */}}
{{- $isKnown := $api.Has "apiregistration.k8s.io/v1" }}
{{- $isServed := $api.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" }}
{{- if has $asked (list "policies" "webhook") -}}
{{ $asked }}
{{- else if and $isNew (or $isServed (not $isKnown)) -}}
policies
{{- else -}}
webhook
{{- end }}
{{- end }}

{{/* Whether the controller answers webhooks: not empty where it does. */}}
{{- define "picket.hasWebhook" -}}
{{- $isNeeded := or (ne .Values.enrol.admission "none") .Values.enrol.guards }}
{{- if and $isNeeded (eq (include "picket.mutation" .) "webhook") -}}
yes
{{- end }}
{{- end }}

{{/* Who is an AI agent, in CEL: deploy/admission-guards.yaml explains it. */}}
{{- define "picket.isAgent" -}}
"picket.dev/identity" in request.userInfo.?extra.orValue({}) || request.userInfo.username in {{ toJson .Values.tokenSecrets.accounts }}
{{- end }}

{{/* What every webhook has in common. */}}
{{- define "picket.webhook" }}
    clientConfig:
      # The controller writes the caBundle.
      service: {name: picket-webhook, namespace: {{ .root.Release.Namespace | quote }}, path: {{ .path }}, port: 443}
    admissionReviewVersions: ["v1"]
    # What is not changed bypasses Picket. Who depends on the webhook is bounded below.
    failurePolicy: Fail
    # Later admission may add volumes; the API server then asks again.
    reinvocationPolicy: IfNeeded
    sideEffects: None
    # The controller answers within milliseconds; the connection may need another try.
    timeoutSeconds: 5
{{- end }}

{{- define "picket.webhookOfPods" }}
    rules:
      - apiGroups: [""]
        apiVersions: ["v1"]
        # A pod's volumes cannot change once it exists.
        operations: ["CREATE"]
        resources: ["pods"]
      - apiGroups: [""]
        apiVersions: ["v1"]
        operations: ["UPDATE"]
        resources: ["pods/ephemeralcontainers"]
    matchConditions:
      {{- include "picket.isNoMirror" . }}
{{- end }}

{{- define "picket.isNoMirror" }}
      # A mirror pod holds no credential, and its kubelet has started the pod from a file already. Anybody can write the annotation.
      - name: is-no-mirror-pod
        expression: >-
          !("kubernetes.io/config.mirror" in object.metadata.?annotations.orValue({}) &&
            request.userInfo.?groups.orValue([]).exists(group, group == "system:nodes"))
{{- end }}
