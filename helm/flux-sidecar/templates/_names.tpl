{{/*
Names of all objects. The MiniCluster (or Job), its pods and its headless Service have the release's own name: it is part
of every host name of the Flux instance, and the name of a pod must be shorter than 63 characters.
*/}}
{{- define "flux-sidecar.name" -}}
{{- .Values.nameOverride | default .Release.Name }}
{{- end }}

{{- define "flux-sidecar.api" -}}{{ include "flux-sidecar.name" . }}-api{{- end }}
{{- define "flux-sidecar.token" -}}{{ include "flux-sidecar.name" . }}-token{{- end }}
{{- define "flux-sidecar.callers" -}}{{ .Values.auth.existingSecret | default (printf "%s-callers" (include "flux-sidecar.name" .)) }}{{- end }}
{{/* The Secret whose key `scrape` is the token of Prometheus; empty if it uses none. */}}
{{- define "flux-sidecar.scrapeSecret" -}}
{{- if and .Values.metrics.monitor (not .Values.metrics.open) }}{{ .Values.metrics.existingSecret | default (include "flux-sidecar.token" .) }}{{ end }}
{{- end }}
{{- define "flux-sidecar.metricsPort" -}}{{ .Values.metrics.port | default .Values.server.port }}{{- end }}
{{- define "flux-sidecar.store" -}}{{ .Values.store.existingClaim | default (printf "%s-store" (include "flux-sidecar.name" .)) }}{{- end }}
{{- define "flux-sidecar.account" -}}{{ include "flux-sidecar.name" . }}-account{{- end }}
{{- define "flux-sidecar.record" -}}{{ .Release.Name }}-record{{- end }}
{{- define "flux-sidecar.tmp" -}}{{ include "flux-sidecar.name" . }}-tmp{{- end }}
{{- define "flux-sidecar.curve" -}}{{ include "flux-sidecar.name" . }}-curve{{- end }}
{{- define "flux-sidecar.config" -}}{{ include "flux-sidecar.name" . }}-flux{{- end }}
{{- define "flux-sidecar.test" -}}{{ include "flux-sidecar.name" . }}-test{{- end }}

{{- define "flux-sidecar.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "flux-sidecar.name" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "flux-sidecar.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: flux-sidecar
{{- end }}

{{- define "flux-sidecar.labels" -}}
{{ include "flux-sidecar.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
