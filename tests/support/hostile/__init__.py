"""Requests nobody should send, by the thousand: see requests.py."""
