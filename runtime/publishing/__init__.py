"""Results out to PLC and MES, triggers and recipes in: publishers, each a plugin in a process of its own."""
