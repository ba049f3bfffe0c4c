import itertools

from firmware_sim.access_point_name import (
    EDGENT_ALPHABET,
    classic_name,
    edgent_name,
    esp32_fuses,
    host_name,
    suffix,
)

MAC = bytes.fromhex("FFEEDDCCBBAA")  # whose fuses, read as a number, are 0xAABBCCDDEEFF


def test_the_suffix_of_the_known_chip() -> None:
    assert suffix(esp32_fuses(MAC)) == "8DCF"
    assert suffix((0xAABBCCDDEEFF).to_bytes(8, "little")) == "8DCF"


def test_no_two_neighbours_are_alike() -> None:
    for number in range(3000):
        own = suffix(esp32_fuses(number.to_bytes(6, "big")), EDGENT_ALPHABET)
        assert len(own) == 4
        assert set(own) <= set(EDGENT_ALPHABET)
        assert all(a != b for a, b in itertools.pairwise(own))


def test_a_classic_name_is_31_characters_at_most() -> None:
    assert classic_name("Blynk", "Garage", MAC) == "Blynk Garage-8DCF"
    name = classic_name("Blynk", "An extraordinarily long name of a product", MAC)
    assert name == "Blynk An extraordinarily l-8DCF"
    assert len(name) == 31


def test_a_new_name_is_29_bytes_at_most() -> None:
    assert edgent_name("Blynk", "Garage", MAC) == "Blynk Garage-8DCF"
    assert edgent_name("Blynk", "Blynk", MAC) == "Blynk-8DCF"
    name = edgent_name("Blynk", "An extraordinarily long name of a product", MAC)
    assert name == "Blynk An extraordinarily-8DCF"
    assert len(name) == 29
    assert edgent_name("V" * 40, "Product", MAC) == "V" * 29
    assert edgent_name("V" * 27, "Product", MAC) == "V" * 27 + "-8"


def test_a_router_sees_no_blanks() -> None:
    assert host_name("Blynk Garage-8DCF") == "Blynk-Garage-8DCF"
