"""Flows as tools for language models, over the Model Context Protocol - and people's approvals in the same chat.

`server` puts a server together, `flow_tools` and `control_tools` are what it offers, `calls` is one call of a tool,
`following` waits for its run, `questions` and `answers` turn a durable wait into a form and a form into a decision,
`asking` is the ladder of ways to show it, `tasks` the Tasks extension, `install` writes clients' configuration.
Not here: deciding (approvals), running (workers), pages (server). No tool in this room can decide an approval.
Importing a module of this room loads fastmcp, except `install`, `stdio` and this one.
"""
