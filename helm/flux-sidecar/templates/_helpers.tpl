{{/*
What several templates say alike.

  flux-sidecar.check              refuses values that contradict each other, or that would do nothing
  flux-sidecar.image              the server's image
  flux-sidecar.application        the image of the broker and its jobs
  flux-sidecar.securityContext    of every container
  flux-sidecar.environment        the server's variables, as a map
  flux-sidecar.home               the home directory of the broker and its jobs
  flux-sidecar.variables          a map of variables and one of Secrets, as a pod has them
  flux-sidecar.knowsTheCluster    "true" if the server asks the Kubernetes API
*/}}

{{- define "flux-sidecar.check" -}}
{{- $job := eq .Values.workload "job" }}
{{- if and $job (ne .Values.mode "sidecar") }}
{{- fail "mode launcher needs workload minicluster: a plain Job has the server beside the broker" }}
{{- end }}
{{- if and $job (or .Values.maxSize .Values.minSize) }}
{{- fail "maxSize and minSize need workload minicluster: nobody scales a plain Job" }}
{{- end }}
{{- if and .Values.flux.view (or $job (eq .Values.mode "launcher")) }}
{{- fail "flux.view needs workload minicluster and mode sidecar: anywhere else Flux has to be in application.image" }}
{{- end }}
{{- if and (not $job) .Values.flux.cores }}
{{- fail "flux.cores needs workload job: the Flux Operator counts the cores of a pod itself" }}
{{- end }}
{{- if and .Values.maxSize (lt (int .Values.maxSize) (int .Values.size)) }}
{{- fail "maxSize is less than size" }}
{{- end }}
{{- if gt (int .Values.minSize) (int .Values.size) }}
{{- fail "minSize is more than size: there would never be a quorum" }}
{{- end }}
{{- if and .Values.auth.existingSecret .Values.auth.callers }}
{{- fail "auth.callers would not be in auth.existingSecret: write the lines there" }}
{{- end }}
{{- if and .Values.auth.existingSecret .Values.auth.token }}
{{- fail "auth.existingSecret takes the place of the token that the chart makes: set auth.token to false" }}
{{- end }}
{{- $metrics := .Values.metrics }}
{{- if and $metrics.monitor (not $metrics.open) (not .Values.auth.token) (not $metrics.existingSecret) }}
{{- fail "metrics.monitor without auth.token needs metrics.existingSecret, whose token may read, or metrics.open" }}
{{- end }}
{{- if and $metrics.existingSecret (or $metrics.open (not $metrics.monitor)) }}
{{- fail "metrics.existingSecret is what a monitor sends: set metrics.monitor, and not metrics.open" }}
{{- end }}
{{- if eq (int $metrics.port) (int .Values.server.port) }}
{{- fail "metrics.port is the API's: leave it 0" }}
{{- end }}
{{- if and $metrics.from (not .Values.networkPolicy.enabled) }}
{{- fail "metrics.from needs networkPolicy.enabled" }}
{{- end }}
{{- if and .Values.auth.kubernetes (not .Values.rbac.create) (not .Values.serviceAccount.name) }}
{{- fail "auth.kubernetes without rbac.create needs a serviceAccount.name that is bound to system:auth-delegator" }}
{{- end }}
{{- end }}

{{- define "flux-sidecar.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion }}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{- define "flux-sidecar.application" -}}
{{- .Values.application.image | default (include "flux-sidecar.image" .) }}
{{- end }}

{{/* One uid for the init container, the broker and the server: Flux takes stop and submit from its own user alone. */}}
{{- define "flux-sidecar.securityContext" -}}
runAsUser: {{ .Values.uid }}
runAsGroup: {{ .Values.uid }}
runAsNonRoot: true
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "flux-sidecar.knowsTheCluster" -}}
{{- if or .Values.rbac.create .Values.auth.kubernetes }}true{{ end }}
{{- end }}

{{/*
A broker that has failed is started again within some seconds. A server that had left meanwhile would not come back, and
its pod, no longer ready, would lose its name. Longer than this, and a deletion could take more than its grace period.
*/}}
{{- define "flux-sidecar.environment" -}}
{{- $hosts := concat .Values.ingress.hosts .Values.httpRoute.hostnames }}
{{- $environment := dict
  "FLUX_SIDECAR_HOST" "0.0.0.0"
  "FLUX_SIDECAR_PORT" (toString .Values.server.port)
  "FLUX_SIDECAR_LOST_TIMEOUT" "10"
  "FLUX_SIDECAR_LOG_FORMAT" .Values.server.logFormat
  "FLUX_SIDECAR_LOG_LEVEL" .Values.server.logLevel
  "FLUX_SIDECAR_MINICLUSTER" (include "flux-sidecar.name" .) }}
{{- if .Values.server.idleStop }}{{ $_ := set $environment "FLUX_SIDECAR_IDLE_STOP" .Values.server.idleStop }}{{ end }}
{{- if or .Values.auth.token .Values.auth.callers .Values.auth.existingSecret }}
{{- $_ := set $environment "FLUX_SIDECAR_TOKENS" "/etc/flux-sidecar/callers/tokens" }}
{{- end }}
{{- if .Values.auth.kubernetes }}{{ $_ := set $environment "FLUX_SIDECAR_KUBERNETES_AUTH" "true" }}{{ end }}
{{- if .Values.tls.existingSecret }}
{{- $_ := set $environment "FLUX_SIDECAR_TLS_CERT" "/etc/flux-sidecar/tls/tls.crt" }}
{{- $_ := set $environment "FLUX_SIDECAR_TLS_KEY" "/etc/flux-sidecar/tls/tls.key" }}
{{- end }}
{{- if .Values.metrics.port }}{{ $_ := set $environment "FLUX_SIDECAR_METRICS_PORT" (toString .Values.metrics.port) }}{{ end }}
{{- if .Values.metrics.open }}{{ $_ := set $environment "FLUX_SIDECAR_METRICS_OPEN" "true" }}{{ end }}
{{- if .Values.metrics.users }}{{ $_ := set $environment "FLUX_SIDECAR_METRICS_USERS" "true" }}{{ end }}
{{- if .Values.store.enabled }}{{ $_ := set $environment "FLUX_SIDECAR_STORE" "/var/lib/flux-sidecar/jobs.sqlite" }}{{ end }}
{{- if $hosts }}{{ $_ := set $environment "FLUX_SIDECAR_ALLOWED_HOSTS" (join "," $hosts) }}{{ end }}
{{- mergeOverwrite $environment .Values.server.environment | toYaml }}
{{- end }}

{{- define "flux-sidecar.variables" -}}
{{- range $name, $value := .environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range $name, $secret := .secrets }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name }}
      key: {{ $secret.key }}
{{- end }}
{{- end }}

{{/* What both workloads run before the broker. */}}
{{- define "flux-sidecar.scheme" -}}{{ if .Values.tls.existingSecret }}https{{ else }}http{{ end }}{{- end }}
