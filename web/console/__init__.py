"""The console proxy: browsers' WebSockets on one side, guests' VNC and serial ports on the other.

server.py      the process: it waits with next to nothing in memory, and serves once somebody comes
proxy.py       HTTP and WebSockets, by websockify; noVNC's files
admission.py   who is let in: Origin, token, how many; the only part that reads rows
sessions.py    what is open, and the end of what must not be any more
target.py      the way to a guest's port, on this machine or over ssh; that it is that guest's
"""
