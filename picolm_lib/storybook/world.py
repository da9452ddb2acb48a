"""The world of the Storybook: who lives in it, what they own, and where they go.

Everything here is a list of words with the few properties that the stories need, so that what is
drawn at random still fits together: a thing that gets lost can be carried, a thing that is shared
is a toy. Within a list every choice goes with every other one. Any toy can be any color, and any
name can belong to a child or an animal, so nobody can guess a fact of a story without reading it.
"""

from __future__ import annotations

from dataclasses import dataclass

# A name always has the same pronoun. No name is the beginning of another name or of another
# capitalized word ("Tim" rules out "Timmy", and "Time" at the beginning of a sentence).
SHE_NAMES = (
    "Lily", "Mia", "Anna", "Sue", "Lucy", "Sara", "Amy", "Jane", "Sally", "Lila", "Molly", "Mary",
    "Emma", "Bella", "Luna", "Polly", "Lisa", "Emily", "Kate", "Rosie", "Ella", "Lola", "Tina",
    "Alice",
)
HE_NAMES = (
    "Tom", "Ben", "Sam", "Max", "Tim", "Jack", "Leo", "Bob", "John", "Joe", "Jake", "Fred",
    "Peter", "Andy", "Henry", "Danny", "Toby", "Rex", "George", "Charlie", "Paul", "Ted", "Frank",
    "Billy",
)
NAMES = tuple((name, "she") for name in SHE_NAMES) + tuple((name, "he") for name in HE_NAMES)

PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}
CHILD = {"he": "boy", "she": "girl"}
ANIMALS = ("rabbit", "fox", "bear", "mouse", "cat", "dog", "duck", "squirrel", "frog", "turtle",
           "hedgehog", "pig", "monkey", "otter")

# Family members are told with the hero's pronoun ("her mom"), other grown-ups with "the".
ELDERS = (("mom", "she"), ("dad", "he"), ("grandma", "she"), ("grandpa", "he"))
HELPERS = (
    ("old farmer", "he"), ("old farmer", "she"), ("baker", "he"), ("baker", "she"),
    ("gardener", "he"), ("gardener", "she"), ("painter", "he"), ("painter", "she"),
    ("fisherman", "he"), ("old woman", "she"), ("old man", "he"), ("teacher", "she"),
)

TRAITS = ("kind", "cheerful", "clever", "curious", "friendly", "gentle", "happy", "helpful",
          "honest", "playful", "polite", "quiet", "smart", "thoughtful", "brave", "careful")
LIVELY = ("cheerful", "clever", "curious", "happy", "playful", "funny", "busy", "smart")
SHY = ("quiet", "gentle", "shy", "kind", "polite", "thoughtful", "careful", "sweet")

HOBBIES = ("sing songs", "draw pictures", "tell jokes", "pick flowers", "count the stars",
           "collect pretty stones", "chase butterflies", "dance in the rain", "jump in puddles",
           "watch the clouds", "tell stories", "eat berries", "listen to the birds",
           "walk in the woods", "ask questions", "help others")
DAYS = ("one day", "one day", "one day", "one sunny day", "one fine day", "one warm day",
        "one bright day", "one windy day", "one spring day", "one summer day", "one Sunday")
COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "brown", "black")


@dataclass(frozen=True)
class Thing:
    """Something that has a color. What one does with it: "loved to {use}", "took turns {using}"."""

    name: str
    use: str = ""
    using: str = ""


def _things(*names: str) -> tuple[Thing, ...]:
    return tuple(Thing(name) for name in names)


_BALL = Thing("ball", "bounce it", "bouncing it")
_KITE = Thing("kite", "fly it high", "flying it high")
_TRUCK = Thing("truck", "push it around", "pushing it around")
_DOLL = Thing("doll", "dress it up", "dressing it up")
_ROBOT = Thing("robot", "make it march", "making it march")
_PUPPET = Thing("puppet", "make it dance", "making it dance")
_DRUM = Thing("drum", "play it", "playing it")
_HAT = Thing("hat", "wear it", "wearing it")
_SCARF = Thing("scarf", "wear it", "wearing it")
_BAG = Thing("bag", "carry it around", "carrying it around")
_BLANKET = Thing("blanket", "wrap up in it", "wrapping up in it")

