"""Simulated devices: an independent peer of the provisioning server that shares no code with it."""
