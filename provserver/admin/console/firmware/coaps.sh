# A device in a shell, over DTLS with pre-shared keys: first the provision key's, then its own. Run it as often as you like.
(
set -eu
umask 077
server=@SERVER@
name=@NAME@
key=@KEY@
secret=@SECRET@
quoted() { printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g')"; }

if [ ! -s @FILE@.token ]; then
  # The nonce is saved before the question: when the answer is lost, the same question gets it again.
  [ -s @FILE@.nonce ] || od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >@FILE@.nonce
  printf '{"deviceName":%s,"requestNonce":"%s"}' "$(quoted "$name")" "$(cat @FILE@.nonce)" |
    coap-client-openssl -B 10 -u "$key" -k "$secret" -m post -t json -f - "$server/api/v1/provision" >@FILE@.answer 2>&1
  sed -n 's/.*"deviceId":"\([0-9a-f-]*\)".*/\1/p' @FILE@.answer >@FILE@.id
  sed -n 's/.*"accessToken":"\([A-Za-z0-9._~-]*\)".*/\1/p' @FILE@.answer >@FILE@.token
fi
if [ ! -s @FILE@.token ]; then
  cat @FILE@.answer >&2 # why there is no token
  exit 1
fi
rm -f @FILE@.nonce @FILE@.answer

coap-client-openssl -B 10 -u "$(cat @FILE@.id)" -k "$(cat @FILE@.token)" -m post -t json -e '{"temperature":21.5}' \
  "$server/api/v1/telemetry"
echo "$name has sent its first telemetry."
)
