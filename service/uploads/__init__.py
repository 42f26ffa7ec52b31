"""Accounts and people from CSV files: read, compared with what is stored, shown, and only then stored.

``sheet`` reads bytes, ``columns`` and ``rows`` say what they mean, ``plan`` what would change: all pure. ``storing``
acts.
"""
