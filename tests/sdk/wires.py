"""The shipped provider of each wire format, played by the simulator."""

from collections.abc import Mapping

# What is laid over a shipped provider's file so that it is the simulator that answers.
_LAID_OVER = """
provider: NAME
CHANGES
auth: {bearer: key-of-NAME, header: null, sigv4: null, google_service_account: null}
allow_private: true
passthrough: true
unknown_price: free
"""
_CHANGES: Mapping[str, str] = {
    "chat": "extends: openai\nbase_url: URL/v1\nalso: null",
    "responses": "extends: openai\nformat: openai-responses\nbase_url: URL/v1\nalso: null\nendpoints: null",
    "messages": "extends: anthropic\nbase_url: URL",
    "gemini": "extends: google-gemini\nbase_url: URL/v1beta",
    "converse": "extends: aws-bedrock\nbase_url: URL",
    "cohere": "extends: cohere\nbase_url: URL",
    "ollama": "extends: ollama\nbase_url: URL",
    "vertex-gemini": "extends: google-vertex\nbase_url: URL/v1/projects/p/locations/l\n"
    "variables: {project: p, location: l}",
    "vertex-claude": "extends: google-vertex-anthropic\nbase_url: URL/v1/projects/p/locations/l\n"
    "variables: {project: p, location: l}",
}
WIRES = tuple(_CHANGES)
# Providers that know no chat.
_OTHERS: Mapping[str, str] = {
    "voyage": "extends: voyage\nbase_url: URL/voyage/v1",
    "jina": "extends: jina\nbase_url: URL/jina/v1",
}
COUNTING = ("messages", "gemini", "vertex-gemini", "vertex-claude")
EMBEDDING = ("chat", "gemini", "cohere", "ollama", "vertex-gemini", "voyage", "jina")
RANKING = ("cohere", "voyage", "jina")


def write_providers(url: str) -> dict[str, str]:
    """A file for each wire, by its path."""
    return {
        f"providers.d/{name}.yaml": _LAID_OVER.replace("CHANGES", changes)
        .replace("NAME", name)
        .replace("URL", url)
        for name, changes in {**_CHANGES, **_OTHERS}.items()
    }
