"""The command line: the composition root, where journal, worker, server and MCP are put together for one command.

Here: reading arguments, showing runs and questions, exit codes. Not here: what a run or a decision is (rooms below).
"""
