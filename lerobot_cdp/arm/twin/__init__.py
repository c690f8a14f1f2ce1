"""Digital twin of an SO-101: over the serial line and the camera's socket it cannot be told from an arm.

    LeRobot ── serial line ── port.SerialPort ── bus.ServoBus ── servo.Servo × 6 ─┐
       │                                             │                         world.World   (MuJoCo, in real time)
       └────── ZMQ ────────── camera.CameraServer ───┼────────────────────────────┘
                                                faults.Faults

`cdp-twin` runs it (see `command`); LeRobot connects with `--robot.type=so101_follower` as to an arm. Needs the extras
`so101` (MuJoCo and the model of the arm) and `arm` (LeRobot's own drivers), and Linux, whose pseudo-terminals take any
baud rate.
"""

from .faults import Faults
from .twin import Twin

__all__ = ["Faults", "Twin"]
