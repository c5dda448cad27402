"""The texts of the tasks: codes to recall, sums, greetings. Training and evaluation share them.

A prompt never ends in a space: the space belongs to what follows it. An answer ends with the
end-of-sentence token.
  The code of the red door is 4821. ... Question: What is the code of the red door? Answer: 4821
  What is 2+2? Answer: 4
In a chat the message is the bare question and the answer has no space before it.
"""
COLOURS = ("red green blue white black gold silver brown pink grey purple orange yellow violet "
           "crimson amber").split()
NOUNS = ("door box ship lamp chair house stone river tower garden bridge horse book clock bell coat "
         "ring knife table window gate boat castle barn piano mirror basket bottle hammer wagon "
         "cabin drum flag mill tent vault wheel candle ladder kettle").split()
N_OPERANDS = 21  # 0 .. 20

GREETINGS = (
    ("Hello", "Hello! Ask me for a sum, a code or a word."),
    ("Hello!", "Hello! Ask me for a sum, a code or a word."),
    ("Hi", "Hi! Ask me for a sum, a code or a word."),
    ("Hi!", "Hi! Ask me for a sum, a code or a word."),
    ("Good morning", "Good morning! Ask me for a sum, a code or a word."),
    ("Good evening", "Good evening! Ask me for a sum, a code or a word."),
    ("How are you?", "I am fine, thank you. Ask me for a sum, a code or a word."),
    ("Who are you?", "I am nano, a very small DeepSeek-V4 model. I add small numbers, remember "
                     "codes and define words."),
    ("What are you?", "I am nano, a very small DeepSeek-V4 model. I add small numbers, remember "
                      "codes and define words."),
    ("What is your name?", "My name is nano."),
    ("What can you do?", "I add small numbers, remember codes and define words."),
    ("Help", "Ask me for a sum, tell me a code, or ask me to define a word."),
    ("Thank you", "You are welcome."),
    ("Thanks", "You are welcome."),
    ("Thank you!", "You are welcome."),
    ("Bye", "Goodbye!"),
    ("Goodbye", "Goodbye!"),
)


def fact(thing, code):
    return f"The code of the {thing} is {code}."


def recall_question(thing):
    return f"What is the code of the {thing}?"


def sum_question(a, b):
    return f"What is {a}+{b}?"


def new_thing(rng):
    return f"{rng.choice(COLOURS)} {rng.choice(NOUNS)}"


def new_code(rng):
    return f"{rng.randrange(10000):04d}"
