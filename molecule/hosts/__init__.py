"""Hosts to test on, made on this machine. Start reading at lab.py."""
