# TOKEN: a device's token, as the factory has put it into the device.
token=${TOKEN:?the token of a device}
mosquitto_pub -h @HOST@ -p @PORT@@TLS@ -u "$token" -q 1 -t v1/devices/me/telemetry -m '{"temperature":21.5}'
