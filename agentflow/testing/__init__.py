"""What tests of agents and workflows need: scripted models, a virtual clock, failpoints. Nothing that production runs.

Import the modules themselves (``from agentflow.testing.models import ScriptedModelServer``): this file imports none of
them, so that ``python -m agentflow.testing.models`` runs the module that scripts import, not a second copy of it.
"""
