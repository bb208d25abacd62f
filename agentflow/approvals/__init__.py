"""Sign-off: which side effects a person signs, how a decision is validated and recorded. One room for every channel.

Not here: asking (channels live in cli, server, mcp) and starting the effect (the engine consumes the signature).
"""
