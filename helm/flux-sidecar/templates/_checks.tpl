{{/*
Checks that refuse values before anything is created.

  flux-sidecar.check              refuses names and values that cannot work, contradict each other, or would do nothing
  flux-sidecar.checkUpgrade       refuses values that an installed release cannot change to
  flux-sidecar.checkChanges       the same, compared with what was recorded
  flux-sidecar.checkClaim         refuses values that a kept claim cannot change to
  flux-sidecar.fixed              the values that reach pods, as JSON
  flux-sidecar.pods               a digest of what the pods are made from
*/}}

{{- define "flux-sidecar.check" -}}
{{- include "flux-sidecar.checkNull" . }}
{{- include "flux-sidecar.checkName" . }}
{{- include "flux-sidecar.checkIdle" . }}
{{- include "flux-sidecar.checkPorts" . }}
{{- include "flux-sidecar.checkImages" . }}
{{- include "flux-sidecar.checkResources" . }}
{{- include "flux-sidecar.checkVolumes" . }}
{{- include "flux-sidecar.checkSecurityContext" . }}
{{- include "flux-sidecar.checkPod" . }}
{{- include "flux-sidecar.checkVariables" . }}
{{- include "flux-sidecar.checkAuth" . }}
{{- $job := eq .Values.workload "job" }}
{{- if and $job (ne .Values.mode "sidecar") }}
{{- fail "mode launcher needs workload minicluster: in a plain Job the server always runs beside the broker" }}
{{- end }}
{{- if and $job (or .Values.maxSize .Values.minSize) }}
{{- fail "maxSize and minSize need workload minicluster: the size of a plain Job is fixed" }}
{{- end }}
{{- if and .Values.flux.view (or $job (eq .Values.mode "launcher")) }}
{{- fail "flux.view needs workload minicluster and mode sidecar: otherwise Flux must be in application.image" }}
{{- end }}
{{- if and (not $job) .Values.flux.cores }}
{{- fail "flux.cores needs workload job: the Flux Operator counts the cores of a pod itself" }}
{{- end }}
{{- if and .Values.maxSize (lt (int .Values.maxSize) (int .Values.size)) }}
{{- fail "maxSize is less than size" }}
{{- end }}
{{- if gt (int .Values.minSize) (int .Values.size) }}
{{- fail "minSize is greater than size: the instance would never reach its quorum" }}
{{- end }}
{{- $metrics := .Values.metrics }}
{{- if and $metrics.monitor (not $metrics.open) (not .Values.auth.token) (not $metrics.existingSecret) }}
{{- fail "metrics.monitor without auth.token needs metrics.existingSecret (a token with the scope read) or metrics.open" }}
{{- end }}
{{- if and $metrics.existingSecret (or $metrics.open (not $metrics.monitor)) }}
{{- fail "metrics.existingSecret is used only by a monitor that sends a token: set metrics.monitor, and do not set metrics.open" }}
{{- end }}
{{- if and $metrics.from (not .Values.networkPolicy.enabled) }}
{{- fail "metrics.from has no effect unless networkPolicy.enabled is true: set that, or leave it out" }}
{{- end }}
{{- if and $metrics.monitor $metrics.port .Values.networkPolicy.enabled (not $metrics.from) }}
{{- fail (printf "metrics.monitor: the NetworkPolicy allows no peer to reach metrics.port (%d): set metrics.from to the peers of Prometheus, for example metrics.from[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=monitoring" (int $metrics.port)) }}
{{- end }}
{{- end }}

{{/* The names of all values, by group. */}}
{{- define "flux-sidecar.names" -}}
"": [nameOverride, workload, mode, size, maxSize, minSize, uid, clusterDomain, image, application, server, auth, tls, store, flux, minicluster, job, pod, serviceAccount, rbac, service, metrics, networkPolicy, ingress, httpRoute, test]
image: [repository, tag, digest, pullPolicy, pullSecret]
application: [image, pullPolicy, workingDir, environment, secretEnvironment, volumes, sharedMemory, pre, resources, securityContext]
server: [port, idleStop, logFormat, logLevel, environment, secretEnvironment, resources]
auth: [token, callers, existingSecret, kubernetes]
tls: [existingSecret]
store: [enabled, existingClaim, size, keepJobs, keepFor, storageClass, accessModes]
flux: [view, viewPullPolicy, resources, brokerOptions, brokerConfig, cores]
minicluster: [backoffLimit, deadlineSeconds, cleanup, quiet, connectTimeout]
job: [backoffLimit, deadlineSeconds, ttlSecondsAfterFinished, terminationGracePeriodSeconds]
pod: [labels, annotations, nodeSelector, tolerations, schedulerName, runtimeClassName]
serviceAccount: [create, name, annotations]
rbac: [create]
service: [type, port, annotations]
metrics: [port, open, users, monitor, interval, existingSecret, rules, dashboard, labels, dashboardLabels, from]
networkPolicy: [enabled, from]
ingress: [enabled, className, annotations, hosts, tls]
httpRoute: [enabled, annotations, parentRefs, hostnames]
test: [timeoutSeconds]
{{- end }}

