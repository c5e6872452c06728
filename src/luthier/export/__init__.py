"""A finished run for the world outside: merged weights, GGUF, Ollama, a folder for the hub; each one proven."""
