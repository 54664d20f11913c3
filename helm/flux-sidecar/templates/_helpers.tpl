{{/*
Helpers that several templates use.

  flux-sidecar.image              the server's image
  flux-sidecar.application        the image of the broker and its jobs
  flux-sidecar.securityContext    of every container
  flux-sidecar.environment        the server's variables, as a map
  flux-sidecar.home               the home directory of the broker and its jobs
  flux-sidecar.variables          a map of variables and one of Secrets, as a pod has them
  flux-sidecar.end                the end file: where the server says that its pod's part is over
  flux-sidecar.knowsTheCluster    "true" if the server asks the Kubernetes API
  flux-sidecar.accountSecret      "true" if it does so by a token in a Secret
  flux-sidecar.jobsTmp            "true" if the chart mounts /tmp for the broker and its jobs
*/}}

{{- define "flux-sidecar.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion }}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{- define "flux-sidecar.application" -}}
{{- .Values.application.image | default (include "flux-sidecar.image" .) }}
{{- end }}

{{/* One uid for the init container, the broker and the server: Flux accepts stop and submit only from its own user. */}}
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

{{/* A MiniCluster has no volume for a token that expires; only a Secret can be mounted into a single container. */}}
{{- define "flux-sidecar.accountSecret" -}}
{{- if and (eq .Values.workload "minicluster") (eq .Values.mode "sidecar") (include "flux-sidecar.knowsTheCluster" .) }}true{{ end }}
{{- end }}

{{- define "flux-sidecar.end" -}}/mnt/flux/end{{- end }}

{{- define "flux-sidecar.knowsTheCluster" -}}
{{- if or .Values.rbac.create .Values.auth.kubernetes }}true{{ end }}
{{- end }}

{{/*
A broker that failed is restarted within some seconds. A server that exited meanwhile would not come back, and its pod,
no longer ready, would lose its DNS name. With a longer wait a deletion could exceed its grace period.
*/}}
{{- define "flux-sidecar.environment" -}}
{{- /* A pod of the operator has a variable for each Service of its namespace, and of one called flux-sidecar-metrics that
would be FLUX_SIDECAR_METRICS_PORT: so both ports are always set. */}}
{{- $hosts := concat .Values.ingress.hosts .Values.httpRoute.hostnames (compact (list .Values.server.environment.FLUX_SIDECAR_ALLOWED_HOSTS)) }}
{{- $environment := dict
  "FLUX_SIDECAR_HOST" "0.0.0.0"
  "FLUX_SIDECAR_PORT" (toString .Values.server.port)
  "FLUX_SIDECAR_METRICS_PORT" (toString .Values.metrics.port)
  "FLUX_SIDECAR_LOST_TIMEOUT" "10"
  "FLUX_SIDECAR_END_FILE" (include "flux-sidecar.end" .)
  "FLUX_SIDECAR_QUORUM" (toString (.Values.minSize | default .Values.size))
  "FLUX_SIDECAR_LOG_FORMAT" .Values.server.logFormat
  "FLUX_SIDECAR_LOG_LEVEL" .Values.server.logLevel
  "FLUX_SIDECAR_MINICLUSTER" (include "flux-sidecar.name" .) }}
{{- if .Values.server.idleStop }}{{ $_ := set $environment "FLUX_SIDECAR_IDLE_STOP" .Values.server.idleStop }}{{ end }}
{{- if not (include "flux-sidecar.open" .) }}
{{- $_ := set $environment "FLUX_SIDECAR_TOKENS" "/etc/flux-sidecar/callers/tokens" }}
{{- /* The kubelet updates a mounted Secret after a minute or two: too late for revoked tokens. */}}
{{- if .Values.rbac.create }}{{ $_ := set $environment "FLUX_SIDECAR_TOKENS_SECRET" (include "flux-sidecar.callers" .) }}{{ end }}
{{- end }}
{{- if .Values.auth.kubernetes }}{{ $_ := set $environment "FLUX_SIDECAR_KUBERNETES_AUTH" "true" }}{{ end }}
{{- if .Values.tls.existingSecret }}
{{- $_ := set $environment "FLUX_SIDECAR_TLS_CERT" "/etc/flux-sidecar/tls/tls.crt" }}
{{- $_ := set $environment "FLUX_SIDECAR_TLS_KEY" "/etc/flux-sidecar/tls/tls.key" }}
{{- end }}
{{- if .Values.metrics.open }}{{ $_ := set $environment "FLUX_SIDECAR_METRICS_OPEN" "true" }}{{ end }}
{{- if .Values.metrics.users }}{{ $_ := set $environment "FLUX_SIDECAR_METRICS_USERS" "true" }}{{ end }}
{{- if .Values.store.enabled }}{{ $_ := set $environment "FLUX_SIDECAR_STORE" "/var/lib/flux-sidecar/jobs.sqlite" }}{{ end }}
{{- $_ := set $environment "FLUX_SIDECAR_KEEP_JOBS" (.Values.store.keepJobs | int64 | toString) }}
{{- if .Values.store.keepFor }}{{ $_ := set $environment "FLUX_SIDECAR_KEEP_FOR" .Values.store.keepFor }}{{ end }}
{{- $environment = mergeOverwrite $environment .Values.server.environment }}
{{- if $hosts }}{{ $_ := set $environment "FLUX_SIDECAR_ALLOWED_HOSTS" (join "," $hosts) }}{{ end }}
{{- toYaml $environment }}
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

{{/* Printed if the Job has already ended. */}}
{{- define "flux-sidecar.ended" -}}
{{- $name := include "flux-sidecar.name" .root -}}
{{- $n := printf "-n %s" .root.Release.Namespace -}}
The Job {{ $name }} is {{ .ended }}: its instance has ended, and an upgrade does not start another one. To see how it ended:

  kubectl {{ $n }} describe job {{ $name }}
  kubectl {{ $n }} logs -l job-name={{ $name }},batch.kubernetes.io/job-completion-index=0 --all-containers --tail=-1

To start a new instance, with the same or other values (the token{{ if .root.Values.store.enabled }} and the history are{{ else }} is{{ end }} kept):

  helm {{ $n }} get values {{ .root.Release.Name }} > values.yaml
  helm {{ $n }} uninstall {{ .root.Release.Name }}
  helm {{ $n }} install {{ .root.Release.Name }} CHART -f values.yaml
{{- end }}

{{- define "flux-sidecar.scheme" -}}{{ if .Values.tls.existingSecret }}https{{ else }}http{{ end }}{{- end }}

{{/* "true" if the broker and its jobs get a volume at /tmp: with a read-only root file system neither runs without it. */}}
{{- define "flux-sidecar.jobsTmp" -}}
{{- $paths := list }}
{{- range .Values.application.volumes }}{{ $paths = append $paths (clean .path) }}{{ end }}
{{- if and .Values.application.securityContext.readOnlyRootFilesystem (not (has "/tmp" $paths)) }}true{{ end }}
{{- end }}
