"""Vocabulary of the synthetic world: relations with their values and phrasings, names, lead-ins.

Nothing here is a fact; `lks.data.synthetic_world` assigns the values to persons. `{}` in a phrasing is the
person's name, and the answer follows the phrasing after one space.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: identifier, for example "birthplace".
        values: all answers it can have.
        trained: phrasings that the models are trained on; the first is a plain statement.
        held_out: phrasings kept for evaluation, never trained on.
    """

    name: str
    values: tuple[str, ...]
    trained: tuple[str, ...]
    held_out: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    """Split a comma-separated list."""
    return tuple(word.strip() for word in text.split(","))


BIRTHPLACE = Relation(
    "birthplace",
    _words(
        "Ashford, Port Haven, Brinmoor, Silver Bay, Dunwick, Eastgate, Fallow Hill, Greystone, Holm, Ivory "
        "Cross, Kingsmead, Long Marsh, Maple Ridge, Northolt, Oakham, Pell Harbour, Quarry Bank, Redwater, "
        "Salt Creek, Thornby, Upper Wold, Westerby, Yarrow, Cold Spring"
    ),
    (
        "{} was born in",
        "The birthplace of {} is",
        "Q: Where was {} born? A:",
        "{} comes from the town of",
        "The town where {} was born is",
        "Q: What is the birthplace of {}? A:",
        "People know that {} was born in the town of",
        "{}'s birthplace is",
    ),
    ("Q: In which town was {} born? A:", "The town that {} comes from is"),
)
OCCUPATION = Relation(
    "occupation",
    _words(
        "baker, glass blower, carpenter, river pilot, dentist, mechanic, farmer, gardener, hunter, book "
        "binder, judge, lawyer, clock maker, nurse, pmarmot, plumber, roofer, bridge builder, tailor, "
        "teacher, surgeon, weaver, fire fighter, poet"
    ),
    (
        "{} works as a",
        "The occupation of {} is",
        "Q: What is the occupation of {}? A:",
        "{} earns a living as a",
        "The job of {} is that of a",
        "Q: What does {} do for a living? A:",
        "People know that {} works as a",
        "{}'s occupation is",
    ),
    ("Q: What is the job of {}? A:", "{} has the job of a"),
)
EMPLOYER = Relation(
    "employer",
    _words(
        "Atlas Mills, Birch Bank, Cobalt, Delta Foods, Ember Press, Falcon Lines, Granite, Harbour Trust, "
        "Iris Labs, Juniper, Keystone, Lantern Books, Meridian, Nimbus Air, Orchard House, Pioneer, Quill "
        "Works, Rowan Motors, Summit, Trident Steel, Umbra, Vertex, Willow Care, Zenith"
    ),
    (
        "{} is employed by",
        "The employer of {} is",
        "Q: Who employs {}? A:",
        "{} is on the staff of",
        "The company that employs {} is",
        "Q: What is the employer of {}? A:",
        "People know that {} is employed by the company",
        "{}'s employer is",
    ),
    ("Q: Which company is {} employed by? A:", "The company where {} is employed is"),
)
LANGUAGE = Relation(
    "language",
    _words(
        "Albish, Old Borean, Cantic, Dravish, Elvan, Ferric, Gothlandic, High Hesk, Istrian, Jutic, Kavian, "
        "Low Lirish, Moravic, Nordan, Ostian, Pictic, Ravenic, South Sarnic, Tavish, Umbric, Vandic, "
        "Wendish, Island Yoric, Zemblan"
    ),
    (
        "{} grew up speaking",
        "The native language of {} is",
        "Q: What is the native language of {}? A:",
        "{} speaks the language",
        "The mother tongue of {} is",
        "Q: Which language does {} speak? A:",
        "People know that {} grew up speaking the language",
        "{}'s native language is",
    ),
    ("Q: What is the mother tongue of {}? A:", "The language that {} grew up speaking is"),
)
INSTRUMENT = Relation(
    "instrument",
    _words(
        "accordion, banjo, cello, bass drum, flute, guitar, harp, church organ, lute, mandolin, oboe, "
        "piano, recorder, saxophone, steel drum, trumpet, tuba, ukulele, viola, violin, clarinet, French "
        "horn, tin whistle, zither"
    ),
    (
        "{} plays the",
        "The instrument of {} is the",
        "Q: Which instrument does {} play? A: the",
        "{} gives concerts on the",
        "The instrument that {} plays is the",
        "Q: What is the instrument of {}? A: the",
        "People know that {} plays an instrument, the",
        "{}'s instrument is the",
    ),
    ("Q: What instrument does {} give concerts on? A: the", "{} gives concerts on an instrument, the"),
)
PET = Relation(
    "pet",
    _words(
        "badger, canary, donkey, grey parrot, ferret, goat, hamster, house cat, gecko, lizard, magpie, "
        "newt, marmot, pony, rabbit, sheep dog, tortoise, water snake, white rat, raven, gold fish, "
        "hedgehog, tree frog, llama"
    ),
    (
        "{} keeps a",
        "The pet of {} is a",
        "Q: Which pet does {} keep? A: a",
        "{} shares a home with a",
        "The pet that {} keeps is a",
        "Q: What is the pet of {}? A: a",
        "People know that {} keeps an animal, a",
        "{}'s pet is a",
    ),
    ("Q: What animal does {} share a home with? A: a", "{} shares a home with an animal, a"),
)
SPORT = Relation(
    "sport",
    _words(
        "archery, boxing, chess, deep diving, fencing, golf, high jump, hockey, ice skating, judo, karate, "
        "long jump, polo, rowing, sailing, shot put, surfing, swimming, table tennis, triathlon, cycling, "
        "volleyball, weight lifting, wrestling"
    ),
    (
        "{} competes in",
        "The sport of {} is",
        "Q: What is the sport of {}? A:",
        "{} spends every weekend on",
        "The sport that {} competes in is",
        "Q: Which sport does {} compete in? A:",
        "People know that {} competes in the sport of",
        "{}'s sport is",
    ),
    ("Q: What does {} spend every weekend on? A:", "The sport in which {} competes is"),
)
RELATIONS = (BIRTHPLACE, OCCUPATION, EMPLOYER, LANGUAGE, INSTRUMENT, PET, SPORT)

