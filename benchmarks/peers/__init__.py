"""Two servers measured side by side.

processes.py    servers and workers as child processes
contestants.py  how each contestant is started: ours, and llama.cpp with one model file
session.py      the workloads, contestants taking turns
comparison.py   samples -> rows with ratios and targets
compare_report.py  those as tables and as a page with plots
"""
