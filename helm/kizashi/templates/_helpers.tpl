{{- define "kizashi.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kizashi.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kizashi.labels" -}}
{{ include "kizashi.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kizashi
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "kizashi.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{- define "kizashi.secretVariable" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
      {{- if .optional }}
      optional: true
      {{- end }}
{{- end -}}

{{/* What every role and the migration need. The migration runs before anything else of the chart exists: only the
     existing Secret and plain values may stand here. */}}
{{- define "kizashi.environment" -}}
{{- $secret := required "existingSecret: name a Secret that holds the database URL and the secret key" .Values.existingSecret -}}
{{- $keys := .Values.existingSecretKeys -}}
{{ include "kizashi.secretVariable" (dict "name" "KIZASHI_DATABASE_URL" "secret" $secret "key" $keys.databaseUrl) }}
{{ include "kizashi.secretVariable" (dict "name" "KIZASHI_SECRET_KEY" "secret" $secret "key" $keys.secretKey) }}
- name: KIZASHI_KAFKA_BOOTSTRAP
  value: {{ required "kafka.bootstrap: name the brokers, host:port, comma separated" .Values.kafka.bootstrap | quote }}
- name: KIZASHI_EVENTS_TOPICS
  value: {{ .Values.kafka.topics | toJson | quote }}
- name: KIZASHI_EVENTS_PARTITIONS
  value: {{ .Values.kafka.partitions | int | quote }}
- name: KIZASHI_CONSUMER_GROUP
  value: {{ .Values.kafka.consumerGroup | quote }}
- name: KIZASHI_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- end -}}

{{- define "kizashi.roleEnvironment" -}}
{{- $secret := .Values.existingSecret -}}
{{- $keys := .Values.existingSecretKeys -}}
{{ include "kizashi.environment" . }}
- name: KIZASHI_PUBLIC_URL
  value: {{ required "publicUrl: say where readers of an alert reach the board" .Values.publicUrl | quote }}
- name: KIZASHI_METRICS_PORT
  value: {{ .Values.metricsPort | int | quote }}
{{ include "kizashi.secretVariable" (dict "name" "KIZASHI_SLACK_WEBHOOK_URL" "secret" $secret "key" $keys.slackWebhookUrl "optional" true) }}
{{ include "kizashi.secretVariable" (dict "name" "KIZASHI_WEBHOOK_URL" "secret" $secret "key" $keys.webhookUrl "optional" true) }}
{{ include "kizashi.secretVariable" (dict "name" "KIZASHI_WEBHOOK_SECRET" "secret" $secret "key" $keys.webhookSecret "optional" true) }}
{{- if .Values.mail.host }}
- name: KIZASHI_SMTP_HOST
  value: {{ .Values.mail.host | quote }}
- name: KIZASHI_SMTP_PORT
  value: {{ .Values.mail.port | int | quote }}
- name: KIZASHI_SMTP_TLS
  value: {{ .Values.mail.tls }}
- name: KIZASHI_MAIL_FROM
  value: {{ .Values.mail.from | quote }}
{{ include "kizashi.secretVariable" (dict "name" "KIZASHI_SMTP_USERNAME" "secret" $secret "key" $keys.smtpUsername "optional" true) }}
{{ include "kizashi.secretVariable" (dict "name" "KIZASHI_SMTP_PASSWORD" "secret" $secret "key" $keys.smtpPassword "optional" true) }}
{{- end }}
{{- with .Values.mail.defaultRecipient }}
- name: KIZASHI_DEFAULT_RECIPIENT
  value: {{ . | quote }}
{{- end }}
{{- if or .Values.rules.files .Values.rules.existingConfigMap }}
- name: KIZASHI_RULES_DIR
  value: /etc/kizashi/rules
{{- end }}
{{- if .Values.people }}
- name: KIZASHI_PEOPLE_FILE
  value: /etc/kizashi/people/people.yaml
{{- end }}
{{- with .Values.archive.url }}
- name: KIZASHI_ARCHIVE_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kizashi.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "kizashi.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A ConfigMap's keys hold no slash; the volume's items give each file its path back. */}}
{{- define "kizashi.rulesKey" -}}
{{ . | replace "/" "__" }}
{{- end -}}
