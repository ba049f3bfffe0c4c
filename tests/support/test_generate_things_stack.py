"""What is extracted of an API: from a repository made here, and that the extract in the tree is as it was written."""

import json
import subprocess
from pathlib import Path

from tests.support.generate_things_stack import extract, written

_PROTO = """
// message Nothing { string name = 1; }
message EndDevice {
  option (thethings.flags.message) = { select: true, set: true };
  EndDeviceIdentifiers ids = 1 [(validate.rules).message.required = true, (x.y) = { hidden: true }];
  string name = 4 [deprecated = true, (validate.rules).string.max_len = 50]; /* [ */
  map<string, string> attributes = 6 [(validate.rules).map = {
    max_pairs: 10,
    keys: { string: { pattern: "^[a-z]{2,}$", max_len: 36 } },
    values { string: { max_len: 200 } }
  }];
  MACVersion lorawan_version = 15 [(validate.rules).enum.defined_only = true];
}
message EndDeviceIdentifiers {
  bytes dev_eui = 4 [
    (validate.rules).bytes = { len: 8, ignore_empty: true },
    (thethings.json.field) = { unmarshaler_func: "example.org/pkg/types.Unmarshal8Bytes" }
  ];
  repeated string tags = 5;
}
"""

_SWAGGER = {
    "definitions": {
        "v3Right": {"enum": ["RIGHT_USER_INFO", "RIGHT_APPLICATION_INFO"]},
        "v3EndDevice": {
            "properties": {
                "ids": {"$ref": "#/definitions/v3EndDeviceIdentifiers"},
                "name": {"type": "string"},
                "attributes": {"type": "object", "additionalProperties": {"type": "string"}},
                "lorawan_version": {"$ref": "#/definitions/v3MACVersion"},
                "mac_state": {"$ref": "#/definitions/v3MACState"},
                "created_at": {"type": "string", "format": "date-time"},
                "min_frequency": {"type": "string", "format": "uint64"},
            }
        },
        "v3EndDeviceIdentifiers": {
            "properties": {
                "dev_eui": {"type": "string", "format": "string"},
                "tags": {"type": "array", "items": {"type": "string"}},
            }
        },
        "v3MACVersion": {"enum": ["MAC_UNKNOWN", "MAC_V1_0"]},
        "v3MACState": {"properties": {}},
    }
}

_GO = """
var isWrite = []string{
    "name",
    "attributes",
}
    "/ttn.lorawan.v3.EndDeviceRegistry/Get": {
        All: All,
        Allowed: []string{
            "ids.dev_eui",
            "mac_state.lorawan_version",
        },
    },
    "/ttn.lorawan.v3.EndDeviceRegistry/Update": {
        All: All,
        Allowed: isWrite[:],
        Set: true,
    },
"""


def test_an_extract(tmp_path: Path) -> None:
    api = tmp_path / "api/ttn/lorawan/v3"
    api.mkdir(parents=True)
    (api / "end_device.proto").write_text(_PROTO)
    (api / "api.swagger.json").write_text(json.dumps(_SWAGGER))
    masks = tmp_path / "pkg/ttnpb/field_mask_validation.go"
    masks.parent.mkdir(parents=True)
    entry = _GO[_GO.index('    "/ttn') :]
    masks.write_text(
        _GO + "".join(entry.replace("v3.End", f"v3.{each}End").replace("Update", "Set") for each in ("Js", "Ns", "As"))
    )
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "api"]):
        subprocess.run([*git, *command], check=True)
    made = extract(tmp_path)
    assert made["rights"] == ["RIGHT_APPLICATION_INFO"]
    assert made["enums"] == {"MACVersion": ["MAC_UNKNOWN", "MAC_V1_0"]}
    assert made["masks"] == {
        component: {"get": ["ids.dev_eui"], "set": ["attributes", "name"]} for component in ("is", "js", "ns", "as")
    }
    string = {"kind": "string"}
    assert made["messages"] == {
        "EndDevice": {
            "ids": {"kind": "message", "of": "EndDeviceIdentifiers", "rules": {"message": {"required": True}}},
            "name": string | {"rules": {"string": {"max_len": 50}}},
            "attributes": {
                "kind": "map",
                "of": string,
                "rules": {
                    "map": {
                        "max_pairs": 10,
                        "keys": {"string": {"pattern": "^[a-z]{2,}$", "max_len": 36}},
                        "values": {"string": {"max_len": 200}},
                    }
                },
            },
            "lorawan_version": {"kind": "enum", "of": "MACVersion", "rules": {"enum": {"defined_only": True}}},
            "created_at": {"kind": "time"},
            "min_frequency": {"kind": "integer"},
        },
        "EndDeviceIdentifiers": {
            "dev_eui": {"kind": "hex", "bytes": 8, "rules": {"bytes": {"len": 8, "ignore_empty": True}}},
            "tags": {"kind": "list", "of": string},
        },
    }
    assert json.loads(written(made)) == made


def test_the_extract_in_the_tree_is_as_it_was_written() -> None:
    text = Path(__file__).with_name("things_stack.json").read_text()
    assert written(json.loads(text)) == text
