"""What people and programs reach over HTTP: pages, the REST API, the event stream, and apps mounted beside them.

Not here: how flows run (workers), what a decision is checked against (approvals), what models may call (mcp).
"""
