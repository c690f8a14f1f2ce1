"""One STS3215 servo: its control table, and what its registers mean for the joint.

    encoder = zero + angle · 4096/2π          0 … 4095, wraps
    Present_Position = encoder − Homing_Offset

Addresses are LeRobot's (`lerobot.motors.feetech.tables`); numbers are little-endian, negative ones sign and magnitude.
"""

import math

from lerobot.motors.encoding_utils import decode_sign_magnitude, encode_sign_magnitude
from lerobot.motors.feetech.tables import MODEL_NUMBER_TABLE, STS_SMS_SERIES_CONTROL_TABLE

__all__ = ["RESOLUTION", "Servo"]

RESOLUTION = 4096
MIDDLE = RESOLUTION // 2 - 1  # where LeRobot's calibration puts the middle of a range
TABLE_SIZE = 128
OFFSET_SIGN, POSITION_SIGN = 11, 15
FACTORY = {
    "Firmware_Major_Version": 3, "Firmware_Minor_Version": 10, "Model_Number": MODEL_NUMBER_TABLE["sts3215"],
    "Return_Delay_Time": 250, "Response_Status_Level": 1, "Max_Position_Limit": RESOLUTION - 1,
    "Max_Temperature_Limit": 70, "Max_Voltage_Limit": 140, "Min_Voltage_Limit": 40, "Max_Torque_Limit": 1000,
    "Phase": 12, "P_Coefficient": 32, "D_Coefficient": 32, "Torque_Limit": 1000, "Present_Voltage": 121,
    "Present_Temperature": 31, "Lock": 1,
}  # fmt: skip
# Not to be written: firmware and model, and what is measured, up to the current.
READ_ONLY = {*range(5), *range(STS_SMS_SERIES_CONTROL_TABLE["Present_Position"][0], 71)}


class Servo:
    """A servo as it answers on the bus.

    Args:
        number: its ID, 1 to 253.
        zero: encoder value where the joint's angle is 0, in [0, 4096).
        angle: of the joint, in rad.
    """

    def __init__(self, number: int, zero: int, angle: float = 0.0):
        self.zero = zero
        self.table = bytearray(TABLE_SIZE)
        for name, value in FACTORY.items() | {("ID", number)}:
            self.set(name, value)
        self.measure(angle)

    def __getitem__(self, name: str) -> int:
        """The number in a register."""
        address, length = STS_SMS_SERIES_CONTROL_TABLE[name]
        return int.from_bytes(self.table[address : address + length], "little")

    def set(self, name: str, value: int) -> None:
        """Put a number into a register, fixed ones too."""
        address, length = STS_SMS_SERIES_CONTROL_TABLE[name]
        self.table[address : address + length] = value.to_bytes(length, "little")

    def calibrate(self, range_min: int, range_max: int) -> None:
        """Store the calibration that puts the angle 0 at `MIDDLE`, as LeRobot's own calibration does."""
        self.set("Homing_Offset", encode_sign_magnitude(self.zero - MIDDLE, OFFSET_SIGN))
        self.set("Min_Position_Limit", range_min)
        self.set("Max_Position_Limit", range_max)

    @property
    def homing_offset(self) -> int:
        return decode_sign_magnitude(self["Homing_Offset"], OFFSET_SIGN)

    def read(self, address: int, length: int) -> bytes | None:
        """`length` bytes from `address` on; None where there are none."""
        end = address + length
        return bytes(self.table[address:end]) if length > 0 and end <= TABLE_SIZE else None

    def write(self, address: int, data: bytes) -> bool:
        """Write to the table; what is read-only stays. False where there is nothing to write to."""
        if not data or address + len(data) > TABLE_SIZE:
            return False
        was_enabled = self.torque_enabled
        for i, byte in enumerate(data, start=address):
            if i not in READ_ONLY:
                self.table[i] = byte
        if self.torque_enabled and not was_enabled:  # it holds where it is, until it is sent elsewhere
            self.set("Goal_Position", self["Present_Position"])
        self.measure(self._angle)  # by what is now the offset
        return True

    @property
    def torque_enabled(self) -> bool:
        return self["Torque_Enable"] == 1

    @property
    def goal(self) -> float:
        """The angle it is sent to, in rad, within its position limits."""
        position = decode_sign_magnitude(self["Goal_Position"], POSITION_SIGN)
        low, high = self["Min_Position_Limit"], self["Max_Position_Limit"]
        position = min(max(position, low), high) if low < high else position
        turn = (position + self.homing_offset - self.zero) % RESOLUTION
        return self._to_angle(turn)

    @staticmethod
    def _to_angle(ticks: int) -> float:
        half = RESOLUTION // 2
        return ((ticks + half) % RESOLUTION - half) * 2 * math.pi / RESOLUTION

    def measure(self, angle: float) -> None:
        """Let the encoder read the joint's `angle`, in rad."""
        self._angle = angle
        self.set("Present_Position", self.position_of(angle))

    def position_of(self, angle: float) -> int:
        """`angle`, in rad, as the servo counts positions, in [0, 4096)."""
        return (round(self.zero + angle * RESOLUTION / (2 * math.pi)) - self.homing_offset) % RESOLUTION
