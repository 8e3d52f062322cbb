"""The OpenAI dialect: request models, response bytes, error bodies. Knows no engine, no HTTP."""
