"""The HTTP API, a module per noun: reads go through `service/queries`, actions through the package that owns them."""