TOYS = (
    _BALL, _KITE, _TRUCK, _DOLL, _ROBOT, _PUPPET, _DRUM,
    Thing("train", "pull it along", "pulling it along"),
    Thing("hoop", "roll it", "rolling it"),
    Thing("plane", "make it fly", "making it fly"),
)
BREAKABLE = tuple(toy for toy in TOYS if toy is not _BALL)
CARRIED = (
    _BALL, _KITE, _TRUCK, _DOLL, _ROBOT, _PUPPET, _HAT, _SCARF, _BAG,
    Thing("cap", "wear it", "wearing it"),
    Thing("book", "read it", "reading it"),
    Thing("cup", "drink from it", "drinking from it"),
    Thing("ring", "wear it", "wearing it"),
    Thing("whistle", "blow it", "blowing it"),
    Thing("bucket", "fill it with stones", "filling it with stones"),
    Thing("umbrella", "twirl it", "twirling it"),
)
HANDMADE = (
    _KITE, _DOLL, _PUPPET, _DRUM, _HAT, _SCARF, _BAG, _BLANKET,
    Thing("mask", "wear it", "wearing it"),
    Thing("pillow", "hug it", "hugging it"),
    Thing("necklace", "wear it", "wearing it"),
)
LENT = (
    _KITE, _DRUM, _PUPPET, _HAT, _SCARF, _BLANKET,
    Thing("book", "read it", "reading it"),
    Thing("game", "play with it", "playing with it"),
    Thing("basket", "carry it", "carrying it"),
)
CLOTHES = _things("coat", "sweater", "shirt", "jacket", "vest")
LONG_THINGS = _things("rope", "scarf", "blanket", "towel", "belt")
PRIZES = _things("medal", "ribbon", "cup", "flag", "balloon", "crown")
POTS = _things("pot", "pan", "dish", "kettle")
FRAGILE = _things("vase", "cup", "plate", "jar", "lamp", "bowl", "clock", "teapot")
PLANTERS = _things("pot", "bucket", "box", "bowl", "cup", "tub")
HOUSE_PARTS = _things("door", "roof", "gate", "fence", "chimney", "mailbox")
LIGHTS = _things("lamp", "lantern", "flashlight", "nightlight")
BANDAGES = _things("ribbon", "cloth", "scarf", "handkerchief", "bandana", "napkin")
PET_WEAR = _things("collar", "ribbon", "bow", "bell", "scarf", "tag")
COVERS = _things("umbrella", "blanket", "cape", "towel", "raincoat")
TOPPERS = _things("flag", "feather", "balloon", "scarf", "hat", "ribbon")
LUCKY = _things("cap", "ribbon", "badge", "ring", "bracelet", "necklace")


@dataclass(frozen=True)
class Place:
    """A place outdoors, its preposition ("at the park"), and spots where one could sit or hide."""

    name: str
    prep: str
    spots: tuple[str, ...]


PLACES = (
    Place("park", "at", ("under a bench", "behind a big tree", "next to the fountain")),
    Place("beach", "at", ("behind a big rock", "under an old boat", "next to a sandcastle")),
    Place("farm", "at", ("behind the barn", "next to the gate", "beside a stack of hay")),
    Place("lake", "at", ("behind the reeds", "under a willow tree", "next to a flat rock")),
    Place("playground", "at", ("under the slide", "behind the swings", "next to the sandbox")),
    Place("market", "at", ("behind a cart", "under a table", "next to a pile of pumpkins")),
    Place("garden", "in", ("under a rose bush", "behind the shed", "next to the flowers")),
    Place("forest", "in", ("under an oak tree", "behind an old log", "beside a mossy rock")),
    Place("meadow", "in", ("in the tall grass", "under a lonely tree", "behind a stone wall")),
    Place("yard", "in", ("under the porch", "behind the shed", "beside a pile of wood")),
    Place("orchard", "in", ("under an apple tree", "behind a ladder", "next to a basket of pears")),
    Place("field", "in", ("behind a bale of straw", "next to an old fence", "in the tall corn")),
)
# Nobody gets lost in the yard, and nobody runs a race between the tables of a market.
FAR_PLACES = tuple(p for p in PLACES if p.name not in ("yard", "garden", "playground"))
WIDE_PLACES = tuple(p for p in PLACES if p.name not in ("yard", "garden", "market"))
