{{/* What every object is marked with. */}}
{{- define "eni-sync.labels" -}}
app.kubernetes.io/name: eni-sync
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "eni-sync.image" -}}
{{- $repository := required "image.repository is empty: name the repository that the image was pushed to" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "eni-sync.configuration" -}}
{{ .Values.agent | toPrettyJson }}
{{- end }}

{{/* The port of the metrics and of health. */}}
{{- define "eni-sync.port" -}}
{{ regexFind "[0-9]+$" .Values.agent.metrics }}
{{- end }}

{{/* Where the kubelet, which is on the node itself, finds the agent's health. */}}
{{- define "eni-sync.host" -}}
{{- $address := regexReplaceAll ":[0-9]+$" .Values.agent.metrics "" | trimPrefix "[" | trimSuffix "]" -}}
{{- if eq $address "0.0.0.0" -}}
127.0.0.1
{{- else if eq $address "::" -}}
::1
{{- else if or (eq $address "::1") (hasPrefix "127." $address) -}}
{{ $address }}
{{- else -}}
{{ fail (printf "agent.metrics %s: the kubelet asks for health at a loopback address; use one, or 0.0.0.0:PORT" .Values.agent.metrics) }}
{{- end -}}
{{- end }}

{{- define "eni-sync.get" -}}
httpGet:
  host: {{ include "eni-sync.host" .context | quote }}
  port: {{ include "eni-sync.port" .context }}
  path: {{ .path }}
{{- end }}

{{/* Whether the agent asks Kubernetes for anything: empty where it does not. */}}
{{- define "eni-sync.kubernetes" -}}
{{- $kubernetes := .Values.agent.kubernetes | default dict -}}
{{- if or $kubernetes.events $kubernetes.startupTaint -}}true{{- end -}}
{{- end }}

{{/* What the agent's service account may do in the cluster. */}}
{{- define "eni-sync.role" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  labels:
    {{- include "eni-sync.labels" .context | nindent 4 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "eni-sync.labels" .context | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: eni-sync
    namespace: {{ .context.Release.Namespace }}
{{- end }}
