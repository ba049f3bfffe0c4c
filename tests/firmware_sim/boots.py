"""Firmware that was just switched on, and what it does when nobody does anything."""

from firmware_sim.board import Board, Generation
from firmware_sim.config_store import Config
from firmware_sim.edgent_state import Edgent, Entered, Restart, State
from firmware_sim.generations import firmware
from firmware_sim.wifi_networks import Fault, Network, Networks

MAC = bytes.fromhex("FFEEDDCCBBAA")
TOKEN, OTHER = "a" * 32, "b" * 32
GOOD = {"if": "wifi", "ssid": "Home", "pass": "p", "blynk": TOKEN, "host": "h", "port_ssl": "9443"}
AROUND = Networks(
    [Network("Home", password="p"), *(Network(fault, password="p", fault=fault) for fault in Fault if fault != "none")]
)


def board(generation: Generation) -> Board:
    return Board(MAC, "TMPL1", "Garage", generation)


def booted(generation: Generation, flash: Config | None = None) -> Edgent:
    return firmware(board(generation), flash or Config(), AROUND)


def is_in(edgent: Edgent, state: State) -> bool:
    return edgent.state is state


def passed(edgent: Edgent, until: float) -> list[tuple[float, State]]:
    """The states that were entered, and when, if nobody does anything."""
    entered: list[tuple[float, State]] = []
    edgent.effects = [effect for effect in edgent.effects if not isinstance(effect, Entered)]
    while edgent.due is not None and edgent.due <= until:
        due = edgent.due
        edgent.tick(due)
        entered += [(round(due, 3), effect.state) for effect in edgent.effects if isinstance(effect, Entered)]
        if any(isinstance(effect, Restart) for effect in edgent.effects):
            break
        edgent.effects = [effect for effect in edgent.effects if not isinstance(effect, Entered)]
    return entered
