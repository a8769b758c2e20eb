"""gatewayz: one endpoint in front of every model provider, configured by YAML."""

__version__ = "0.1.0"