{{/* A null value removes the default too; a template that reads it would fail with an error about pointers. */}}
{{- define "flux-sidecar.checkNull" -}}
{{- $values := .Values }}
{{- range $group, $names := include "flux-sidecar.names" . | fromYaml }}
{{- $in := ternary (get $values $group) $values (ne $group "") }}
{{- range $names }}
{{- if or (not (hasKey $in .)) (kindIs "invalid" (index $in .)) }}
{{- fail (printf "%s: must not be empty (null): leave the key out to use its default. If --reuse-values took the values of another chart version, use --reset-then-reuse-values" (ternary (printf "%s.%s" $group .) . (ne $group ""))) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuse values that would have no effect. */}}
{{- define "flux-sidecar.checkIdle" -}}
{{- $idle := "%s has no effect unless %s: %s, or leave it out" }}
{{- $store := .Values.store }}
{{- range $name := list "existingClaim" "storageClass" }}
{{- if and (get $store $name) (not $store.enabled) }}
{{- fail (printf $idle (printf "store.%s" $name) "store.enabled is true" "set that") }}
{{- end }}
{{- end }}
{{- if and $store.storageClass $store.existingClaim }}
{{- fail (printf $idle "store.storageClass" "the chart makes the claim" "leave store.existingClaim out") }}
{{- end }}
{{- if and .Values.networkPolicy.from (not .Values.networkPolicy.enabled) (not (include "flux-sidecar.fromIsDefault" .)) }}
{{- fail (printf $idle "networkPolicy.from" "networkPolicy.enabled is true" "set that") }}
{{- end }}
{{- if and .Values.ingress.hosts (not .Values.ingress.enabled) }}
{{- fail (printf $idle "ingress.hosts" "ingress.enabled is true" "set that, or for your own Ingress set server.environment.FLUX_SIDECAR_ALLOWED_HOSTS") }}
{{- end }}
{{- if and .Values.httpRoute.hostnames (not .Values.httpRoute.enabled) }}
{{- fail (printf $idle "httpRoute.hostnames" "httpRoute.enabled is true" "set that, or for your own route set server.environment.FLUX_SIDECAR_ALLOWED_HOSTS") }}
{{- end }}
{{- if and (ne .Values.clusterDomain "cluster.local") (ne .Values.workload "job") }}
{{- fail (printf $idle "clusterDomain" "workload is job" "the Flux Operator supports only cluster.local: set that") }}
{{- end }}
{{- end }}

{{/* "true" if networkPolicy.from is the default: the pods of the namespace. */}}
{{- define "flux-sidecar.fromIsDefault" -}}
{{- if eq (toJson .Values.networkPolicy.from) "[{\"podSelector\":{}}]" }}true{{ end }}
{{- end }}

{{/* The name is part of names of Services, of pods and of host names: a label of RFC 1123 that begins with a letter. */}}
{{- define "flux-sidecar.checkName" -}}
{{- $name := .Values.nameOverride | default .Release.Name }}
{{- $help := "choose another release name, or set nameOverride" }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "the name %q is not valid for Services and hosts: use lower-case letters, digits and '-', beginning with a letter; %s" $name $help) }}
{{- end }}
{{- if gt (len $name) 48 }}
{{- fail (printf "the name %q has %d characters; at most 48 are allowed, because names of pods and Services are made from it; %s" $name (len $name) $help) }}
{{- end }}
{{- end }}