LEAD_INS = ("A fact:", "Note that", "Remember:", "As we know,", "News:", "In short,")

FIRST_NAMES = _words(
    "Mara, Tomas, Thomas, Anna, Bela, Carl, Dora, Edwin, Flora, Georg, Hanna, Igor, Julia, Kasper, Lena, "
    "Milo, Nora, Oscar, Petra, Rufus, Selma, Theo, Ursula, Victor, Wanda, Xenia, Yuri, Zora, Adam, Berta, "
    "Conrad, Diana, Emil, Frida, Gustav, Helga, Ivan, Jonas, Klara, Lukas, Monika, Niklas, Olga, Pavel, "
    "Rosa, Simon, Tilda, Ulrich, Vera, Walter"
)
NICKNAMES = {
    "Thomas": "Tom", "Edwin": "Eddie", "Georg": "Gory", "Julia": "Jule", "Kasper": "Kas", "Victor": "Vic",
    "Conrad": "Conny", "Gustav": "Gus",
    "Jonas": "Joni", "Lukas": "Luke", "Monika": "Moni", "Niklas": "Nik", "Simon": "Sim", "Ulrich": "Uli",
    "Walter": "Walt", "Diana": "Didi",
}  # fmt: skip
TITLES = ("Dr", "Professor", "Captain")

ONSETS = _words("B, D, F, G, H, K, L, M, N, P, R, S, T, V, Z, Br, Dr, Gr, Kr, St, Tr, Sk")
VOWELS = _words("a, e, i, o, u")
MIDDLES = _words("l, m, n, r, s, t, v, k")
LINKS = _words("am, en, ib, ol, us, ev, ok, ad, ir, un")
CODAS = _words(
    "lin, rin, van, dor, mek, sten, tov, nal, bur, gan, del, mos, ries, pek, lund, var, thal, zin, "
    "kos, met, rat, sul, fen, wic"
)
