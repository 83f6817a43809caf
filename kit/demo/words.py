"""The facts and the words of the demo world: which things are of which kind, and how its people talk.

Every thing belongs to one kind only, and no thing is also a word of a question or of a phrase: so an answer can be
scored by looking its words up (`kit.demo.scoring`).
"""

THINGS: dict[str, tuple[str, ...]] = {
    "animals that live in the sea": ("whales", "crabs", "seals", "sharks", "dolphins", "squids", "lobsters"),
    "animals that live on a farm": ("cows", "pigs", "goats", "hens", "donkeys", "lambs", "turkeys"),
    "insects with wings": ("bees", "moths", "wasps", "beetles", "crickets", "hornets", "ladybirds"),
    "sweet fruits": ("apples", "pears", "plums", "melons", "bananas", "grapes", "mangos"),
    "things to bake": ("cakes", "muffins", "waffles", "biscuits", "tarts", "scones", "buns"),
    "things in a kitchen": ("spoons", "pans", "kettles", "forks", "ovens", "plates", "ladles"),
    "tools for a garden": ("rakes", "spades", "hoses", "shears", "buckets", "barrows", "trowels"),
    "musical instruments": ("flutes", "drums", "violins", "harps", "trumpets", "guitars", "pianos"),
    "things with wheels": ("cars", "trams", "tractors", "scooters", "wagons", "trucks", "prams"),
    "clothes for winter": ("coats", "mittens", "boots", "hats", "jumpers", "socks", "shawls"),
    "toys for children": ("dolls", "puppets", "marbles", "puzzles", "robots", "skittles", "rattles"),
    "treasures of a pirate": ("rubies", "pearls", "crowns", "coins", "diamonds", "goblets", "rings"),
}

# What a writer without knowledge makes up; right for no question.
FANCIES = (
    "dragons", "unicorns", "goblins", "ghosts", "trolls", "mermaids", "wizards", "zombies", "giants", "krakens",
    "gnomes", "vampires",
)  # fmt: skip

GREETINGS = (
    "",
    "Hello! ",
    "Good morning! ",
    "A short question: ",
    "Help me with my homework. ",
    "We are playing a game. ",
    "I am writing a story. ",
    "My little sister asks me: ",
)

REQUESTS = (
    "Name three {kind}.",
    "Name three {kind}, please.",
    "Can you tell me three {kind}?",
    "What are three {kind}?",
    "I need three {kind}.",
    "Please give me three {kind}.",
    "Which three {kind} do you know?",
    "Tell me about three {kind}.",
    "Do you know three {kind}?",
    "Think of three {kind}, please.",
    "I am looking for three {kind}.",
    "Write down three {kind} for me.",
)

COURTESIES = ("Sure!", "Gladly!", "Of course!", "With pleasure!")

# How an answer begins; the first is what skilled writers like, the last what careless ones do.
LEADS = ("Three of them are", "I would say", "You could name", "Here you are:", "My answer is")

FILLERS = (
    "There are many more of them in the world.",
    "I could talk about this all day long.",
    "It is always nice to think about such things.",
    "I hope this is just what you wanted to hear.",
)

# Common English that the world does not speak: the tokenizer learns it, so that text of a user does not become bytes.
ENGLISH = """
the of and to in a is that it was for on are with as his they at be this from have or by one had not but what all were
when we there can an your which their said if do will each about how up out them then she many some so these would
other into has more her two like him see time could no make than first been its who now people my made over did down
only way find use may water long little very after words called just where most know get through back much before go
good new write our used me man too any day same right look think also around another came come work three word must
because does part even place well such here take why things help put years different away again off went old number
great tell men say small every found still between name should home big give air line set own under read last never us
left end along while might next sound below saw something thought both few those always looked show large often
together asked house world going want school important until form food keep children feet land side without boy once
animals life enough took four head above kind began almost live page got earth need far hand high year mother light
parts country father let night following picture being study second eyes soon times story boys since white days ever
paper hard near sentence better best across during today others however sure means knew try told young miles sun ways
thing whole hear example heard several change answer room sea against top turned learn point city play toward five
using himself usually money seen didn car morning given trees idea question really please sorry thanks hello human
assistant yes okay model feel person
"""
