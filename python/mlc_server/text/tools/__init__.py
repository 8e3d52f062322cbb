"""Tool calls as text: how models are told of tools, how they write calls, how those are read."""
