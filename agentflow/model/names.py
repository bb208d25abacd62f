"""Readable names of runs that nobody named: an adjective and an animal, a function of the run's id."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

_ADJECTIVES = (
    "able agile alert amber ample apt arctic azure bold brave brisk bright calm candid careful cheerful "
    "clear clever cosy crisp curious daring deft eager early easy exact fair famous fine firm fleet fond "
    "frank free fresh gentle glad golden good grand happy hardy honest humble idle jolly keen kind lively "
    "loyal lucid lucky mellow merry mild modest neat nimble noble open patient placid plain polite prompt "
    "proud quick quiet rapid ready robust rosy sage serene sharp silent silver smart snug sober solid "
    "steady still sturdy subtle sunny sure swift tidy tranquil true trusty upbeat vivid warm wary wise "
    "witty zesty"
)
_ANIMALS = (
    "adder albatross alpaca ant antelope badger bat bear beaver bee bison boar buffalo camel cat cheetah "
    "cobra condor cormorant cow crab crane cricket crow deer dingo dog dolphin donkey dove duck eagle eel "
    "egret elk falcon ferret finch fox frog gazelle gecko gibbon goat goose gopher grouse gull hare hawk "
    "hedgehog heron hornet horse ibex ibis iguana jackal jaguar kestrel kiwi koala lark lemur leopard "
    "lion lizard llama lobster lynx magpie marmot marten mole moose moth mouse mule newt octopus okapi "
    "oriole osprey otter owl ox panda parrot pelican penguin pigeon plover pony puffin puma quail rabbit "
    "raven robin salmon seal shrew skunk sloth snail sparrow spider squid stork swan tapir tiger toad "
    "trout turtle viper vole walrus wasp weasel whale wolf wombat wren yak zebra"
)


@functools.cache
def _words() -> tuple[Sequence[str], Sequence[str]]:
    return _ADJECTIVES.split(), _ANIMALS.split()


def readable_name(run_id: str) -> str:
    """A name for the run of that id, such as ``brisk-otter``; several runs may have the same one."""
    number = int.from_bytes(hashlib.blake2b(run_id.encode(), digest_size=8).digest())
    adjectives, animals = _words()
    return f"{adjectives[number % len(adjectives)]}-{animals[number // 1000 % len(animals)]}"
