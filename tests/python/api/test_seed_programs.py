"""The programs of the REST API's description that use no tools, as printed there apart from port
and model."""

from __future__ import annotations

import pytest

from support.http_server import MODEL_PATH, live_server

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


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (WHOLE, "An apple a day\n\n"),
        (STREAMED, "An apple a day\n\n"),
        (MODELS, "Response:\n{'object': 'list', 'data': [{'id': 'test-model'"),
    ],
    ids=["whole", "streamed", "models"],
)
def test_program_runs_as_printed(
    program: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with live_server() as (server, _):
        for port in ("8080", "8000"):
            program = program.replace(f"127.0.0.1:{port}", f"127.0.0.1:{server.port}")
        program = program.replace("./dist/Llama-2-7b-chat-hf-q4f16_1-MLC/", MODEL_PATH)
        exec(compile(program, "seed program", "exec"), {})
    assert capsys.readouterr().out.startswith(printed)
