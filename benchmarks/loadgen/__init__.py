"""A load generator for OpenAI-compatible servers that costs next to nothing while it measures.

response.py  HTTP/1.1 and server-sent events, decoded after the run
client.py    a keep-alive connection on a raw socket; only stores what arrives, and when
results.py   one exchange -> times and token counts
prompts.py   texts of an exact number of tokens
schedule.py  when requests are sent
metrics.py   percentiles, goodput, the summary of a run
load.py      closed and open loop over the above
"""
