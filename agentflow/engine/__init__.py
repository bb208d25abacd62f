"""Verbs: how a call becomes a step - identity, replay, retries, effects, waiting, eviction.

Written once, as coroutines over a small runtime. Talks to the journal's protocol only. Owns no event loop outside
`agentflow.engine.runtime`, and knows nothing of people's channels, servers or agents.
"""
