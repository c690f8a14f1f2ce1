"""Commands around an arm.

twin             `cdp-twin`: a simulated SO-101 on a serial line
torque_off       `cdp-torque-off`: let every servo go
policy_server    `cdp-policy-server`: async inference for `cdp`, in LeRobot's protocol
robot_client     `cdp-robot-client`: LeRobot's client for it, with a token
remote           what these two are made of
"""
