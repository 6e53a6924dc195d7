{{/*
The API server's own address. Without apiServer.address Helm asks the cluster: the addresses of the Service `kubernetes` are those of its
API servers. The address of an earlier install stays for as long as it is among them, so that an upgrade changes it for a reason only.
*/}}
{{- define "picket.apiServer" -}}
{{- if .Values.apiServer.address }}
{{- .Values.apiServer.address }}
{{- else }}
{{- $found := list }}
{{- $slice := lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes" }}
{{- range $port := $slice.ports }}
{{- range $endpoint := $slice.endpoints }}
{{- range $address := $endpoint.addresses }}
{{- $host := contains ":" $address | ternary (printf "[%s]" $address) $address }}
{{- $found = append $found (printf "https://%s:%d" $host (int $port.port)) }}
{{- end }}
{{- end }}
{{- end }}
{{- $found = $found | uniq | sortAlpha }}
{{- $earlier := dig "metadata" "annotations" "picket.dev/api-server" "" (lookup "v1" "ConfigMap" .Release.Namespace "picket") }}
{{- if has $earlier $found }}
{{- $earlier }}
{{- else if eq (len $found) 1 }}
{{- first $found }}
{{- else if $found }}
{{- $which := "an agent asks one of them alone: give the name of their load balancer, as the kubelets use it, or one of them" }}
{{- fail (printf "apiServer.address: the cluster has several API servers, %s; %s" (join ", " $found) $which) }}
{{- else }}
{{- $how := "give https://HOST:PORT, as the kubelets use it: helm template and --dry-run=client do not ask the cluster" }}
{{- fail (printf "apiServer.address: no API server is known; %s" $how) }}
{{- end }}
{{- end }}
{{- end }}
