"""The wires other than OpenAI's oldest: one module each, which reads into an Ask and writes from its choices."""
