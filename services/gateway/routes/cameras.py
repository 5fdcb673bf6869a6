"""What is refused of a camera's address, and how its credentials leave."""

from services.gateway.addresses import Address, Credentials
from services.gateway.parts import Parts
from services.gateway.problems import invalid


def refuse_network(parts: Parts, pointer: str, place: Address) -> None:
    """Raises Problem (422)."""
    if not parts.networks.allow(place.host):
        raise invalid(pointer, "is in a network where cameras may not be")


def sealed(parts: Parts, id: str, place: Address, credentials: Credentials) -> str:
    """For this stream, or probe, at this place only. Raises Problem (422), NoSealingKey."""
    if place.scheme == "file":
        raise invalid("/username", "a file needs no credentials")
    return parts.seal.sealed(id, place, credentials)
