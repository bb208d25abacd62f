"""The REST API: one module per noun, JSON in and out. Not here: pages, the event stream, who may call."""
