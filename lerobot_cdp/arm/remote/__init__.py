"""`cdp-policy-server` and `cdp-robot-client`: LeRobot's async inference, by a server that runs no client's code.

pickles      read a pickle without running it
messages     what LeRobot's client sends, and nothing else
access       who may connect
server       one client at a time
client       LeRobot's client, with the token
"""
