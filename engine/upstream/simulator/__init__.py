"""An upstream that needs no model: it speaks the providers' wires and misbehaves on demand.

The name of the model says what happens (`sim/cut@40+tokens@60`); see docs/simulator.md. It runs
as a process of its own and imports nothing of the gateway, so that it starts fast and runs anywhere.
"""
