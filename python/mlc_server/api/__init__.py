"""The HTTP side: routes, streaming and error responses over an engine handed in from outside."""