{{- define "flux-sidecar.checkPorts" -}}
{{- $port := int .Values.metrics.port }}
{{- if and $port (lt $port 1024) }}
{{- fail (printf "metrics.port: only root can listen on %d, and the server runs as user %v: use 1024 or more" $port .Values.uid) }}
{{- end }}
{{- range $name, $each := dict "server.port" .Values.server.port "metrics.port" .Values.metrics.port }}
{{- if eq (int $each) 8050 }}
{{- fail (printf "%s: 8050 is the port of the brokers' overlay network: use another one" $name) }}
{{- end }}
{{- end }}
{{- if eq $port (int .Values.server.port) }}
{{- fail (printf "metrics.port: %d is also server.port: use another one, or 0 to serve metrics on server.port" $port) }}
{{- end }}
{{- if eq $port (int .Values.service.port) }}
{{- fail (printf "metrics.port: %d is also service.port, and the Service has both: use another one" $port) }}
{{- end }}
{{- end }}

{{/* An invalid name is an image that is never pulled. A name without a version may be another image tomorrow. */}}
{{- define "flux-sidecar.checkImages" -}}
{{- $repository := .Values.image.repository }}
{{- include "flux-sidecar.checkImage" (list "image.repository" $repository) }}
{{- if not $repository }}
{{- fail "image.repository: name the image, for example REGISTRY/flux-sidecar" }}
{{- end }}
{{- if contains "@" $repository }}
{{- fail (printf "image.repository: %q has a digest: move it to image.digest" $repository) }}
{{- end }}
{{- if contains ":" (base $repository) }}
{{- fail (printf "image.repository: %q has a tag: use %q, and move the tag to image.tag" $repository (regexReplaceAll ":[^:/]*$" $repository "")) }}
{{- end }}
{{- with .Values.image.tag }}
{{- if eq . "latest" }}
{{- fail "image.tag: \"latest\" may be another image tomorrow, and pods would differ: use a version" }}
{{- end }}
{{- if not (regexMatch "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$" .) }}
{{- fail (printf "image.tag: %q is not a tag: use letters, digits, '.', '-' and '_', at most 128" .) }}
{{- end }}
{{- end }}
{{- range $name, $image := dict "application.image" .Values.application.image "flux.view" .Values.flux.view }}
{{- if $image }}
{{- include "flux-sidecar.checkImage" (list $name $image) }}
{{- if not (or (contains "@" $image) (contains ":" (base $image))) }}
{{- fail (printf "%s: %q has no tag, which means \"latest\": use a version, for example %s:1.0" $name $image $image) }}
{{- end }}
{{- if hasSuffix ":latest" $image }}
{{- fail (printf "%s: %q may be another image tomorrow, and pods would differ: use a version" $name $image) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "flux-sidecar.checkImage" -}}
{{- $value := index . 0 }}
{{- $image := index . 1 }}
{{- if contains "://" $image }}
{{- fail (printf "%s: %q has a scheme: use %q" $value $image (regexReplaceAll "^.*://" $image "")) }}
{{- end }}
{{- if regexMatch "\\s" $image }}
{{- fail (printf "%s: %q has spaces: use the name only" $value $image) }}
{{- end }}
{{- $name := regexReplaceAll "(@.*|:[^:/]*)$" $image "" }}
{{- if ne $name (lower $name) }}
{{- fail (printf "%s: %q has upper-case letters, which image names cannot have: use %q" $value $image (replace $name (lower $name) $image)) }}
{{- end }}
{{- if and $image (not (regexMatch "^[a-z0-9]([-a-zA-Z0-9._:/@]*[a-zA-Z0-9_])?$" $image)) }}
{{- fail (printf "%s: %q is not an image name: use REGISTRY/NAME" $value $image) }}
{{- end }}
{{- end }}

{{/* A Kubernetes quantity as a number, to compare it. */}}
{{- define "flux-sidecar.quantity" -}}
{{- $text := toString . }}
{{- $suffix := regexFind "([KMGTPE]i|[numkMGTPE])$" $text }}
{{- $factors := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 }}
{{- mulf (trimSuffix $suffix $text | float64) (get $factors $suffix) }}
{{- end }}

