# A device in a shell, with the clients of mosquitto: what it keeps in flash is in files here. Run it as often as you like.
(
set -eu
umask 077
name=@NAME@
key=@KEY@
secret=@SECRET@
quoted() { printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g')"; }

if [ ! -s @FILE@.token ]; then
  # The nonce is saved before the question: when the answer is lost, the same question gets it again.
  [ -s @FILE@.nonce ] || od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >@FILE@.nonce
  request=$(printf '{"deviceName":%s,"provisionDeviceKey":%s,"provisionDeviceSecret":%s,"requestNonce":"%s"}' \
    "$(quoted "$name")" "$(quoted "$key")" "$(quoted "$secret")" "$(cat @FILE@.nonce)")
  mosquitto_rr -h @HOST@ -p @PORT@@TLS@ -u provision -q 1 -W 10 \
    -t /provision/request -e /provision/response -m "$request" >@FILE@.answer
  sed -n 's/.*"accessToken":"\([A-Za-z0-9._~-]*\)".*/\1/p' @FILE@.answer >@FILE@.token
fi
if [ ! -s @FILE@.token ]; then
  cat @FILE@.answer >&2 # why there is no token
  exit 1
fi
rm -f @FILE@.nonce @FILE@.answer

mosquitto_pub -h @HOST@ -p @PORT@@TLS@ -u "$(cat @FILE@.token)" -q 1 \
  -t v1/devices/me/telemetry -m '{"temperature":21.5}'
echo "$name has sent its first telemetry."
)
