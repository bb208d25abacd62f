"""The journal for workers on other machines: who they are, their sessions, the verbs that they may ask for.

Not here: the other end (`agentflow.journal.http`), what travels (`agentflow.journal.wire`), what people reach.
"""
