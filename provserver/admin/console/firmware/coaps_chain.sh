# device.pem: the device's certificate (libcoap sends no intermediates); device.key: its private key. This enrolls it, too.
coap-client-openssl -B 10 -c device.pem -j device.key -C @CA@ -m post -t json -e '{"temperature":21.5}' \
  @SERVER@/api/v1/telemetry
