"""The messages between cameras, host and subscribers, as bytes and as values: `docs/protocol.md`. No socket here."""