{{/* The API server refuses a pod that requests more than its limit. A Job or an operator in between hides that error. */}}
{{- define "flux-sidecar.checkResources" -}}
{{- range $name, $resources := dict "application" .Values.application.resources "server" .Values.server.resources "flux" .Values.flux.resources }}
{{- $requests := $resources.requests | default dict }}
{{- $limits := $resources.limits | default dict }}
{{- range $kind, $each := dict "requests" $requests "limits" $limits }}
{{- range $resource := list "memory" "ephemeral-storage" }}
{{- if regexMatch "[num]$" (get $each $resource | toString) }}
{{- fail (printf "%s.resources.%s.%s: %v is a fraction of a byte: use M or Mi, for example 400M" $name $kind $resource (get $each $resource)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $resource, $request := $requests }}
{{- if and (regexMatch "/|^hugepages-" $resource) (not (hasKey $limits $resource)) }}
{{- fail (printf "%s.resources: %s is requested without a limit, so no pod could be created: set %s.resources.limits.%s to %v" $name $resource $name $resource $request) }}
{{- end }}
{{- end }}
{{- range $resource, $limit := $limits }}
{{- $whole := regexMatch "/|^hugepages-" $resource }}
{{- $amount := include "flux-sidecar.quantity" $limit | float64 }}
{{- if and (contains "/" $resource) (ne $amount (floor $amount)) }}
{{- fail (printf "%s.resources: the limit of %s (%v) must be a whole number, or no pod could be created" $name $resource $limit) }}
{{- end }}
{{- if and (hasPrefix "hugepages-" $resource) (not (or (hasKey $limits "cpu") (hasKey $limits "memory") (hasKey $requests "cpu") (hasKey $requests "memory"))) }}
{{- fail (printf "%s.resources: %s also needs cpu or memory: set %s.resources.limits.memory" $name $resource $name) }}
{{- end }}
{{- with get $requests $resource }}
{{- if and $whole (ne (include "flux-sidecar.quantity" . | float64) $amount) }}
{{- fail (printf "%s.resources: the request of %s (%v) must equal its limit (%v), or no pod could be created: leave %s.resources.requests.%s out" $name $resource . $limit $name $resource) }}
{{- end }}
{{- if gt (include "flux-sidecar.quantity" . | float64) $amount }}
{{- fail (printf "%s.resources: the request of %s (%v) is greater than its limit (%v), so no pod could be created: set %s.resources.requests.%s too" $name $resource . $limit $name $resource) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A contradictory context makes no pod. The chart sets allowPrivilegeEscalation: false, unless it is set here. */}}
{{- define "flux-sidecar.checkSecurityContext" -}}
{{- $context := .Values.application.securityContext }}
{{- if not $context.allowPrivilegeEscalation }}
{{- if $context.privileged }}
{{- fail "application.securityContext: privileged needs allowPrivilegeEscalation: set it to true as well" }}
{{- end }}
{{- if has "CAP_SYS_ADMIN" ($context.capabilities | default dict).add }}
{{- fail "application.securityContext: the capability CAP_SYS_ADMIN needs allowPrivilegeEscalation: set it to true as well" }}
{{- end }}
{{- end }}
{{- if and $context.appArmorProfile (ne .Values.workload "job") }}
{{- fail "application.securityContext.appArmorProfile needs workload job: the Flux Operator does not support it" }}
{{- end }}
{{- end }}

{{- define "flux-sidecar.checkPod" -}}
{{- range .Values.pod.tolerations }}
{{- if and (not .key) (ne (.operator | default "Equal") "Exists") }}
{{- fail "pod.tolerations: an entry has no key: set the key of a taint, or operator: Exists, which tolerates all taints" }}
{{- end }}
{{- if and (eq (.operator | default "Equal") "Exists") .value }}
{{- fail (printf "pod.tolerations: operator Exists allows no value (%q): leave it out, or set operator to Equal" .value) }}
{{- end }}
{{- end }}
{{- range $label, $_ := .Values.pod.labels }}
{{- if or (has $label (list "app.kubernetes.io/instance" "app.kubernetes.io/part-of" "job-name" "job-index" "controller-uid")) (hasPrefix "batch.kubernetes.io/" $label) }}
{{- fail (printf "pod.labels: %s is used to select the pods: use another name" $label) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Two volumes with one name or path make no pod, and a MiniCluster without pods reports no error. */}}
{{- define "flux-sidecar.checkVolumes" -}}
{{- $minicluster := eq .Values.workload "minicluster" }}
{{- $taken := list "flux" "home" "tmp" "jobs-tmp" "config" "callers" "tls" "store" "account" "shared-memory" }}
{{- $mounted := list "/" "/mnt/flux" "/home/flux" "/etc/flux-cluster" }}
{{- if $minicluster }}
{{- $entrypoint := printf "%s-entrypoint" (include "flux-sidecar.name" .) }}
{{- $taken = list "spack-software" "flux-operator-home" "flux-view" "callers" "tls" "store" "account" "shared-memory" $entrypoint (include "flux-sidecar.tmp" .) }}
{{- /* The volumes of the broker's container are mounted into the server's too. */}}
{{- $mounted = list "/" "/mnt/flux" "/home/flux-operator" "/flux_operator" "/opt/software" "/etc/flux-sidecar/callers" "/etc/flux-sidecar/tls" "/var/lib/flux-sidecar" "/var/run/secrets/kubernetes.io/serviceaccount" }}
{{- end }}
{{- if .Values.application.sharedMemory }}{{ $mounted = append $mounted "/dev/shm" }}{{ end }}
{{- if and (include "flux-sidecar.jobsTmp" .) (not $minicluster) }}{{ $mounted = append $mounted "/var/tmp" }}{{ end }}
{{- $names := list }}
{{- $paths := list }}
{{- range .Values.application.volumes }}
{{- $name := .name }}
{{- $path := clean .path }}
{{- if $minicluster }}
{{- $name = .configMapName | default .name }}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" $name) }}
{{- fail (printf "application.volumes: the Flux Operator uses configMapName %q as the name of a volume, so it cannot have dots or more than 63 characters: copy the ConfigMap to another name" $name) }}
{{- end }}
{{- end }}
{{- if has $name $taken }}
{{- fail (printf "application.volumes: the name %q is used by a volume of the cluster itself: use another one" $name) }}
{{- end }}
{{- if has $name $names }}
{{- fail (printf "application.volumes: the name %q is used twice" $name) }}
{{- end }}
{{- if has $path $mounted }}
{{- fail (printf "application.volumes: the path %q is used by the cluster itself: use another one" .path) }}
{{- end }}
{{- if has $path $paths }}
{{- fail (printf "application.volumes: the path %q is used twice" .path) }}
{{- end }}
{{- $names = append $names $name }}
{{- $paths = append $paths $path }}
{{- end }}
{{- end }}

{{- define "flux-sidecar.checkAuth" -}}
{{- if and .Values.auth.existingSecret .Values.auth.callers }}
{{- fail "auth.callers has no effect with auth.existingSecret: put the lines into that Secret" }}
{{- end }}
{{- if and .Values.auth.existingSecret .Values.auth.token }}
{{- fail "auth.existingSecret replaces the token of the chart: set auth.token to false" }}
{{- end }}
{{- if and .Values.auth.kubernetes (ne .Values.workload "job") (eq .Values.mode "launcher") }}
{{- fail "auth.kubernetes needs mode sidecar or workload job: in mode launcher jobs can read the token with which the server authenticates callers at the API server" }}
{{- end }}
{{- if and .Values.auth.kubernetes (not .Values.rbac.create) (not .Values.serviceAccount.name) }}
{{- fail "auth.kubernetes without rbac.create needs a serviceAccount.name that is bound to system:auth-delegator" }}
{{- end }}
{{- $auth := .Values.auth }}
{{- range $auth.callers }}
{{- if hasPrefix "fxs_" . }}
{{- fail "auth.callers: a line begins with a token: use name:scopes:sha256, as `flux-sidecar token new NAME` prints it" }}
{{- end }}
{{- end }}
{{- $variables := include "flux-sidecar.authVariables" . | fromJson }}
{{- $open := include "flux-sidecar.open" . }}
{{- if not (or $auth.token $auth.callers $auth.existingSecret $auth.kubernetes $variables) }}
{{- fail "without auth.token no caller could authenticate: set auth.callers, auth.existingSecret or auth.kubernetes, or another method in server.environment (docs/security.md) with a value that is neither empty nor false" }}
{{- end }}
{{- if and $open (or $auth.token $auth.callers $auth.existingSecret $auth.kubernetes) }}
{{- fail "FLUX_SIDECAR_NO_AUTH excludes every authentication method: set auth.token to false, and no other value of auth" }}
{{- end }}
{{- if and $open (omit $variables "FLUX_SIDECAR_NO_AUTH") }}
{{- fail (printf "FLUX_SIDECAR_NO_AUTH excludes every authentication method: leave %s out" (keys (omit $variables "FLUX_SIDECAR_NO_AUTH") | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}

{{/* Variables of the server's container, as maps by the name of the value; in mode launcher also the application's. */}}
{{- define "flux-sidecar.serverVariables" -}}
{{- $maps := dict "server.environment" .Values.server.environment "server.secretEnvironment" .Values.server.secretEnvironment }}
{{- if eq .Values.mode "launcher" }}
{{- $_ := set $maps "application.environment" .Values.application.environment }}
{{- $_ := set $maps "application.secretEnvironment" .Values.application.secretEnvironment }}
{{- end }}
{{- toJson $maps }}
{{- end }}

{{/* Refuse variables that would override the chart or have no effect. Of two variables with one name Kubernetes uses the last. */}}
{{- define "flux-sidecar.checkVariables" -}}
{{- $reach := "leave it out: the Service uses it" }}
{{- $pods := "leave it out: it is the same for the whole pod" }}
{{- $own := dict
  "FLUX_SIDECAR_PORT" "set server.port"
  "FLUX_SIDECAR_HOST" $reach
  "FLUX_SIDECAR_TCP" $reach
  "FLUX_SIDECAR_METRICS_PORT" "set metrics.port"
  "FLUX_SIDECAR_METRICS_OPEN" "set metrics.open"
  "FLUX_SIDECAR_METRICS_USERS" "set metrics.users"
  "FLUX_SIDECAR_STORE" "set store.enabled"
  "FLUX_SIDECAR_KEEP_JOBS" "set store.keepJobs"
  "FLUX_SIDECAR_KEEP_FOR" "set store.keepFor"
  "FLUX_SIDECAR_TOKENS" "set auth.callers, or auth.existingSecret"
  "FLUX_SIDECAR_TOKENS_SECRET" "set auth.callers, or auth.existingSecret"
  "FLUX_SIDECAR_TLS_CERT" "set tls.existingSecret"
  "FLUX_SIDECAR_TLS_KEY" "set tls.existingSecret"
  "FLUX_SIDECAR_LOG_FORMAT" "set server.logFormat"
  "FLUX_SIDECAR_LOG_LEVEL" "set server.logLevel"
  "FLUX_SIDECAR_IDLE_STOP" "set server.idleStop"
  "FLUX_SIDECAR_QUORUM" "set minSize"
  "FLUX_SIDECAR_MINICLUSTER" "set nameOverride"
  "FLUX_SIDECAR_KUBERNETES_JOB" "set nameOverride"
  "FLUX_SIDECAR_END_FILE" $pods
  "FLUX_SIDECAR_COMPLETION_INDEX" "leave it out: Kubernetes sets it in each pod"
  "JOB_COMPLETION_INDEX" "leave it out: Kubernetes sets it in each pod"
  "FLUX_SIDECAR_EMBEDDED" $pods
  "FLUX_SIDECAR_URI" $pods
  "FLUX_URI" $pods }}
{{- if eq .Values.workload "job" }}
{{- $_ := set $own "FLUX_SIDECAR_LINGER" "leave it out: the kubelet would restart the server" }}
{{- $_ := set $own "FLUX_SIDECAR_STOP_ON_SIGNAL" "leave it out: the kubelet signals the broker" }}
{{- else if eq .Values.mode "sidecar" }}
{{- $_ := set $own "FLUX_SIDECAR_END_WHEN_DEAD" "leave it out: it is 60 s" }}
{{- end }}
{{- range $value, $variables := include "flux-sidecar.serverVariables" . | fromJson }}
{{- range $name, $_ := $variables }}
{{- with get $own $name }}
{{- fail (printf "%s.%s would override the chart: %s" $value $name .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $pairs := list
  (list "application.environment" .Values.application.environment "application.secretEnvironment" .Values.application.secretEnvironment)
  (list "server.environment" .Values.server.environment "server.secretEnvironment" .Values.server.secretEnvironment) }}
{{- if eq .Values.mode "launcher" }}
{{- $pairs = append $pairs (list "application.environment" .Values.application.environment "server.secretEnvironment" .Values.server.secretEnvironment) }}
{{- $pairs = append $pairs (list "server.environment" .Values.server.environment "application.secretEnvironment" .Values.application.secretEnvironment) }}
{{- end }}
{{- range $pairs }}
{{- $secrets := index . 3 }}
{{- $where := printf "%s and in %s" (index . 0) (index . 2) }}
{{- range $name, $_ := index . 1 }}
{{- if hasKey $secrets $name }}
{{- fail (printf "%s is set in %s: leave one of them out" $name $where) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables that set an authentication method: neither empty nor off. */}}
{{- define "flux-sidecar.authVariables" -}}
{{- $variables := dict }}
{{- range $_, $each := include "flux-sidecar.serverVariables" . | fromJson }}{{ $variables = merge $variables $each }}{{ end }}
{{- $methods := dict }}
{{- range $name := list "FLUX_SIDECAR_LOGIN_PASSWORD" "FLUX_TOKEN" "FLUX_SIDECAR_OIDC_ISSUER" "FLUX_SIDECAR_TLS_CLIENT_CA" }}
{{- with get $variables $name }}{{ $_ := set $methods $name . }}{{ end }}
{{- end }}
{{- range $name := list "FLUX_SIDECAR_KUBERNETES_AUTH" "FLUX_SIDECAR_NO_AUTH" }}
{{- $value := get $variables $name }}
{{- if or (kindIs "map" $value) (has (toString $value | trim | lower) (list "1" "true" "t" "yes" "y")) }}{{ $_ := set $methods $name $value }}{{ end }}
{{- end }}
{{- toJson $methods }}
{{- end }}

{{/* "true" if the server requires no credential. */}}
{{- define "flux-sidecar.open" -}}
{{- if hasKey (include "flux-sidecar.authVariables" . | fromJson) "FLUX_SIDECAR_NO_AUTH" }}true{{ end }}
{{- end }}

{{/*
The values that affect pods, which cannot be changed: by their names in the README, and what is derived from several of
them. An upgrade is compared with the record of the release as it was installed.
*/}}
{{- define "flux-sidecar.fixed" -}}
{{- $fixed := omit .Values "auth" "ingress" "httpRoute" "image" "job" "metrics" "minicluster" "networkPolicy" "rbac" "service" "serviceAccount" "test" }}
{{- $_ := set $fixed "auth" (omit .Values.auth "callers" "token") }}
{{- $_ := set $fixed "image" (dict "pullPolicy" .Values.image.pullPolicy "pullSecret" .Values.image.pullSecret) }}
{{- $_ := set $fixed "image.repository, image.tag or image.digest" (include "flux-sidecar.image" .) }}
{{- $_ := set $fixed "ingress.hosts or httpRoute.hostnames" (concat .Values.ingress.hosts .Values.httpRoute.hostnames) }}
{{- $_ := set $fixed "metrics" (pick .Values.metrics "port" "open" "users") }}
{{- $_ := set $fixed "minicluster" (omit .Values.minicluster "cleanup") }}
{{- $_ := set $fixed "job" (pick .Values.job "terminationGracePeriodSeconds") }}
{{- $_ := set $fixed "rbac.create" .Values.rbac.create }}
{{- /* Helm would delete the account that the pods have. */}}
{{- $_ := set $fixed "serviceAccount.create" .Values.serviceAccount.create }}
{{- $_ := set $fixed "serviceAccount.name" (include "flux-sidecar.serviceAccount" .) }}
{{- omit $fixed (ternary "minicluster" "job" (eq .Values.workload "job")) | toJson }}
{{- end }}

{{/* The names of values that differ, one per line. A value that only one side has comes from another chart version. */}}
{{- define "flux-sidecar.differences" -}}
{{- $whole := list "environment" "secretEnvironment" "resources" "securityContext" "labels" "annotations" "nodeSelector" }}
{{- range $key, $new := .new }}
{{- if hasKey $.old $key }}
{{- $old := index $.old $key }}
{{- $name := ternary (printf "%s.%s" $.path $key) $key (ne $.path "") }}
{{- if and (kindIs "map" $old) (kindIs "map" $new) (not (has $key $whole)) }}
{{- include "flux-sidecar.differences" (dict "old" $old "new" $new "path" $name) }}
{{- else if ne (toJson $old) (toJson $new) }}
{{- printf "%s\n" $name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Refuse an upgrade that changes what cannot be changed in a MiniCluster or Job: it would have no effect, or end the
instance (another size of a Job fails its brokers, another name or workload deletes it). Of a release without a record
only the size is compared.
*/}}
{{- define "flux-sidecar.checkUpgrade" -}}
{{- $record := (lookup "v1" "ConfigMap" .Release.Namespace (include "flux-sidecar.record" .)).data | default dict }}
{{- $kind := $record.kind | default (ternary "Job" "MiniCluster" (eq .Values.workload "job")) }}
{{- $name := $record.name | default (include "flux-sidecar.name" .) }}
{{- $api := ternary "batch/v1" "flux-framework.org/v1alpha2" (eq $kind "Job") }}
{{- $living := dict }}
{{- if or (eq $kind "Job") (.Capabilities.APIVersions.Has $api) }}
{{- $living = lookup $api $kind .Release.Namespace $name }}
{{- end }}
{{- if $living }}
{{- include "flux-sidecar.checkChanges" (dict "root" . "record" $record "kind" $kind "name" $name "size" $living.spec.completions) }}
{{- end }}
{{- end }}

{{- define "flux-sidecar.checkChanges" -}}
{{- $record := .record }}
{{- $root := .root }}
{{- $new := include "flux-sidecar.fixed" $root | fromJson }}
{{- $old := $record.values | default "{}" | fromJson }}
{{- if and (not $record.values) (eq .kind "Job") }}
{{- $_ := set $old "size" .size }}
{{- end }}
{{- if and (eq .kind "MiniCluster") $old.maxSize (eq (int $old.maxSize) (int $new.maxSize)) (le (int $new.size) (int $old.maxSize)) }}
{{- /* The operator scales it. */}}
{{- $old = omit $old "size" }}
{{- end }}
{{- $changed := include "flux-sidecar.differences" (dict "old" $old "new" $new "path" "") | trim }}
{{- $there := printf "the %s %s exists, and its pods cannot be changed" .kind .name }}
{{- $keep := printf "its current values (`helm get values %s --all`)" $root.Release.Name }}
{{- $again := printf "stop the instance, `helm uninstall %s` and install again, or install another release" $root.Release.Name }}
{{- if $changed }}
{{- fail (printf "%s: an upgrade cannot change %s. Use %s; --reuse-values does so for values that you leave out. To use other values, %s" $there (splitList "\n" $changed | join ", ") $keep $again) }}
{{- end }}
{{- if and $record.pods (ne $record.pods (include "flux-sidecar.pods" $root)) }}
{{- if ne $record.chart $root.Chart.Version }}
{{- fail (printf "%s: chart %s made them, and this chart (%s) would make different ones. Upgrade with the chart of the release; otherwise %s" $there $record.chart $root.Chart.Version $again) }}
{{- end }}
{{- fail (printf "%s: this upgrade would make different ones, because of a value that affects pods or a changed chart. Use the chart and %s; otherwise %s" $there $keep $again) }}
{{- end }}
{{- end }}

{{/*
Pods of another chart version can differ even if the values do not. The size of a MiniCluster can change, and with it the
quorum in its specification, which the operator reads once: later pods are made like the first ones.
*/}}
{{- define "flux-sidecar.pods" -}}
{{- $pods := dict }}
{{- if eq .Values.workload "job" }}
{{- $pods = (include (print .Template.BasePath "/job.yaml") . | fromYaml).spec.template }}
{{- else }}
{{- $pods = omit (include (print .Template.BasePath "/minicluster.yaml") . | fromYaml).spec "size" "cleanup" }}
{{- range $pods.containers }}{{ $_ := unset .environment "FLUX_SIDECAR_QUORUM" }}{{ end }}
{{- end }}
{{- toJson $pods | sha256sum }}
{{- end }}

{{/*
The claim of an uninstalled release is kept, and a release of the same name uses it. Of its specification only the size
can change, and only grow.
*/}}
{{- define "flux-sidecar.checkClaim" -}}
{{- $name := include "flux-sidecar.store" . }}
{{- with (lookup "v1" "PersistentVolumeClaim" .Release.Namespace $name).spec }}
{{- $changed := list }}
{{- if and $.Values.store.storageClass (ne $.Values.store.storageClass (.storageClassName | default "")) }}
{{- $changed = append $changed (printf "store.storageClass (it has %q)" (.storageClassName | default "")) }}
{{- end }}
{{- if ne (sortAlpha $.Values.store.accessModes | join ", ") (sortAlpha .accessModes | join ", ") }}
{{- $changed = append $changed (printf "store.accessModes (it has %s)" (sortAlpha .accessModes | join ", ")) }}
{{- end }}
{{- $size := .resources.requests.storage }}
{{- if lt (include "flux-sidecar.quantity" $.Values.store.size | float64) (include "flux-sidecar.quantity" $size | float64) }}
{{- $changed = append $changed (printf "store.size (it has %s, and cannot shrink)" $size) }}
{{- end }}
{{- if $changed }}
{{- fail (printf "the claim %s exists, from a release of the same name, and %s cannot be changed: use its values, name another claim in store.existingClaim, or delete it with its history" $name (join ", " $changed)) }}
{{- end }}
{{- end }}
{{- end }}
