"""Pure renderers: one `AlertView` in, the words of one channel out (`slack`, `mail`, `webhook`). No I/O, no clock."""
