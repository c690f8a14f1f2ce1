"""Commands around an arm.

twin             `cdp-twin`: a simulated SO-101 on a serial line
torque_off       `cdp-torque-off`: let every servo go
policy_server    `cdp-policy-server`: LeRobot's asynchronous server, for `cdp` as well
"""
