"""Rebuilds the facts from the events themselves, beside the live ones, and holds the two against each other.

The events come from the archive, with what it does not have yet from Kafka, or from Kafka alone. They go through the
consumers' own decoding, fold and upserts into tables of a schema made for the run. Nothing is sent, and nothing live is
touched, unless a swap is asked for.
"""
