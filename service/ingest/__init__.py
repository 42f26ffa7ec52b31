"""The doors over HTTP under `/ingest`, and `POST /api/v1/events`: what product teams' SDKs speak, up to the intake."""
