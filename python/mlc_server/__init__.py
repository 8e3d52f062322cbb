"""An OpenAI-compatible LLM server that compiles its own kernels for the machine it runs on."""

__version__ = "0.1.0"
