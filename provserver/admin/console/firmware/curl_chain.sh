# device.pem: the device's certificate and the intermediates above it; device.key: its private key. This enrolls it, too.
curl -sS -f@TLS@ --cert device.pem --key device.key \
  -H 'Content-Type: application/json' -d '{"temperature":21.5}' @SERVER@/api/v1/telemetry
