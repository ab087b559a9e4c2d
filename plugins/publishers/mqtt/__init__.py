"""MQTT: results as JSON with commands in, and Sparkplug B, each as a publisher of its own."""
