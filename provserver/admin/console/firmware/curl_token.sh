# TOKEN: a device's token, as the factory has put it into the device.
token=${TOKEN:?the token of a device}
curl -sS -f@TLS@ -H 'Content-Type: application/json' -d '{"temperature":21.5}' @SERVER@/api/v1/"$token"/telemetry
