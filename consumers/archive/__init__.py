"""The archive: every accepted event as it came, in compressed Parquet files, for replays, erasures, exports, backtests.

The files lie in a local folder or an object store; which of them count is said by ``archive_files`` in Postgres, in the
transaction that moves the archive's offsets. A file that no row names does not exist, whatever the store holds: so no
crash doubles, loses or brings back an event.
"""
