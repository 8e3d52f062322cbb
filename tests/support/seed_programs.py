"""The programs of the REST API's description, to the letter."""

from __future__ import annotations

# What they name as their models.
CHAT_MODEL = "./dist/Llama-2-7b-chat-hf-q4f16_1-MLC/"
TOOLS_MODEL = "./dist/gorilla-openfunctions-v1-q4f16_1-MLC/"

WHOLE = """
import requests

# Get a response using a prompt without streaming
payload = {
   "model": "./dist/Llama-2-7b-chat-hf-q4f16_1-MLC/",
   "messages": [
      {"role": "user", "content": "Write a haiku about apples."},
   ],
   "stream": False,
   # "n": 1,
   "max_tokens": 300,
}
r = requests.post("http://127.0.0.1:8080/v1/chat/completions", json=payload)
choices = r.json()["choices"]
for choice in choices:
   print(f"{choice['message']['content']}\\n")
"""

STREAMED = """
import requests
import json

# Get a response using a prompt with streaming
payload = {
 "model": "./dist/Llama-2-7b-chat-hf-q4f16_1-MLC/",
 "messages": [{"role": "user", "content": "Write a haiku"}],
 "stream": True,
}
with requests.post("http://127.0.0.1:8080/v1/chat/completions", json=payload, stream=True) as r:
   for chunk in r.iter_content(chunk_size=None):
      chunk = chunk.decode("utf-8")
      if "[DONE]" in chunk[6:]:
         break
      response = json.loads(chunk[6:])
      content = response["choices"][0]["delta"].get("content", "")
      print(content, end="", flush=True)
print("\\n")
"""

MODELS = """
import requests

url = "http://127.0.0.1:8000/v1/models"
headers = {"accept": "application/json"}

response = requests.get(url, headers=headers)

if response.status_code == 200:
   print("Response:")
   print(response.json())
else:
   print("Error:", response.status_code)
"""

TOOLS = """
tools = [
   {
      "type": "function",
      "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
               "type": "object",
               "properties": {
                  "location": {
                        "type": "string",
                        "description": "The city and state, e.g. San Francisco, CA",
                  },
                  "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
               },
               "required": ["location"],
            },
      },
   }
]
"""
WHOLE_WITH_TOOLS = f"""
import requests
import json
{TOOLS}
payload = {{
   "model": "./dist/gorilla-openfunctions-v1-q4f16_1-MLC/",
   "messages": [
      {{
            "role": "user",
            "content": "What is the current weather in Pittsburgh, PA in fahrenheit?",
      }}
   ],
   "stream": False,
   "tools": tools,
}}

r = requests.post("http://127.0.0.1:8080/v1/chat/completions", json=payload)
print(f"{{r.json()['choices'][0]['message']['tool_calls'][0]['function']}}\\n")
"""
STREAMED_WITH_TOOLS = f"""
import requests
import json
{TOOLS}
payload = {{
   "model": "./dist/gorilla-openfunctions-v1-q4f16_1-MLC/",
   "messages": [
      {{
            "role": "user",
            "content": "What is the current weather in Pittsburgh, PA and Tokyo, JP in fahrenheit?",
      }}
   ],
   "stream": True,
   "tools": tools,
}}

with requests.post("http://127.0.0.1:8080/v1/chat/completions", json=payload, stream=True) as r:
 for chunk in r.iter_content(chunk_size=None):
     chunk = chunk.decode("utf-8")
     if "[DONE]" in chunk[6:]:
         break
     response = json.loads(chunk[6:])
     content = response["choices"][0]["delta"].get("content", "")
     print(f"{{content}}", end="", flush=True)
print("\\n")
"""


def at(program: str, url: str) -> str:
    """A program with the server's address in place of the one printed."""
    for port in (8000, 8080):
        program = program.replace(f"http://127.0.0.1:{port}", url)
    return program
