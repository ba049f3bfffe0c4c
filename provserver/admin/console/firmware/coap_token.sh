# TOKEN: a device's token, as the factory has put it into the device.
token=${TOKEN:?the token of a device}
client=$(command -v coap-client-notls || command -v coap-client-openssl || command -v coap-client)
"$client" -B 10 -m post -t json -e '{"temperature":21.5}' @SERVER@/api/v1/"$token"/telemetry
