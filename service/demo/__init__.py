"""The demo: a sample company whose events go through the real pipeline, on one machine."""
