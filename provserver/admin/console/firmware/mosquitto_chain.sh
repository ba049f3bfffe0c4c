# device.pem: the device's certificate and the intermediates above it; device.key: its private key. This enrolls it, too.
mosquitto_pub -h @HOST@ -p @PORT@@TLS@ --cert device.pem --key device.key -q 1 \
  -t v1/devices/me/telemetry -m '{"temperature":21.5}'
