"""Modbus TCP: results and the handshake of a PLC in 40 + 21 registers."""
