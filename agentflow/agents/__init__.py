"""Agent steps as tasks: model requests and tool calls are found in the journal, or made, retried and recorded.

`transport`, `openai`, `anthropic` serve the providers' own clients, `pydantic_ai` (with `operations` and `tool_steps`)
serves pydantic-ai agents. Nothing here decides an approval: an agent's tools may ask for one, a person gives it through
`agentflow.approvals`. No other room imports the libraries of model providers.
"""
