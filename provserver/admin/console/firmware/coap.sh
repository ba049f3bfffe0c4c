# A device in a shell, with libcoap's client: what it keeps in flash is in files here. Run it as often as you like.
(
set -eu
umask 077
client=$(command -v coap-client-notls || command -v coap-client-openssl || command -v coap-client)
server=@SERVER@
name=@NAME@
key=@KEY@
secret=@SECRET@
quoted() { printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g')"; }

if [ ! -s @FILE@.token ]; then
  # The nonce is saved before the question: when the answer is lost, the same question gets it again.
  [ -s @FILE@.nonce ] || od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >@FILE@.nonce
  printf '{"deviceName":%s,"provisionDeviceKey":%s,"provisionDeviceSecret":%s,"requestNonce":"%s"}' \
    "$(quoted "$name")" "$(quoted "$key")" "$(quoted "$secret")" "$(cat @FILE@.nonce)" |
    "$client" -B 10 -m post -t json -f - "$server/api/v1/provision" >@FILE@.answer 2>&1
  sed -n 's/.*"accessToken":"\([A-Za-z0-9._~-]*\)".*/\1/p' @FILE@.answer >@FILE@.token
fi
if [ ! -s @FILE@.token ]; then
  cat @FILE@.answer >&2 # why there is no token
  exit 1
fi
rm -f @FILE@.nonce @FILE@.answer

"$client" -B 10 -m post -t json -e '{"temperature":21.5}' "$server/api/v1/$(cat @FILE@.token)/telemetry"
echo "$name has sent its first telemetry."
)
